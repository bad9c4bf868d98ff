"""What work costs: the plain arithmetic of holds, payments and refunds, beside that of the product.

Every fact that has a price is followed, in its own transaction, by the charge that these rules predict. Two amounts
depend on what is not on disk: up to when a lost node was heard, and what requests whose senders wait have spoken for;
there the model knows the most that may be paid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from math import ceil
from typing import Any, Final, TypeAlias, assert_never

from arcray.core import events as ev
from arcray.core.ids import AccountId, WorkloadId
from arcray.core.policy import ClusterPolicy
from arcray.core.quantity import CPU_MILLI, GIB
from arcray.core.workload import Inference, WorkloadSpec
from arcray.testing.simulation.nouns.accounts import BookFacts
from arcray.testing.simulation.nouns.nodes import NodeFacts
from arcray.testing.simulation.nouns.workloads import WorkloadFacts
from arcray.testing.simulation.promise import must

__all__ = ["ChargeFacts"]

_Meter: TypeAlias = dict[str, Any]
_Priced: TypeAlias = (
    ev.WorkloadSubmitted | ev.WorkloadPlaced | ev.WorkloadPhaseChanged | ev.WorkloadRequeued | ev.WorkloadFinished
)

_FREE: Final[_Meter] = {
    "rate": 0,
    "start": 0,
    "step_s": 1,
    "held": 0,
    "paid": 0,
    "attempt_paid": 0,
    "since": None,
    "until": None,
    "payee": None,
    "entries": 0,
    "closed": False,
}


@dataclass(slots=True, kw_only=True)
class _Change:
    """What a charge changes: the meter, what is paid, and who gets the owner's part of it."""

    before: _Meter
    after: _Meter
    pays: int
    payee: str | None


