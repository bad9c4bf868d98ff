"""Bugs, one of each kind, in parts of the product that take the place of the right ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from arcray.control.batch import Batch
from arcray.control.event_log import EventLog, Tagged
from arcray.control.journal import Journal, Live, Records
from arcray.control.plane import Plane
from arcray.control.steady import SteadyClock
from arcray.core import commands as cmd
from arcray.core import events as ev
from arcray.core.books import Books
from arcray.core.claim import Claim
from arcray.core.cluster import Cluster
from arcray.core.errors import ArcrayError, UnavailableError
from arcray.core.events import Event
from arcray.core.gang_queue import GangQueue, GangState
from arcray.core.handlers import accounts, inference, nodes, reservations, scheduling, workloads
from arcray.core.handlers.attempts import finish
from arcray.core.holds import Claims, Reservations
from arcray.core.ids import AccountId, NodeId, WorkloadId
from arcray.core.ledger import Entry
from arcray.core.orders import NodeOrder, Order
from arcray.core.placement.engine import Engine
from arcray.core.placement.preemption import Preemption, Reclaimable, Victim
from arcray.core.placement.request import PlacementRequest
from arcray.core.policy import ClusterPolicy
from arcray.core.repeats import entry_key
from arcray.core.reservation import Reservation, ReservationState
from arcray.core.resources import Allocation
from arcray.core.state import ClusterState
from arcray.core.tariff import Meter
from arcray.core.turn import Turn
from arcray.core.workload import Inference, Phase, Priority, Workload, WorkloadSpec
from arcray.node.agent import NodeAgent
from arcray.node.seen import SeenAttempts
from arcray.testing.simulation.build import Build

__all__ = ["PLANTED"]


def rules(name: str, state: type[ClusterState] = ClusterState, **handlers: Any) -> type[Cluster]:
    """Returns rules with another state, or with other handlers by the name of their command."""
    table = {**Cluster.handlers, **{getattr(cmd, command): handler for command, handler in handlers.items()}}

    class Planted(Cluster):
        def __init__(self, policy: ClusterPolicy, now: datetime) -> None:
            super().__init__(policy, now)
            self.state = state(policy, now)

    Planted.handlers = table
    Planted.__name__ = name
    return Planted


# -- what facts do -----------------------------------------------------------------------------------------------------


class ForgetsToFree(ClusterState):
    """The allocation of work that failed stays booked."""

    def apply(self, event: Event) -> None:
        if isinstance(event, ev.WorkloadFinished) and event.phase is Phase.FAILED:
            workload = self.workloads[event.workload_id]
            if workload.allocation is not None and not isinstance(workload.spec.payload, Inference):
                self.placement.allocate(str(workload.node_id), workload.allocation)  # type: ignore[arg-type]  # an id
        super().apply(event)


class BooksNothing(ClusterState):
    """What is placed does not count, so the same share is given away again."""

    def apply(self, event: Event) -> None:
        super().apply(event)
        if isinstance(event, ev.WorkloadPlaced) and event.allocation.gpus:
            self.placement.release(event.node_id, event.allocation)

    def check_invariants(self) -> None:
        """Says nothing: it is the machines that must notice."""


class CountsARestartTwice(ClusterState):
    """A restart counts double."""

    def apply(self, event: Event) -> None:
        super().apply(event)
        if isinstance(event, ev.WorkloadRequeued):
            self.workloads[event.workload_id].restarts += event.restart


class EndsTwice(ClusterState):
    """An end after the end is taken."""

    def apply(self, event: Event) -> None:
        if isinstance(event, ev.WorkloadFinished):
            workload = self.workloads[event.workload_id]
            if workload.phase.terminal:
                workload.phase, workload.message, workload.result = event.phase, event.message, event.result
                return
        super().apply(event)


class PlacesOnCordonedNodes(ClusterState):
    """A cordon changes nothing but the view."""

    def apply(self, event: Event) -> None:
        if isinstance(event, ev.NodeSchedulingChanged):
            self.nodes[event.node_id].cordoned = event.cordoned
            return
        super().apply(event)


# -- what commands do --------------------------------------------------------------------------------------------------


def takes_any_attempt(turn: Turn, command: cmd.ReportEnd) -> None:
    """The end of an older attempt is taken for that of the present one."""
    workload = turn.state.workloads.get(command.workload_id)
    if workload is not None and workload.node_id == command.node_id:
        command = replace(command, attempt=workload.attempt)
    workloads.on_report_end(turn, command)


def takes_every_end(turn: Turn, command: cmd.ReportEnd) -> None:
    """An end is taken again when it is told again."""
    workload = turn.state.workloads.get(command.workload_id)
    if workload is not None and workload.phase.terminal and workload.attempt == command.attempt:
        finish(turn, workload, command.phase, "told again", command.result)
        return
    workloads.on_report_end(turn, command)


def forgets_the_key(turn: Turn, command: cmd.SubmitWorkload) -> cmd.Submitted | None:
    """An idempotency key that was used is not looked at."""
    spec = command.spec
    turn.state.requests.pop((AccountId(spec.origin.account), spec.request_id), None)
    return workloads.on_submit_workload(turn, command)


def never_releases(turn: Turn, command: cmd.Tick) -> None:
    """Work in back-off stays there."""
    _ = command
    nodes.expire_leases(turn)
    inference.expire_inference(turn)


def frees_at_once(turn: Turn, command: cmd.StopWorkload) -> None:
    """A stop is the end, though the node has not said so."""
    workload = turn.state.workloads.get(command.workload_id)
    workloads.on_stop_workload(turn, command)
    if workload is not None and workload.phase is Phase.STOPPING:
        finish(turn, workload, Phase.STOPPED, "stopped on request")


class TellsNobodyAgain(Cluster):
    """After a restart no node is told what it may not have heard."""

    def undelivered(self) -> tuple[NodeOrder, ...]:
        return ()


# -- what is reserved --------------------------------------------------------------------------------------------------


class _NoBooks:
    """Takes down nothing."""

    def allocate(self, node_id: NodeId, allocation: Allocation) -> None:
        """Holds nothing."""

    def release(self, node_id: NodeId, allocation: Allocation) -> None:
        """Frees nothing."""


class GivesReservedAway(ClusterState):
    """What is reserved is given to whoever comes first."""

    def __init__(self, policy: ClusterPolicy, started_at: datetime) -> None:
        super().__init__(policy, started_at)
        self.reservations = Reservations(_NoBooks())  # type: ignore[arg-type]  # what they use of an engine

    def check_invariants(self) -> None:
        """Says nothing: it is the plain sums that must notice."""


def reserves_for_ever(turn: Turn, command: cmd.Tick) -> None:
    """A reservation whose time is over goes on."""
    list(turn.state.reservations.expired(turn.now))  # taken out, and not ended
    Cluster.handlers[cmd.Tick](turn, command)


def reserves_again(turn: Turn, command: cmd.Reserve) -> Reservation:
    """A reservation that has ended is granted anew to whoever asks again."""
    known = turn.state.reservations.get(command.reservation_id)
    if known is not None and known.state is not ReservationState.ACTIVE:
        del turn.state.reservations._known[known.id]
    return reservations.on_reserve(turn, command)


class KeepsReservationsOfLostNodes(ClusterState):
    """A reservation goes on with half of its nodes."""

    def apply(self, event: Event) -> None:
        super().apply(event)
        if isinstance(event, ev.NodeHealthChanged | ev.NodeDetached):
            self.reservations._on_node.pop(event.node_id, None)

    def check_invariants(self) -> None:
        """Says nothing: it is the facts that must notice."""


# -- what is preempted, and what starts together -----------------------------------------------------------------------


class _TakesWhatIsAsUrgent(Reclaimable):
    def any_below(self, priority: int) -> bool:
        return super().any_below(priority - 1)

    def choose(self, engine: Engine, request: PlacementRequest, priority: int, now_s: float) -> Preemption | None:
        return super().choose(engine, request, priority - 1, now_s)


class PreemptsWhatIsAsUrgent(ClusterState):
    """Work is ended for work of the same priority."""

    def __init__(self, policy: ClusterPolicy, started_at: datetime) -> None:
        super().__init__(policy, started_at)
        self.reclaimable = _TakesWhatIsAsUrgent([Priority.NORMAL, Priority.BACKGROUND])


class PreemptsAnything(ClusterState):
    """Work is ended for other work that never allowed it."""

    def apply(self, event: Event) -> None:
        super().apply(event)
        if not isinstance(event, ev.WorkloadPlaced):
            return
        workload = self.workloads[event.workload_id]
        spec = workload.spec
        if isinstance(spec.payload, Inference) or spec.preemptible or spec.priority is Priority.CRITICAL:
            return
        victim = Victim(id=spec.id, priority=spec.priority, allocation=event.allocation, since_s=event.at.timestamp())
        self.reclaimable.add(self.placement.slot(event.node_id), victim)


class _GivesUpAtOnce(Claims):
    def add(self, workload_id: WorkloadId, claim: Claim, held: Mapping[WorkloadId, Allocation]) -> None:
        _ = held
        super().add(workload_id, claim, {})


class KeepsNoPlace(ClusterState):
    """The place that work is ended for is given up before that has ended."""

    def __init__(self, policy: ClusterPolicy, started_at: datetime) -> None:
        super().__init__(policy, started_at)
        self.claims = _GivesUpAtOnce(_NoBooks())  # type: ignore[arg-type]  # as for reservations


class _KeepsForEver(Claims):
    def next_due(self) -> datetime | None:
        return None

    def overdue(self, now: datetime) -> Iterator[WorkloadId]:
        _ = now
        return iter(())


class KeepsPlacesForEver(ClusterState):
    """The place that is kept for a preemptor is kept however long its victims take to end."""

    def __init__(self, policy: ClusterPolicy, started_at: datetime) -> None:
        super().__init__(policy, started_at)
        self.claims = _KeepsForEver(self.placement)


def starts_in_part(turn: Turn, command: cmd.Schedule) -> None:
    """Of a gang that does not fit, those members are started that do."""
    scheduling.on_schedule(turn, command)
    for gang in list(turn.state.gangs):
        for workload_id in list(gang.members) if gang.ready else ():
            scheduling.try_place(turn, turn.state.workloads[workload_id])


class _GoesOn(GangQueue):
    def leave(self, spec: WorkloadSpec, phase: Phase, reason: str) -> None:
        super().leave(spec, phase, reason)
        self.broken.clear()


class GoesOnWithoutAMember(ClusterState):
    """What is left of a gang goes on when a member has failed."""

    def __init__(self, policy: ClusterPolicy, started_at: datetime) -> None:
        super().__init__(policy, started_at)
        self.gangs = _GoesOn()


class _WaitsForEver(GangQueue):
    def next_due(self) -> datetime | None:
        return None

    def overdue(self, now: datetime) -> Iterator[GangState]:
        _ = now
        return iter(())


class WaitsForEver(ClusterState):
    """A gang whose last member never comes is never given up."""

    def __init__(self, policy: ClusterPolicy, started_at: datetime) -> None:
        super().__init__(policy, started_at)
        self.gangs = _WaitsForEver()


class LosesAWakeUp(ClusterState):
    """Nobody looks at what waits when other work ends."""

    def apply(self, event: Event) -> None:
        asked = self.needs_round
        super().apply(event)
        if isinstance(event, ev.WorkloadFinished | ev.WorkloadRequeued):
            self.needs_round = asked


# -- what is paid ------------------------------------------------------------------------------------------------------


class _KeepsTheRest(Books):
    def charge(self, workload: Workload, meter: Meter, entry: Entry | None, at: datetime) -> None:
        rest = 0 if workload.meter is None else workload.meter.held - (meter.paid - workload.meter.paid)
        super().charge(workload, meter, entry, at)
        if workload.phase.terminal and not workload.spec.waiting:
            self.accounts[workload.spec.origin.account].available -= rest


class KeepsTheRest(ClusterState):
    """What was set aside for work that has ended, and not used, is not given back."""

    def __init__(self, policy: ClusterPolicy, started_at: datetime) -> None:
        super().__init__(policy, started_at)
        self.books = _KeepsTheRest()

    def check_invariants(self) -> None:
        """Says nothing: it is the plain sums that must notice."""


def takes_over(turn: Turn, command: cmd.OpenLogin) -> cmd.Reply:
    """Whoever asks for an account has it."""
    if command.account_id in turn.state.books.accounts:
        turn.emit(ev.LoginSet(account_id=command.account_id, secret=command.secret, at=turn.now))
        return None
    return accounts.on_open_login(turn, command)


def pays_again(turn: Turn, command: cmd.TransferCredits) -> cmd.Posted:
    """A transfer that comes again under its key is another one."""
    turn.state.books.requests.pop(entry_key(command), None)
    return accounts.on_transfer_credits(turn, command)


def looks_at_no_limit(turn: Turn, command: cmd.SubmitWorkload) -> cmd.Submitted | None:
    """Work is admitted beyond what its account may spend in a period."""
    account = turn.state.books.accounts.get(command.spec.origin.account)
    if account is None:
        return workloads.on_submit_workload(turn, command)
    limit, account.limit = account.limit, None
    try:
        return workloads.on_submit_workload(turn, command)
    finally:
        account.limit = limit


class KeepsRevokedKeys(ClusterState):
    """A key that was revoked is as good as before."""

    def apply(self, event: Event) -> None:
        if not isinstance(event, ev.KeyRevoked):
            super().apply(event)


class PaysTheOperator(Cluster):
    """Whoever owns a node gets nothing of what its work pays."""

    def __init__(self, policy: ClusterPolicy, now: datetime) -> None:
        super().__init__(replace(policy, owner_share_percent=0), now)


class RoundsPeriods(Cluster):
    """Work is settled by another period than is said."""

    def __init__(self, policy: ClusterPolicy, now: datetime) -> None:
        super().__init__(replace(policy, charge_period=2 * policy.charge_period), now)


class LosesAPosting(Journal):
    """What was paid for work is in the books and not in the statements."""

    async def append(self, records: Records) -> None:
        await super().append(replace(records, postings=records.postings[:-1]))


# -- what is written, and when -----------------------------------------------------------------------------------------


class LosesAFact(Journal):
    """A phase is in the row and not among the events."""

    async def append(self, records: Records) -> None:
        kept = [event for event in records.events if event["kind"] != "WorkloadPhaseChanged"]
        await super().append(replace(records, events=kept))


class LosesARow(Journal):
    """A stop is among the events and not in the row."""

    async def append(self, records: Records) -> None:
        kept = [row for row in records.workloads if row["phase"] != "stopping"]
        await super().append(replace(records, workloads=kept))


class SaysYesTooSoon(Journal):
    """A commit is said to have succeeded before it was tried."""

    async def append(self, records: Records) -> None:
        self._late = asyncio.ensure_future(asyncio.gather(super().append(records), return_exceptions=True))


class SaysYesToFailures(Journal):
    """A commit that failed is said to have succeeded."""

    async def append(self, records: Records) -> None:
        try:
            await super().append(records)
        except UnavailableError:
            return


class SkipsARow(Journal):
    """One live workload is not read back."""

    async def load(self, *, keep_finished: int, keep_finished_inference: int, keep_reservations: int = 1_000) -> Live:
        live = await super().load(
            keep_finished=keep_finished,
            keep_finished_inference=keep_finished_inference,
            keep_reservations=keep_reservations,
        )
        unfinished = [workload for workload in live.workloads if not workload.phase.terminal]
        return replace(live, workloads=[workload for workload in live.workloads if workload not in unfinished[:1]])


class FindsNothingOld(Journal):
    """What memory has let go of is not found."""

    async def workload(self, workload_id: WorkloadId) -> Workload | None:
        _ = workload_id
        return None


class _Backwards(EventLog):
    def publish(self, events: Iterable[Tagged]) -> None:
        super().publish(list(events)[::-1])


class PublishesBackwards(Plane):
    """What belongs to one transaction is published from its end."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._log = self._writer._events = _Backwards(1024)


