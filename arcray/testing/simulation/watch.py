"""The watch: compares everything that leaves the scheduler with the plain model, at the moment at which it leaves.

The first promise that is broken is kept; the simulation ends at its next step. Nothing is raised into the product.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final

from arcray.control.plane import Plane
from arcray.control.rows import subject
from arcray.core import commands as cmd
from arcray.core import events as ev
from arcray.core import queries as q
from arcray.core.cluster import Cluster
from arcray.core.errors import ArcrayError, Code
from arcray.core.events import Event
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.orders import Order, RunInference, StartWorkload
from arcray.core.policy import ClusterPolicy
from arcray.core.ports import EventBatch
from arcray.testing.simulation.model import PlainModel
from arcray.testing.simulation.promise import PromiseBrokenError, must
from arcray.testing.simulation.rows import RowReader
from arcray.testing.simulation.statements import Asked, check_answer, check_reply
from arcray.testing.simulation.trace import Trace
from arcray.testing.simulation.wakeups import overlooked

__all__ = ["Watch"]

_LOGGERS: Final = ("arcray.control.loops",)
_AT_LAST: Final = timedelta(seconds=3)  # by when what is due is done, once the scheduler can
_MONEY: Final = (ev.AccountOpened, ev.LoginSet, ev.SpendingLimitSet, ev.CreditsMoved, ev.WorkloadCharged)

Key = tuple[object, ...]


class _Faults(logging.Handler):
    """Hears of exceptions that the product contained: each is our own fault."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(logging.ERROR)
        self._watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._watch.broken(f"the product failed by its own fault: {record.getMessage()}: {error!r}")


