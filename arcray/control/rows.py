"""Core values to rows and back: total, exact and fast.

Total: whatever core accepts can be stored. Text that is no Unicode (a lone surrogate, bytes that are not UTF-8) is
stored with the bad code points escaped, because a record that cannot be written would fail its whole batch. Exact:
everything else comes back equal. Fast: the JSON is written by pydantic's serializer from the plain dataclasses
(measured: 8 us for a finished inference request with its spec).

What equals its default is left out: of a request two thirds, and with them half of the pages that a commit writes. So
the defaults of whatever is stored are part of the format, and stay what they are (``test_stored_defaults.py``).

A request whose sender waits has one event, its end, and a row that nothing changes afterwards: the same facts. They are
written once, in the row; the event's body is empty and is read from there (measured: a fifth of what the scheduler
spends on such a request).

What is not stored: the ``output`` of a request whose sender waits (it goes to the sender), a node's readings and models
(it sends them again), and the difference between healthy and unhealthy (a lease begins anew after recovery).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final, Optional, TypeAlias, TypeVar, assert_never, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from arcray.core import events as ev
from arcray.core.errors import InternalError
from arcray.core.ids import NodeId
from arcray.core.model import Model
from arcray.core.node import Health, Node
from arcray.core.quota import AccountQuota
from arcray.core.reservation import Reservation
from arcray.core.workload import Inference, Phase, Workload, kind_of

__all__ = [
    "Row",
    "column",
    "decode_event",
    "decode_row",
    "durable_node",
    "encode",
    "event_row",
    "microseconds",
    "model_row",
    "node_row",
    "quota_row",
    "reservation_row",
    "subject",
    "workload_row",
]

Row: TypeAlias = dict[str, str | int | None]
_T = TypeVar("_T")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_CONFIG: Final = ConfigDict(ser_json_inf_nan="strings")  # JSON has no NaN; null would not come back as a float
_OUTPUT: Final = {"result": {"output"}}
_ADAPTERS: Final[dict[type, TypeAdapter[Any]]] = {}  # built on first use: each takes milliseconds
_EVENTS: Final[dict[str, type]] = {event.__name__: event for event in get_args(ev.Event)}


def event_row(event: ev.Event, workload: Workload | None = None) -> Row:
    """Returns the row of an event; its ``seq`` is given by the database.

    Args:
        workload: that it is about, as it stands now; what is written without is not in the audit log.
    """
    audited = workload is not None and _is_audited(event, workload)
    node_id = _node_of(event, workload) if workload is not None and audited else None
    return {
        "at": microseconds(event.at),
        "kind": type(event).__name__,
        "subject": column(subject(event)),
        "body": "" if _is_its_row(event) else encode(event),
        "account": column(workload.spec.origin.account) if workload is not None and audited else None,
        "node_id": None if node_id is None else column(node_id),
    }


def workload_row(workload: Workload) -> Row:
    """Returns the current row of a workload."""
    spec = workload.spec
    origin = spec.origin
    finished_at = workload.finished_at
    return {
        "id": column(spec.id),
        "kind": kind_of(spec.payload).value,
        "phase": workload.phase.value,
        "account": column(origin.account),
        "facade": column(origin.facade),
        "external_id": column(origin.external_id),
        "node_id": None if workload.node_id is None else column(workload.node_id),
        "request_id": column(spec.request_id),
        "created_at": microseconds(spec.created_at),
        "finished_at": None if finished_at is None else microseconds(finished_at),
        "body": encode(workload),
        "dead": int(workload.dead),
    }


def node_row(node: Node) -> Row:
    """Returns the current row of a node."""
    image = durable_node(node)
    return {
        "id": column(image.id),
        "facade": column(image.registration.facade),
        "external_id": column(image.registration.external_id),
        "health": image.health.value,
        "epoch": image.epoch,
        "joined_at": microseconds(image.joined_at),
        "body": encode(image),
    }


def model_row(model: Model) -> Row:
    """Returns the current row of a model."""
    return {
        "id": column(model.id),
        "format": model.format.value,
        "created_at": microseconds(model.created_at),
        "body": encode(model),
    }


def reservation_row(reservation: Reservation) -> Row:
    """Returns the current row of a reservation."""
    ended_at = reservation.ended_at
    return {
        "id": column(reservation.id),
        "account": column(reservation.account),
        "state": reservation.state.value,
        "created_at": microseconds(reservation.created_at),
        "expires_at": microseconds(reservation.expires_at),
        "ended_at": None if ended_at is None else microseconds(ended_at),
        "body": encode(reservation),
    }


def quota_row(quota: AccountQuota) -> Row:
    """Returns the current row of an account's own quota."""
    return {"id": column(quota.account), "body": encode(quota)}


def decode_row(kind: type[_T], identity: str, body: str) -> _T:
    """Returns the value of a row.

    Args:
        kind: what the row is of, for example ``Node`` or ``Workload``.
        identity: the row's id, for the error.

    Raises:
        InternalError: the row is damaged, or was written by a newer version; names it.
    """
    try:
        value = _adapter(kind).validate_json(body)
    except ValidationError as error:
        raise InternalError(f"the row of {kind.__name__.lower()} {identity} cannot be read: {error}") from error
    assert isinstance(value, kind)
    return value


def decode_event(kind: str, body: str, workload_body: str | None = None) -> ev.Event:
    """Returns the event of a row.

    Args:
        workload_body: body of the workload's row, for an event whose own is empty.

    Raises:
        InternalError: the row is damaged, or of a kind that this version does not know.
    """
    if kind not in _EVENTS:
        raise InternalError(f"this version knows no event {kind!r}")
    if not body and workload_body is not None:
        return _only_event(decode_row(Workload, "of an event", workload_body))
    event: ev.Event = decode_row(_EVENTS[kind], "event", body)
    return event


