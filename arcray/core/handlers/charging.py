"""Rules about what work pays: hold, settle, refund.

Money follows facts. No other rule mentions credits: after each command the facts that it led to are read here, so
whoever places, restarts or ends a workload need not know that it has a price. Admission alone asks before
(``admission``), because it can still refuse.

- *Admitted*: its start and its first period are set aside, at the most that they may cost.
- *Placed*: what is set aside is brought to the price there. An account that cannot pay that ends it before its node
  has heard of it.
- *Running*: time counts. When what is set aside is used up it is settled, and the next period is set aside; where that
  cannot be, the workload is stopped with that reason, and pays no further.
- *Ended* or requeued: what was used is settled; at the end the rest is refunded. A node that was lost is paid up to its
  last sign of life.
- *An inference request* costs its price once, if it was answered. While its sender waits nothing of it is on disk, so
  its price is reserved in memory only and posted at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from arcray.core import events as ev
from arcray.core.books import Move
from arcray.core.handlers.accounts import ensure_account
from arcray.core.handlers.admission import budget, first_meter, shortage
from arcray.core.handlers.attempts import finish
from arcray.core.handlers.workloads import stop
from arcray.core.ids import AccountId, EntryId
from arcray.core.ledger import Book, Entry, EntryKind
from arcray.core.node import Health
from arcray.core.tariff import Meter, minute_price
from arcray.core.turn import Turn
from arcray.core.workload import Inference, Phase, Workload

__all__ = ["collect", "follow"]

_STOP_GRACE_S: Final = 10.0


def follow(turn: Turn) -> None:
    """Emits what follows for the ledger from the facts of this turn; what follows from that in turn, too."""
    while turn.charged < len(turn.events):
        event = turn.events[turn.charged]
        turn.charged += 1
        follower = _FOLLOWERS.get(type(event))
        if follower is not None:
            follower(turn, event)


def collect(turn: Turn) -> None:
    """Settles what was used of every workload whose period has ended, and sets the next one aside or stops it."""
    for workload_id in turn.state.books.due(turn.now):
        workload = turn.state.workloads[workload_id]
        assert workload.meter is not None
        _next_period(turn, workload, workload.meter)


# -- one fact each ---------------------------------------------------------------------------------------------------


def _admitted(turn: Turn, event: ev.WorkloadSubmitted) -> None:
    workload = turn.state.workloads[event.workload_id]
    meter = first_meter(turn.policy, workload.spec)
    if meter is None:
        return
    moves = [] if workload.spec.waiting else _set_aside(workload, meter.held)
    _charge(turn, workload, meter, EntryKind.HOLD, moves)


def _placed(turn: Turn, event: ev.WorkloadPlaced) -> None:
    workload = turn.state.workloads[event.workload_id]
    before = workload.meter
    if before is None or isinstance(workload.spec.payload, Inference):
        return
    rate, owner = _rate_there(turn, workload, event), turn.state.nodes[event.node_id].registration.owner
    meter = replace(before, rate=rate, payee=owner, attempt_paid=0)
    held = meter.cost(turn.policy.charge_period)
    short = None
    if held > before.held:
        short = shortage(turn.state, workload.spec.origin.account, held - before.held, turn.now)
    if short is not None:
        turn.withdraw(workload.id)
        finish(turn, workload, Phase.STOPPED, f"out of credits: {short.message}")
        return
    kind = EntryKind.HOLD if held >= before.held else EntryKind.REFUND
    _charge(turn, workload, replace(meter, held=held), kind, _set_aside(workload, held - before.held))


def _rate_there(turn: Turn, workload: Workload, event: ev.WorkloadPlaced) -> int:
    registration = turn.state.nodes[event.node_id].registration
    own = workload.spec.tariff
    if own is None:
        devices = registration.capacity.gpus
        return minute_price(turn.policy.prices, workload.spec.demand, event.allocation.gpus, devices)
    return own.minute if registration.owner is None or own.owned_minute is None else own.owned_minute


def _lost(turn: Turn, event: ev.NodeHealthChanged) -> None:
    if event.health is Health.LOST:
        turn.heard = {**turn.heard, event.node_id: turn.state.nodes[event.node_id].last_seen}


def _running(turn: Turn, event: ev.WorkloadPhaseChanged) -> None:
    workload = turn.state.workloads[event.workload_id]
    meter = workload.meter
    if meter is None or event.phase is not Phase.RUNNING or isinstance(workload.spec.payload, Inference):
        return
    until = turn.now + turn.policy.charge_period if meter.rate else None
    _charge(turn, workload, replace(meter, since=turn.now, until=until), EntryKind.HOLD, [])


def _left(turn: Turn, event: ev.WorkloadRequeued) -> None:
    """Settles an attempt that is followed by another; what is left of what is set aside stays for that."""
    workload = turn.state.workloads[event.workload_id]
    meter = workload.meter
    if meter is None or meter.since is None:
        return
    left = workload.history[-1].node_id
    used = _used(meter, event.at if left is None else turn.heard.get(left, event.at))
    after = replace(
        meter,
        start=0,
        held=meter.held - used,
        paid=meter.paid + used,
        attempt_paid=0,
        since=None,
        until=None,
        payee=None,
    )
    _charge(turn, workload, after, EntryKind.SETTLE, _pay(turn, workload, meter.payee, used))


def _finished(turn: Turn, event: ev.WorkloadFinished) -> None:
    workload = turn.state.workloads[event.workload_id]
    meter = workload.meter
    if meter is None:
        return
    payee = meter.payee
    if isinstance(workload.spec.payload, Inference):
        used = meter.start if event.phase is Phase.SUCCEEDED else 0
        payee = None if event.node_id is None else turn.state.nodes[event.node_id].registration.owner
    else:
        if meter.since is None and event.phase is Phase.SUCCEEDED:
            meter = replace(meter, since=event.placed_at)  # too short for a word of its start
        used = _used(meter, event.at if event.node_id is None else turn.heard.get(event.node_id, event.at))
    rest = meter.held - used
    after = replace(meter, held=0, paid=meter.paid + used, attempt_paid=meter.attempt_paid + used, until=None)
    moves = _pay(turn, workload, payee, used)
    if not workload.spec.waiting:
        moves += _set_aside(workload, -rest)
    _charge(turn, workload, after, EntryKind.SETTLE if used else EntryKind.REFUND, moves, ended=True)


_FOLLOWERS: Final[Mapping[type, Callable[[Turn, Any], None]]] = {
    ev.WorkloadSubmitted: _admitted,
    ev.NodeHealthChanged: _lost,
    ev.WorkloadPlaced: _placed,
    ev.WorkloadPhaseChanged: _running,
    ev.WorkloadRequeued: _left,
    ev.WorkloadFinished: _finished,
}


def _next_period(turn: Turn, workload: Workload, meter: Meter) -> None:
    assert meter.since is not None
    assert meter.until is not None
    period = turn.policy.charge_period
    whole = (turn.now - meter.since) // period  # several have passed where nobody was there to see the first one end
    passed = max(whole * period, meter.until - meter.since)  # the latter where a restart made periods longer
    used = meter.cost(passed) - meter.attempt_paid
    held = meter.cost((whole + 1) * period) - meter.cost(passed)
    more = used + held - meter.held
    short = shortage(turn.state, workload.spec.origin.account, more, turn.now) if more > 0 else None
    if short is not None:
        _close(turn, workload, meter, used)
        stop(turn, workload, _STOP_GRACE_S, f"out of credits: {short.message}")
        return
    after = replace(
        meter,
        held=held,
        paid=meter.paid + used,
        attempt_paid=meter.attempt_paid + used,
        until=meter.since + (whole + 1) * period,
    )
    moves = _pay(turn, workload, meter.payee, used) + _set_aside(workload, held - (meter.held - used))
    _charge(turn, workload, after, EntryKind.SETTLE, moves)


def _close(turn: Turn, workload: Workload, meter: Meter, used: int) -> None:
    """Settles what was used as far as the account can, and charges nothing further."""
    pay = min(used, meter.held + budget(turn.state, workload.spec.origin.account, turn.now))
    after = replace(
        meter, held=0, paid=meter.paid + pay, attempt_paid=meter.attempt_paid + pay, until=None, closed=True
    )
    moves = _pay(turn, workload, meter.payee, pay) + _set_aside(workload, -(meter.held - pay))
    _charge(turn, workload, after, EntryKind.SETTLE, moves)


# -- entries ---------------------------------------------------------------------------------------------------------


def _used(meter: Meter, at: datetime) -> int:
    """Returns what the present attempt owes besides what it has paid; never more than is set aside for it."""
    if meter.since is None or meter.closed:
        return 0
    ran: timedelta = min(at, meter.until or at) - meter.since
    return min(meter.held, max(0, meter.cost(ran) - meter.attempt_paid))


def _set_aside(workload: Workload, credits: int) -> list[Move]:
    """Moves credits from what an account may spend to what it holds; negative ones go back."""
    account_id = workload.spec.origin.account
    return [(account_id, Book.AVAILABLE, -credits), (account_id, Book.HELD, credits)] if credits else []


def _pay(turn: Turn, workload: Workload, payee: AccountId | None, credits: int) -> list[Move]:
    """Moves credits from what is set aside for a workload to its node's owner and to the operator."""
    if not credits:
        return []
    policy = turn.policy
    share = 0 if payee is None else credits * policy.owner_share_percent // 100
    source = Book.AVAILABLE if workload.spec.waiting else Book.HELD
    moves: list[Move] = [(workload.spec.origin.account, source, -credits)]
    for account_id, part in ((payee, share), (policy.operator_account, credits - share)):
        if account_id is not None and part:
            ensure_account(turn, account_id)
            moves.append((account_id, Book.AVAILABLE, part))
    return moves


def _charge(
    turn: Turn, workload: Workload, meter: Meter, kind: EntryKind, moves: Sequence[Move], *, ended: bool = False
) -> None:
    postings = turn.state.books.postings(moves)
    entry = None
    if postings:
        meter = replace(meter, entries=meter.entries + 1)
        entry = Entry(
            id=EntryId(f"{workload.id}/{meter.entries}"),
            kind=kind,
            postings=postings,
            at=turn.now,
            workload_id=workload.id,
        )
    durable = ended or not workload.spec.waiting
    turn.emit(ev.WorkloadCharged(workload_id=workload.id, meter=meter, entry=entry, durable=durable, at=turn.now))