class Watch:
    """What was promised, and whether it was kept.

    Args:
        awaited: requests whose senders wait, of which nothing is on disk before they end.

    Attributes:
        model: the plain model of what is on disk.
        failure: the first promise that was broken; "" while all are kept.
        facts: how many durable facts there were.
        runs_on: tells of an attempt on which machine it runs now, and under which epoch that is attached.
    """

    def __init__(self, rows: RowReader, trace: Trace, *, awaited: frozenset[WorkloadId], policy: ClusterPolicy) -> None:
        self.model = PlainModel(policy)
        self.failure = ""
        self.runs_on: Callable[[WorkloadId, int], tuple[NodeId, int] | None] = lambda *_: None
        self._rows = rows
        self._trace = trace
        self._history: list[Key] = []
        self._readers: dict[int, tuple[int, bool]] = {}
        self._awaited = awaited
        self._overdue: dict[WorkloadId, datetime] = {}
        self._rested = 0  # how many facts there were when a cluster at rest was looked at
        self._handler = _Faults(self)

    @property
    def facts(self) -> int:
        """Returns how many durable facts there were."""
        return len(self._history)

    @contextmanager
    def listening(self) -> Generator[None]:
        """Hears of faults that are only logged, within the block."""
        product, *faults = (logging.getLogger(name) for name in ("arcray", *_LOGGERS))
        before, product.propagate = product.propagate, False  # its warnings are about faults that we make
        silent = logging.NullHandler()
        product.addHandler(silent)
        for logger in faults:
            logger.addHandler(self._handler)
        try:
            yield
        finally:
            product.propagate = before
            product.removeHandler(silent)
            for logger in faults:
                logger.removeHandler(self._handler)

    def broken(self, promise: str) -> None:
        """A promise is broken."""
        if not self.failure:
            self.failure = promise
            self._trace.say("BROKEN", promise)

    # -- what leaves the scheduler ---------------------------------------------------------------------------------

    def committed(self) -> None:
        """A transaction is on disk: its facts are taken, and the rows of what they are about compared."""
        with self._checking():
            events = self._rows.new_events()
            if not events:
                return
            for event in events:
                self._history.append(_key(event))
                self._trace.say("disk", f"has {_words(event)}")
            held = {key for key, work in self.model.workloads.known.items() if work["allocation"] is not None}
            self.model.take(events)
            for event in events:
                if isinstance(event, ev.WorkloadRequeued | ev.WorkloadFinished) and event.workload_id in held:
                    self._check_over(event.workload_id, event.attempt)
            for workload_id in dict.fromkeys(getattr(event, "workload_id", None) for event in events):
                if workload_id is not None:
                    row = self._rows.workload(workload_id)
                    must(row is not None, f"{workload_id} has facts and no row")
                    if row is not None:
                        self.model.workloads.compare(row, "its row")
            if any(isinstance(event, _MONEY) for event in events):
                self.model.compare_books(self._rows)

    def recovered(self, plane: Plane) -> None:
        """A process has read the rows and takes commands from now on."""
        self._readers[id(plane)] = (len(self._history), True)  # a reader gets what is applied after it came
        with self._checking():
            self._compare_rows()
            self.compare_memory(plane)

    def died(self, plane: Plane) -> None:
        """A process is no more."""
        self._overdue.clear()
        self._readers.pop(id(plane), None)

    def replied(self, command: cmd.Command, reply: object) -> None:
        """A process has answered a command."""
        with self._checking():
            if isinstance(reply, ArcrayError):
                must(reply.code is not Code.INTERNAL, f"{type(command).__name__} is answered with our own fault")
                return
            check_reply(self.model, command, reply, awaited=self._awaited)

    def ordered(self, node_id: NodeId, orders: Sequence[Order]) -> None:
        """A process hands orders out."""
        with self._checking():
            for order in orders:
                self._trace.say(
                    "orders", f"{_short(node_id)} {type(order).__name__} {_short(order.workload_id)} #{order.attempt}"
                )
                work = self.model.workloads.known.get(order.workload_id)
                if isinstance(order, StartWorkload):
                    must(work is not None, f"{order.workload_id} is ordered before it is on disk")
                if work is not None and not work["spec"].waiting and isinstance(order, StartWorkload | RunInference):
                    must(
                        order.attempt <= work["attempt"], f"{order.workload_id} is ordered before its place is on disk"
                    )

    def published(self, plane: Plane, batch: EventBatch) -> None:
        """A process tells its readers."""
        if id(plane) not in self._readers:
            return
        position, missed = self._readers[id(plane)]
        missed = missed or batch.gap
        with self._checking():
            for event in batch.events:
                if event.durable:
                    position = self._find(event, position, missed=missed) + 1
                    missed = False
        self._readers[id(plane)] = (position, missed)

    def asking(self) -> Asked:
        """Returns what is on disk when a query is asked; its answer must not be older."""
        return {key: (work["phase"], work["attempt"]) for key, work in self.model.workloads.known.items()}

    def answered(self, query: q.Query, answer: object, asked: Asked) -> None:
        """A process has answered a query."""
        with self._checking():
            check_answer(self.model, query, answer, asked)

    # -- memory ----------------------------------------------------------------------------------------------------

    def compare_memory(self, plane: Plane) -> None:
        """Checks memory: sound at any time, and what the facts say when all of it is on disk."""
        writer = plane._writer  # noqa: SLF001 - this is what it is about
        with self._checking():
            if not writer.readable.is_set() or writer.ended is not None:
                return
            state = writer.cluster.state
            try:
                state.check_invariants()
            except AssertionError as error:
                raise PromiseBrokenError(f"memory is unsound: {error}") from error
            if writer.commits.tail is None and writer.rebuilt:
                self.model.compare_memory(state)
            if writer.refusal is None:
                self._check_claims(writer.cluster)
                self._check_rest(writer.cluster)
            else:
                self._overdue.clear()  # it may not decide anything

    def _compare_rows(self) -> None:
        self.model.compare_rows(self._rows)

    def settled(self) -> None:
        """Everything has come to rest."""
        with self._checking():
            self._compare_rows()

    def _check_claims(self, cluster: Cluster) -> None:
        """Checks that no place is kept for longer than it may be, however long its victims take to end."""
        over = [
            workload.id
            for workload in cluster.state.workloads.values()
            if workload.claim is not None and workload.claim.until is not None and workload.claim.until <= cluster.now
        ]
        self._overdue = {workload_id: self._overdue.get(workload_id, cluster.now) for workload_id in over}
        for workload_id, since in self._overdue.items():
            must(cluster.now - since < _AT_LAST, f"the place that is kept for {workload_id} should be given up")

    def _check_rest(self, cluster: Cluster) -> None:
        """Checks, once after each change, that a cluster at rest has nothing to do."""
        if self._rested != self.facts and not cluster.needs_round:
            self._rested = self.facts
            missed = overlooked(cluster)
            must(not missed, missed)

    def _check_over(self, workload_id: WorkloadId, attempt: int) -> None:
        """Checks that what was given up does not run on, on a machine that the cluster believes to know."""
        where = self.runs_on(workload_id, attempt)
        if where is not None:
            node = self.model.nodes.known[where[0]]
            known = node["health"] == "healthy" and node["epoch"] == where[1]
            must(not known, f"attempt {attempt} of {workload_id} is over for the cluster and runs on {where[0]}")

    def _find(self, event: Event, position: int, *, missed: bool) -> int:
        key = _key(event)
        try:
            found = self._history.index(key, position)
        except ValueError:
            when = "before it is on disk, twice or out of order"
            raise PromiseBrokenError(f"{_words(event)} is published {when}") from None
        must(found == position or missed, f"{_words(event)} is published, and what was before it is not")
        return found

    @contextmanager
    def _checking(self) -> Generator[None]:
        try:
            yield
        except PromiseBrokenError as error:
            self.broken(str(error))


def _key(event: Event) -> Key:
    match event:
        case ev.NodeAttached():
            return "NodeAttached", event.registration.id, event.at, event.epoch
        case _:
            more = (getattr(event, "attempt", None), getattr(event, "phase", None), getattr(event, "cordoned", None))
            return type(event).__name__, subject(event), event.at, *more


def _words(event: Event) -> str:
    more = [
        str(value)
        for name in ("attempt", "node_id", "phase", "health", "epoch", "cordoned", "message", "reason")
        if (value := getattr(event, name, None)) not in (None, "")
    ]
    return f"{type(event).__name__} {_short(subject(event))} {' '.join(more)}".rstrip()


def _short(identity: str) -> str:
    return identity[-4:] if len(identity) == 36 else identity  # a UUID; ours count up in the last digits