class PublishesTooSoon(Plane):
    """What happened is published when it is decided."""

    def begin(self, commands: Sequence[cmd.Command]) -> list[asyncio.Future[object]]:
        replies = super().begin(commands)
        batch: Batch = self._writer.commits.open
        self._log.publish(batch.published)
        batch.published.clear()
        return replies


class AnswersTooSoon(Plane):
    """A reply does not wait for its commit."""

    def begin(self, commands: Sequence[cmd.Command]) -> list[asyncio.Future[object]]:
        replies = super().begin(commands)
        for reply, value in self._writer.commits.open.replies:
            if not reply.done() and not isinstance(value, ArcrayError):
                reply.set_result(value)
        return replies


class OrdersTooSoon(Plane):
    """An order does not wait for its commit."""

    def begin(self, commands: Sequence[cmd.Command]) -> list[asyncio.Future[object]]:
        replies = super().begin(commands)
        batch = self._writer.commits.open
        for order in batch.orders:
            self._dispatch.put(order)
        batch.orders.clear()
        return replies


class _AsItIsSet(SteadyClock):
    def now(self) -> datetime:
        return self._clock.now()


class GoesByASetClock(Plane):
    """What is due waits for a clock that was set back."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._clock = self._writer._clock = _AsItIsSet(parts["clock"])


# -- what nodes do -----------------------------------------------------------------------------------------------------


class _SeesNothing(SeenAttempts):
    def note(self, order: Order) -> bool:
        super().note(order)
        return True


class RunsTwice(NodeAgent):
    """An attempt that was seen runs again when its order comes again."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._seen = _SeesNothing()