def durable_node(node: Node) -> Node:
    """Returns the node as it is stored."""
    health = Health.HEALTHY if node.health is Health.UNHEALTHY else node.health
    return replace(node, health=health, telemetry=None, models=())


def subject(event: ev.Event) -> str:  # noqa: C901, PLR0911, PLR0912  one arm per sort of event
    """Returns the id of what an event is about."""
    match event:
        case (
            ev.WorkloadSubmitted()
            | ev.WorkloadPlaced()
            | ev.WorkloadPhaseChanged()
            | ev.WorkloadStopRequested()
            | ev.WorkloadRequeued()
            | ev.WorkloadSettled()
            | ev.WorkloadFinished()
            | ev.WorkloadCharged()
            | ev.LogAppended()
            | ev.WorkloadPreempted()
            | ev.WorkloadEvicted()
            | ev.PlaceClaimed()
            | ev.ClaimEnded()
        ):
            return event.workload_id
        case ev.ReservationGranted() | ev.ReservationTaken() | ev.ReservationEnded():
            return event.reservation_id
        case (
            ev.NodeHealthChanged()
            | ev.NodeDetached()
            | ev.NodeSchedulingChanged()
            | ev.NodeDrainChanged()
            | ev.NodeRelabelled()
            | ev.TelemetryUpdated()
            | ev.BatteryRanLow()
            | ev.ModelsChanged()
        ):
            return event.node_id
        case ev.NodeAttached():
            return event.registration.id
        case ev.QuotaChanged():
            return event.account
        case ev.ModelRegistered():
            return event.model.id
        case ev.ModelRemoved():
            return event.model_id
        case ev.AccountOpened() | ev.LoginSet() | ev.SpendingLimitSet():
            return event.account_id
        case ev.CreditsMoved():
            return event.entry.id
        case ev.KeyIssued():
            return event.key.id
        case ev.KeyRevoked():
            return event.key_id
        case ev.KeysUsed():
            return ""  # of several; never stored
        case _:
            assert_never(event)


def microseconds(time: datetime) -> int:
    """Returns a time as microseconds since 1970, exactly."""
    return (time - _EPOCH) // _MICROSECOND


def encode(value: object) -> str:
    """Returns a value of core as exact JSON."""
    adapter = _adapter(type(value))
    # The answer to a sender who waited went to that sender.
    exclude: Any = _OUTPUT if isinstance(value, Workload) and value.spec.waiting else None
    try:
        return adapter.dump_json(value, exclude=exclude, exclude_defaults=True).decode()
    except PydanticSerializationError:
        return adapter.dump_json(_escaped(value), exclude=exclude, exclude_defaults=True).decode()


def _is_its_row(event: ev.Event) -> bool:
    """Returns whether the workload's row says all that the event does, now and for ever."""
    return type(event) is ev.WorkloadFinished and event.spec is not None


def _is_audited(event: ev.Event, workload: Workload) -> bool:
    """Returns whether the audit log has a word for it; requests for inference are too many for one."""
    if isinstance(workload.spec.payload, Inference) or _is_its_row(event):
        return False
    if isinstance(event, ev.WorkloadPhaseChanged):
        return event.phase is Phase.RUNNING
    return isinstance(event, ev.WorkloadSubmitted | ev.WorkloadPlaced | ev.WorkloadFinished)


def _node_of(event: ev.Event, workload: Workload) -> NodeId | None:
    match event:
        case ev.WorkloadPlaced() | ev.WorkloadFinished():
            return event.node_id
        case ev.WorkloadPhaseChanged():  # it does not say; a later attempt may be elsewhere
            return workload.node_id if event.attempt == workload.attempt else None
        case _:
            return None


def _only_event(workload: Workload) -> ev.WorkloadFinished:
    """Returns the one event of a request whose sender waited."""
    assert workload.finished_at is not None, "its only event is its end"
    return ev.WorkloadFinished(
        workload_id=workload.spec.id,
        attempt=workload.attempt,
        phase=workload.phase,
        message=workload.message,
        result=workload.result,
        node_id=workload.node_id,
        placed_at=workload.placed_at,
        started_at=workload.started_at,
        at=workload.finished_at,
        spec=workload.spec,
    )


def _adapter(kind: type) -> TypeAdapter[Any]:
    adapter = _ADAPTERS.get(kind)
    if adapter is None:
        # A bare dataclass takes no configuration from outside; an optional one does.
        adapter = _ADAPTERS[kind] = TypeAdapter(Optional[kind], config=_CONFIG)  # type: ignore[arg-type]  # noqa: UP045 - made at run time
    return adapter


def column(text: str) -> str:
    """Returns text as a column that queries compare can hold it."""
    # PostgreSQL stores no NUL and no driver binds a lone surrogate; neither is printable, and the body has the truth.
    return text if text.isprintable() else _escaped(text).replace("\x00", "\\x00")


def _escaped(value: Any) -> Any:
    """Returns the value with every bad code point in any text of it spelled out."""
    clean: Any = value
    match value:
        case Enum():
            pass
        case str():
            clean = value.encode("utf-8", "backslashreplace").decode()
        case bytes():
            clean = value.decode("utf-8", "backslashreplace").encode()
        case tuple():
            clean = tuple(map(_escaped, value))
        case Mapping():
            clean = {_escaped(key): _escaped(item) for key, item in value.items()}
        case _ if is_dataclass(value) and not isinstance(value, type):
            clean = replace(value, **{item.name: _escaped(getattr(value, item.name)) for item in fields(value)})
    return clean