class ChargeFacts:
    """What work has cost, by facts that the other nouns do not need.

    It takes facts before ``WorkloadFacts`` does, to see how things stood.
    """

    def __init__(self, policy: ClusterPolicy, nodes: NodeFacts, workloads: WorkloadFacts, books: BookFacts) -> None:
        self._policy = policy
        self._nodes = nodes
        self._workloads = workloads
        self._books = books
        self._meters: dict[WorkloadId, _Meter] = {}
        self._owed: dict[WorkloadId, list[tuple[_Priced, bool]]] = {}

    @property
    def takes(self) -> Mapping[type, Callable[[Any], None]]:
        """Returns what is done about which fact."""
        return {
            ev.WorkloadSubmitted: self._priced,
            ev.WorkloadPlaced: self._priced,
            ev.WorkloadPhaseChanged: self._priced,
            ev.WorkloadRequeued: self._priced,
            ev.WorkloadFinished: self._finished,
            ev.WorkloadCharged: self._charged,
        }

    def check(self) -> None:
        """Checks what must hold between transactions: all is charged that has a price, and set aside for live work."""
        for workload_id, owed in self._owed.items():
            for event, _ in owed:
                must(not self._costs(event), f"{type(event).__name__} of {workload_id} is not charged")
        self._owed.clear()
        held: dict[AccountId, int] = {}
        for workload_id, meter in self._meters.items():
            work = self._workloads.known[workload_id]
            ended = work["finished_at"] is not None
            must(
                not meter["closed"] or work["stop_requested"] or ended,
                f"{workload_id} is not paid for any more, and runs on",
            )
            must(not meter["held"] or not ended, f"{workload_id} has ended, and {meter['held']} are held for it")
            account = work["spec"].origin.account
            held[account] = held.get(account, 0) + meter["held"]
        for key, facts in self._books.known.items():
            must(facts["held"] == held.get(key, 0), f"{key} has {facts['held']} held, and its work {held.get(key, 0)}")

    # -- facts -----------------------------------------------------------------------------------------------------

    def _priced(self, event: _Priced) -> None:
        work = self._workloads.known.get(event.workload_id)
        node = self._nodes.known.get(work["node_id"]) if work is not None else None
        lost = node is not None and node["health"] == "lost"
        self._owed.setdefault(event.workload_id, []).append((event, lost))

    def _finished(self, event: ev.WorkloadFinished) -> None:
        owed = self._owed.get(event.workload_id, [])
        placed = next((each for each, _ in owed if isinstance(each, ev.WorkloadPlaced)), None)
        if placed is not None and event.message.startswith("out of credits"):
            # It was placed where it costs more than its account has, and its node never hears of it.
            before = self._meters[event.workload_id]
            more = self._after_placing(placed, before)["held"] - before["held"]
            self._check_short(event.workload_id, more, event.at)
            owed[:] = [each for each in owed if each[0] is not placed]
        self._priced(event)

    def _charged(self, event: ev.WorkloadCharged) -> None:
        key, owed = event.workload_id, self._owed.get(event.workload_id, [])
        while owed and not self._costs(owed[0][0]):
            owed.pop(0)
        cause, lost = owed.pop(0) if owed else (None, False)
        spec = self._workloads.known[key]["spec"]
        before = self._meters.get(key) or (self._admitted(spec) if spec.waiting else None) or _FREE
        pays = event.meter.paid - before["paid"]
        must(pays >= 0, f"{key} is paid {-pays} back")
        change = _Change(before=before, after=before, pays=pays, payee=before["payee"])
        match cause:
            case None:
                change.after = self._after_period(event, before, pays)
            case ev.WorkloadSubmitted():
                change.after = self._admitted(spec) or _FREE
            case ev.WorkloadPlaced():
                change.after = self._after_placing(cause, before)
            case ev.WorkloadPhaseChanged():
                until = cause.at + self._policy.charge_period if before["rate"] else None
                change.after = before | {"since": cause.at, "until": until}
            case ev.WorkloadRequeued():
                self._check_used(key, before, cause.at, pays, lost=lost)
                over = {"start": 0, "attempt_paid": 0, "since": None, "until": None, "payee": None}
                change.after = before | over | {"held": before["held"] - pays, "paid": before["paid"] + pays}
            case ev.WorkloadFinished():
                change.after, change.payee = self._after_end(cause, before, pays, lost=lost)
            case _:
                assert_never(cause)
        self._take(event, spec, change)

    def _take(self, event: ev.WorkloadCharged, spec: WorkloadSpec, change: _Change) -> None:
        """Checks that a meter and an entry are those that follow, and takes them."""
        key, account = event.workload_id, spec.origin.account
        held, pays = change.after["held"] - change.before["held"], change.pays
        moved = self._moves(spec, held, pays, change.payee)
        after = change.after | {"entries": change.before["entries"] + bool(moved)}
        for name, value in after.items():
            found = getattr(event.meter, name)
            must(found == value, f"the meter of {key} has {name} {found!r}, and should have {value!r}")
        self._meters[key] = after
        self._workloads.known[key]["meter"] = event.meter
        postings = () if event.entry is None else event.entry.postings
        found = {(posting.account, posting.book.value): posting.credits for posting in postings}
        must(found == moved, f"{key} moves {found}, and should move {moved}")
        if event.entry is not None:
            must(event.entry.workload_id == key, f"{event.entry.id} is paid for {event.entry.workload_id}, not {key}")
            self._books.post(event.entry)
        if account in self._books.known:
            self._books.spend(account, pays, event.at)
            if pays + held > 0 and not spec.waiting:  # the limit may be lower by now than when that was spoken for
                self._books.check_limit(account, event.at, f"{key} costs {pays + held} more")

    # -- what follows ----------------------------------------------------------------------------------------------

    def _costs(self, event: _Priced) -> bool:
        """Returns whether a charge has to follow a fact."""
        meter = self._meters.get(event.workload_id)
        match event:
            case ev.WorkloadSubmitted():
                return self._admitted(event.spec) is not None
            case ev.WorkloadPlaced():
                return meter is not None and not self._is_request(event.workload_id)
            case ev.WorkloadPhaseChanged():
                running = event.phase == "running" and not self._is_request(event.workload_id)
                return meter is not None and running
            case ev.WorkloadRequeued():
                return meter is not None and meter["since"] is not None
            case ev.WorkloadFinished():
                spec = self._workloads.known[event.workload_id]["spec"]
                return meter is not None or (spec.waiting and self._admitted(spec) is not None)
            case _:
                assert_never(event)

    def _is_request(self, workload_id: WorkloadId) -> bool:
        return isinstance(self._workloads.known[workload_id]["spec"].payload, Inference)

    def _admitted(self, spec: WorkloadSpec) -> _Meter | None:
        """Returns what is set aside for work at first; None when it costs nothing."""
        own, prices = spec.tariff, self._policy.prices
        if isinstance(spec.payload, Inference):
            price = prices.inference if own is None else own.start
            return {**_FREE, "start": price, "held": price} if price else None
        if own is not None:
            meter = {**_FREE, "rate": own.minute, "start": own.start, "step_s": own.step_s}
            costs = own.minute or own.start or own.owned_minute
        else:
            shares = [Fraction(1)] * spec.demand.gpus
            meter = {**_FREE, "rate": self._a_minute(spec, shares), "start": prices.workload}
            costs = meter["rate"] or meter["start"]
        return meter | {"held": _cost(meter, self._policy.charge_period)} if costs else None

    def _a_minute(self, spec: WorkloadSpec, gpus: Sequence[Fraction]) -> int:
        """Returns the price of a minute, by how much of each of its GPUs it has."""
        prices, demand = self._policy.prices, spec.demand
        return ceil(
            Fraction(demand.cpu_milli, CPU_MILLI) * prices.cpu_core_minute
            + Fraction(demand.memory_bytes, GIB) * prices.gib_minute
            + sum(gpus, Fraction()) * prices.gpu_minute
        )

    def _after_placing(self, event: ev.WorkloadPlaced, before: _Meter) -> _Meter:
        spec: WorkloadSpec = self._workloads.known[event.workload_id]["spec"]
        node = self._nodes.known[event.node_id]["registration"]
        own = spec.tariff
        if own is None:
            whole = {gpu.index: gpu.memory_bytes for gpu in node.capacity.gpus}
            shares = [
                Fraction(1) if share.whole else Fraction(share.memory_bytes, whole[share.index])
                for share in event.allocation.gpus
            ]
            rate = self._a_minute(spec, shares)
        else:
            rate = own.minute if node.owner is None or own.owned_minute is None else own.owned_minute
        after = before | {"rate": rate, "payee": node.owner, "attempt_paid": 0}
        return after | {"held": _cost(after, self._policy.charge_period)}

    def _after_period(self, event: ev.WorkloadCharged, before: _Meter, pays: int) -> _Meter:
        """Returns how the meter stands once what has passed is paid and the next period is set aside."""
        key = event.workload_id
        must(before["until"] is not None, f"{key} is charged, and nothing has happened that has a price")
        must(event.at >= before["until"], f"{key} is charged at {event.at}, and has paid until {before['until']}")
        period = self._policy.charge_period
        whole = (event.at - before["since"]) // period
        passed, following = _cost(before, whole * period), _cost(before, (whole + 1) * period)
        owes = passed - before["attempt_paid"]
        paid = {"paid": before["paid"] + pays, "attempt_paid": before["attempt_paid"] + pays}
        if event.meter.closed:
            must(pays <= owes, f"{key} pays {pays}, and owes {owes}")
            self._check_short(key, following - before["attempt_paid"] - before["held"], event.at)
            return before | paid | {"held": 0, "until": None, "closed": True}
        must(pays == owes, f"{key} pays {pays} for its periods, and owes {owes}")
        return before | paid | {"held": following - passed, "until": before["since"] + (whole + 1) * period}

    def _after_end(
        self, event: ev.WorkloadFinished, before: _Meter, pays: int, *, lost: bool
    ) -> tuple[_Meter, str | None]:
        """Returns the meter of work that has ended, and who is paid."""
        key, payee = event.workload_id, before["payee"]
        if self._is_request(key):
            owes = before["start"] if event.phase == "succeeded" else 0
            must(pays == owes, f"request {key} pays {pays}, and owes {owes}")
            node = self._nodes.known.get(event.node_id) if event.node_id is not None else None
            payee = node["registration"].owner if node is not None else None
        else:
            if before["since"] is None and event.phase == "succeeded":
                before = before | {"since": event.placed_at}  # too short for a word of its start
            self._check_used(key, before, event.at, pays, lost=lost)
        paid = {"paid": before["paid"] + pays, "attempt_paid": before["attempt_paid"] + pays}
        return before | paid | {"held": 0, "until": None}, payee

    def _check_used(self, key: WorkloadId, before: _Meter, at: datetime, pays: int, *, lost: bool) -> None:
        """Checks that an attempt pays for the time that it ran, as far as that was set aside."""
        owes = 0
        if before["since"] is not None and not before["closed"]:
            cost = _cost(before, min(at, before["until"] or at) - before["since"])
            owes = min(before["held"], max(0, cost - before["attempt_paid"]))
        must(pays <= owes, f"{key} pays {pays}, and owes {owes}")
        must(lost or pays == owes, f"{key} pays {pays} of {owes}, and its node was there")

    def _check_short(self, key: WorkloadId, more: int, at: datetime) -> None:
        """Checks that an account could not go on paying, where nothing can be spoken for by requests."""
        account = self._workloads.known[key]["spec"].origin.account
        left = self._books.left(account, at)
        must(
            more > left or self._policy.prices.inference,
            f"{key} ends for want of {more} credits, and {account} has {left}",
        )

    def _moves(self, spec: WorkloadSpec, held: int, pays: int, payee: str | None) -> dict[tuple[str, str], int]:
        """Returns by account and book what moves when so much more is held and so much is paid."""
        payer, operator = spec.origin.account, self._policy.operator_account
        share = pays * self._policy.owner_share_percent // 100 if payee is not None else 0
        moves: dict[tuple[str, str], int] = {}
        for key, credits in (
            ((payer, "available"), -pays if spec.waiting else -pays - held),
            ((payer, "held"), 0 if spec.waiting else held),
            ((payee or "", "available"), share),
            ((operator, "available"), pays - share),
        ):
            moves[key] = moves.get(key, 0) + credits
        return {key: credits for key, credits in moves.items() if credits}


def _cost(meter: Mapping[str, Any], ran: timedelta) -> int:
    """Returns what an attempt costs that ran so long: each step that has begun, and a whole credit for its part."""
    steps = ceil(Fraction(ran // timedelta(microseconds=1), meter["step_s"] * 1_000_000))
    return int(meter["start"]) + ceil(Fraction(meter["rate"] * max(0, steps) * meter["step_s"], 60))
