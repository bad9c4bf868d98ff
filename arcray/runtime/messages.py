"""What a client and the scheduler say to each other over a line. One frame is one of the two values here.

A *client* is a process that holds a ``RemotePlane``: a gateway replica or a node actor. Frames are made by
``drivers.frames`` and carried in order by ``line``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Final, TypeAlias, assert_never

from arcray.core.commands import Command, ReportEnd, SubmitWorkload
from arcray.core.errors import ArcrayError
from arcray.core.events import Topic
from arcray.core.ids import NodeId
from arcray.core.orders import Order
from arcray.core.ports import EventBatch
from arcray.core.queries import Query
from arcray.core.workload import Container, Inference, ModelServer, Payload, Program, WorkloadSpec, WorkloadView
from arcray.drivers.frames import filler

__all__ = [
    "CHUNK",
    "FRAME",
    "FRAME_BYTES",
    "REPEATABLE",
    "BlobCall",
    "FromClient",
    "FromScheduler",
    "Streams",
    "weight_of",
    "with_spec",
    "without_spec",
]

CHUNK: Final = 32
"""Asks or replies that are sent before the present turn of the event loop ends, so that the other side can begin.

Without it every process waits for the whole crowd to arrive; where it is small, each wakes the others too often. With
64 requests in flight on two cores three series of 8 to 10 alternating rounds had medians of 0.50, 0.43 and 0.51 of a
no-op with 32, and of 0.44, 0.37 and 0.47 with 16; 64 had 0.45 in two of them, 8 had 0.39 in one.
"""

FRAME: Final = 256
"""Asks or replies of one frame at the most: what a full line gathers would else be one of any size."""

FRAME_BYTES: Final = 64 * 2**20
"""What is longer is sent as several frames, where it has parts: a longer one holds up everyone else."""

REPEATABLE: Final = frozenset({"put", "get", "size", "delete"})
"""Calls of the blob store that mean the same twice."""

Streams: TypeAlias = Mapping[int, frozenset[Topic]]
"""Open event streams of a client by number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobCall:
    """A call of the scheduler's blob store, of few bytes.

    Args:
        operation: name of its method; one of ``REPEATABLE``, because a client asks again over another line.
    """

    operation: str
    key: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FromClient:
    """What a client says.

    Args:
        commands: ticket and command, in order.
        queries: ticket and query; they see the commands before them. Calls for blobs are asked as they are.
        streams: all that shall be open from now on; None changes nothing.
        taken: number of a delivery of orders, and None or why they were not taken.
    """

    commands: tuple[tuple[int, Command], ...] = ()
    queries: tuple[tuple[int, Query | BlobCall], ...] = ()
    streams: Streams | None = None
    taken: tuple[tuple[int, ArcrayError | None], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FromScheduler:
    """What the scheduler says.

    Args:
        replies: ticket and reply, or the ``ArcrayError`` in its place.
        ends: ticket and ``without_spec`` of the reply: how a workload ended whose spec was the very one submitted. It
            would be most of the frame, and its client has it.
        events: stream and batch, in order; None says that the stream has ended by a failure.
        orders: number of the delivery, node, epoch, orders.
    """

    replies: tuple[tuple[int, Any], ...] = ()
    ends: tuple[tuple[int, tuple[Any, ...]], ...] = ()
    events: tuple[tuple[int, EventBatch | None], ...] = ()
    orders: tuple[tuple[int, NodeId, int, tuple[Order, ...]], ...] = ()


def weight_of(asked: Command | Query | BlobCall) -> int:
    """Returns about how many bytes of what is asked may be many."""
    match asked:
        case BlobCall():
            return sum(len(each) for each in asked.arguments if isinstance(each, bytes))
        case SubmitWorkload():
            return _weight_of_payload(asked.spec.payload)
        case ReportEnd():
            return len(asked.result.output or b"")
        case _:
            return 0


def _weight_of_payload(payload: Payload) -> int:
    match payload:
        case Inference():
            return len(payload.input or b"")
        case Program():
            return len(payload.blob) + _length(payload.args, *payload.env)
        case Container():
            return _length(payload.command, payload.args, *payload.env)
        case ModelServer():
            return 0
        case _:
            assert_never(payload)


def _length(*texts: Iterable[str]) -> int:
    return sum(len(each) for some in texts for each in some)


without_spec: Final = attrgetter(*(field.name for field in fields(WorkloadView) if field.name != "spec"))
"""Returns the fields of a view but its spec, in order."""

_fill_view: Final = filler(WorkloadView)


def with_spec(spec: WorkloadSpec, rest: tuple[Any, ...]) -> WorkloadView:
    """Returns the view that ``without_spec`` took apart."""
    view: WorkloadView = _fill_view(spec, *rest)
    return view