class BeginsAtOnce(NodeAgent):
    """Work begins beside what the cluster gave up."""

    async def _execute(self, attempt: Any, runner: Any, leaving: Sequence[asyncio.Task[None]]) -> None:
        _ = leaving
        await super()._execute(attempt, runner, ())


PLANTED: dict[str, Build] = {
    "an allocation is not freed": Build(rules=rules("Leaky", ForgetsToFree)),
    "a GPU is given away twice": Build(rules=rules("Double", BooksNothing)),
    "a restart counts twice": Build(rules=rules("Twice", CountsARestartTwice)),
    "an end after the end": Build(rules=rules("Ends", EndsTwice, ReportEnd=takes_every_end)),
    "work on a cordoned node": Build(rules=rules("Cordons", PlacesOnCordonedNodes)),
    "the result of an older attempt": Build(rules=rules("Stale", ReportEnd=takes_any_attempt)),
    "a key is good for two": Build(rules=rules("Keys", SubmitWorkload=forgets_the_key)),
    "a back-off without end": Build(rules=rules("Waits", Tick=never_releases)),
    "a stop frees what still runs": Build(rules=rules("Frees", StopWorkload=frees_at_once)),
    "what is reserved is given away": Build(rules=rules("Given", GivesReservedAway)),
    "a reservation without end": Build(rules=rules("Reserves", Tick=reserves_for_ever)),
    "a reservation is granted twice": Build(rules=rules("Again", Reserve=reserves_again)),
    "a reservation outlives its nodes": Build(rules=rules("Halves", KeepsReservationsOfLostNodes)),
    "work of one priority is preempted for the same": Build(rules=rules("Urgent", PreemptsWhatIsAsUrgent)),
    "work is preempted that does not allow it": Build(rules=rules("Anything", PreemptsAnything)),
    "no place is kept for a preemptor": Build(rules=rules("NoPlace", KeepsNoPlace)),
    "a claim without end": Build(rules=rules("Claims", KeepsPlacesForEver)),
    "a gang starts in part": Build(rules=rules("Part", Schedule=starts_in_part)),
    "a gang goes on without a member": Build(rules=rules("GoesOn", GoesOnWithoutAMember)),
    "a wake-up is lost": Build(rules=rules("Loses", LosesAWakeUp)),
    "a gang waits for ever": Build(rules=rules("Forever", WaitsForEver)),
    "what was set aside is kept": Build(rules=rules("Keeps", KeepsTheRest)),
    "a transfer is paid twice": Build(rules=rules("Pays", TransferCredits=pays_again)),
    "a login takes an account over": Build(rules=rules("TakesOver", OpenLogin=takes_over)),
    "a limit is not looked at": Build(rules=rules("Limits", SubmitWorkload=looks_at_no_limit)),
    "a revoked key is good": Build(rules=rules("Revoked", KeepsRevokedKeys)),
    "the owner of a node is not paid": Build(rules=PaysTheOperator),
    "another period is charged": Build(rules=RoundsPeriods),
    "a posting is lost": Build(journal=LosesAPosting),
    "an order is lost by a crash": Build(rules=TellsNobodyAgain),
    "a fact is lost": Build(journal=LosesAFact),
    "a row is lost": Build(journal=LosesARow),
    "a commit is said before it is": Build(journal=SaysYesTooSoon),
    "a failed commit is a success": Build(journal=SaysYesToFailures),
    "recovery skips a row": Build(journal=SkipsARow),
    "old work cannot be found": Build(journal=FindsNothingOld),
    "published out of order": Build(plane=PublishesBackwards),
    "published before the commit": Build(plane=PublishesTooSoon),
    "answered before the commit": Build(plane=AnswersTooSoon),
    "ordered before the commit": Build(plane=OrdersTooSoon),
    "time goes back with the clock": Build(plane=GoesByASetClock),
    "an attempt runs twice": Build(agent=RunsTwice),
    "work beside what was given up": Build(agent=BeginsAtOnce),
}
"""By what goes wrong."""
