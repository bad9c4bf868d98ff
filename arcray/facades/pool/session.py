"""The sockets and devices of one process, sans-I/O: what is said is judged here, and who is told of it.

A device belongs to the socket that registered it last. A socket that ends takes its own devices along and no others, so
that one which was replaced costs its successor nothing. A device that is silent leaves the list, and comes back when it
is heard again; its socket stays.

What is malformed or unknown is passed over, as the protocol has no word for it; ``strict`` closes the socket instead.
What a socket says of devices that another account registered is passed over too.

Source: Resource Pool API Documentation, "WebSocket API", "Error Handling", "Rate Limits".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, TypeAlias, assert_never

from arcray.core.errors import ArcrayError, InvalidArgumentError
from arcray.core.ids import AccountId
from arcray.facades.pool import codec
from arcray.facades.pool.messages import (
    CAN_RUN,
    Device,
    Heartbeat,
    Misread,
    Register,
    ResourceRelease,
    ResourceRequest,
    Resources,
    ResourceUpdate,
    Task,
    TaskComplete,
    TaskSubmit,
)

__all__ = [
    "POLICY",
    "Action",
    "Beat",
    "Broadcast",
    "Close",
    "Done",
    "Ignored",
    "Join",
    "Left",
    "Limits",
    "Member",
    "Moment",
    "Refuse",
    "Release",
    "Request",
    "Roster",
    "SocketId",
    "Submit",
]

PROTOCOL_ERROR: Final = 1002
INVALID_DATA: Final = 1003
POLICY: Final = 1008

_MALFORMED: Final = 3  # text frames that a strict server lets pass; one more closes
_UNNAMED: Final = "Unknown Device"
_UNKNOWN: Final = "unknown"

SocketId: TypeAlias = int


@dataclass(frozen=True, slots=True)
class Moment:
    """A time.

    Args:
        at: for people.
        monotonic_s: for terms.
    """

    at: datetime
    monotonic_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a process.

    Args:
        devices: at a time.
        silent_s: a device that is silent for so long leaves.
        strict: whether what is malformed closes its socket.
        close_silent: whether the socket of a silent device is closed.
    """

    devices: int
    silent_s: float
    strict: bool = False
    close_silent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A registered device.

    Args:
        account: who registered it.
        capabilities: what it can do besides being lent.
        max_tasks: at a time; 0 is as many as fit.
    """

    device: Device
    socket: SocketId
    account: AccountId
    capabilities: frozenset[str]
    heard_s: float
    max_tasks: int = 0

    @property
    def runs(self) -> bool:
        """Whether it takes tasks."""
        return CAN_RUN in self.capabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Broadcast:
    """Send this frame to every socket.

    Args:
        but: which does not get it.
    """

    frame: str
    but: SocketId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """End a connection."""

    socket: SocketId
    code: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """A device has registered, has come back, or has another size: attach it.

    Args:
        listed: whether its socket is then sent the list of devices.
        new: whether the others are told.
        fresh: whether it has begun anew, and so has none of the tasks that it had.
        before: whose place it takes; None where it takes nobody's.
    """

    member: Member
    before: Member | None = None
    listed: bool = False
    new: bool = False
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Beat:
    """A device was heard."""

    member: Member


@dataclass(frozen=True, slots=True)
class Left:
    """A device has left; the others are told by an action of its own."""

    member: Member
    reason: str


@dataclass(frozen=True, slots=True)
class Request:
    """An allocation is asked for."""

    request: ResourceRequest


@dataclass(frozen=True, slots=True)
class Release:
    """An allocation is given back."""

    allocation_id: str


@dataclass(frozen=True, slots=True)
class Submit:
    """A task is handed in."""

    task: Task


@dataclass(frozen=True, slots=True)
class Refuse:
    """A task that was handed in cannot be read: its sender is told."""

    task_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """A device has ended a task."""

    member: Member
    result: TaskComplete


@dataclass(frozen=True, slots=True)
class Ignored:
    """A frame was passed over: to be recorded."""

    error: ArcrayError


Action: TypeAlias = Broadcast | Close | Join | Beat | Left | Request | Release | Submit | Refuse | Done | Ignored


@dataclass(slots=True)
class _Socket:
    address: str
    account: AccountId
    trusted: bool
    malformed: int = 0
    silent: dict[str, Member] = field(default_factory=dict)  # its devices that have left for being silent


class Roster:
    """The devices of one process, in the order of their registration.

    Args:
        new_id: makes the id of a device that gives itself none.
    """

    def __init__(self, limits: Limits, new_id: Callable[[], str]) -> None:
        self._limits = limits
        self._new_id = new_id
        self._sockets: dict[SocketId, _Socket] = {}
        self._members: dict[str, Member] = {}

    def __len__(self) -> int:
        return len(self._members)

    @property
    def members(self) -> Sequence[Member]:
        """Who is registered."""
        return tuple(self._members.values())

    def member(self, device_id: str) -> Member | None:
        """Returns a registered device."""
        return self._members.get(device_id)

    def device_of(self, socket: SocketId) -> str:
        """Returns the device that a socket registered last; "" where it has none."""
        owned = [name for name, member in self._members.items() if member.socket == socket]
        return owned[-1] if owned else ""

    def open(self, socket: SocketId, *, address: str, account: AccountId, trusted: bool = True) -> None:
        """Takes that a connection stands.

        Args:
            address: where from.
            account: who opened it.
            trusted: whether its devices may be given the work of others.
        """
        self._sockets[socket] = _Socket(address, account, trusted)

    def receive(  # noqa: C901, PLR0911  one arm per message
        self, socket: SocketId, frame: str | bytes, now: Moment
    ) -> Sequence[Action]:
        """Takes a frame of a socket; returns what to do about it, in this order."""
        try:
            message = codec.read(frame)
        except InvalidArgumentError as error:
            return self._malformed(socket, frame, error)
        match message:
            case None:
                return (Ignored(InvalidArgumentError("is not a type that this protocol has", field="type")),)
            case Register():
                return self._register(socket, message, now)
            case Heartbeat():
                return self._heard(socket, message.device_id, now)
            case ResourceUpdate():
                return self._updated(socket, message, now)
            case ResourceRequest():
                return (Request(message),)
            case ResourceRelease():
                return (Release(message.allocation_id),)
            case TaskSubmit():
                return (Submit(message.task),)
            case Misread():
                return (Refuse(message.task_id, message.reason),)
            case TaskComplete():
                return self._completed(socket, message)
            case _:
                assert_never(message)

    def close(self, socket: SocketId) -> Sequence[Action]:
        """Takes that a connection has ended, by which its devices leave."""
        self._sockets.pop(socket, None)
        gone = [member for member in self._members.values() if member.socket == socket]
        return self._leave(gone, "its socket was closed")

    def sweep(self, now: Moment) -> Sequence[Action]:
        """Has the devices leave that have been silent for too long."""
        since_s = now.monotonic_s - self._limits.silent_s
        silent = [member for member in self._members.values() if member.heard_s < since_s]
        reason = f"no heartbeat came within {self._limits.silent_s:g} s"
        if self._limits.close_silent:
            sockets = dict.fromkeys(member.socket for member in silent)
            ends = [Close(socket=socket, code=POLICY, reason=reason) for socket in sockets]
            return self._leave(silent, reason, *ends)
        for member in silent:
            socket = self._sockets.get(member.socket)
            if socket is not None:
                if len(socket.silent) >= self._limits.devices:
                    del socket.silent[next(iter(socket.silent))]
                socket.silent[member.device.id] = member
        return self._leave(silent, reason)

    def forget(self, device_id: str) -> None:
        """Drops a device that is another process's now; nobody is told, because it has not left."""
        self._members.pop(device_id, None)

    def refuse(self, join: Join) -> bool:
        """Drops a device that may not join; whose place it has taken gets it back where its socket still stands.

        Returns:
            Whether nobody has that place now.
        """
        device_id, before = join.member.device.id, join.before
        now = self._members.get(device_id)
        if now is None or now.socket != join.member.socket:
            return now is None
        if before is not None and before.socket != now.socket and before.socket in self._sockets:
            self._members[device_id] = before
            return False
        self.forget(device_id)
        return True

    # -- messages -----------------------------------------------------------------------------------------------------

    def _register(self, socket: SocketId, register: Register, now: Moment) -> Sequence[Action]:
        own = self._sockets[socket]
        device_id = register.device_id or self._new_id()
        known = self._members.get(device_id)
        if known is not None and known.account != own.account:
            return (Close(socket=socket, code=POLICY, reason="the device id is another account's"),)
        if known is None and len(self._members) >= self._limits.devices:
            return (Close(socket=socket, code=POLICY, reason=f"device limit of {self._limits.devices} reached"),)
        self._drop_silent(device_id)
        member = Member(
            device=Device(
                id=device_id,
                name=register.device_name or _UNNAMED,
                platform=register.platform or _UNKNOWN,
                ip_address=own.address,
                last_seen=now.at,
            ),
            socket=socket,
            account=own.account,
            capabilities=register.capabilities if own.trusted else frozenset(),
            heard_s=now.monotonic_s,
            max_tasks=register.max_tasks,
        )
        self._members[device_id] = member
        return (Join(member=member, before=known, listed=True, new=True, fresh=True),)

    def _heard(self, socket: SocketId, device_id: str, now: Moment) -> Sequence[Action]:
        revived = self._revived(socket, device_id, now)
        if revived is not None:
            return revived
        member = self._of_account(socket, device_id)
        if member is None:
            return ()
        return (Beat(self._keep(member, now)),)

    def _updated(self, socket: SocketId, update: ResourceUpdate, now: Moment) -> Sequence[Action]:
        device_id = update.device_id
        revived = self._revived(socket, device_id, now) or ()
        member = self._of_account(socket, device_id)
        if member is None:
            if device_id in self._members:
                return ()
            # Nobody has registered it; who listens is told all the same, and it is listed nowhere.
            return (Broadcast(frame=codec.update_frame(device_id, replace(Resources(), **update.changes))),)
        before = member.device.resources
        after = replace(before, **update.changes)
        kept = self._keep(member, now, after)
        told = Broadcast(frame=codec.update_frame(device_id, after))
        if revived:
            join = Join(member=kept, new=True)
            return *(join if isinstance(action, Join) else action for action in revived), told
        return (Join(member=kept), told, Beat(kept)) if _size(before) != _size(after) else (told, Beat(kept))

    def _completed(self, socket: SocketId, result: TaskComplete) -> Sequence[Action]:
        member = self._members.get(result.device_id or self.device_of(socket))
        if member is None or member.socket != socket:
            return (Ignored(InvalidArgumentError("is not a device of this socket", field="deviceId")),)
        return (Done(member, result),)

    def _malformed(self, socket: SocketId, frame: str | bytes, error: InvalidArgumentError) -> Sequence[Action]:
        if not self._limits.strict or error.field != "frame":
            return (Ignored(error),)
        if isinstance(frame, bytes):
            return Ignored(error), Close(socket=socket, code=INVALID_DATA, reason="binary frames must hold JSON")
        own = self._sockets[socket]
        own.malformed += 1
        if own.malformed <= _MALFORMED:
            return (Ignored(error),)
        return Ignored(error), Close(socket=socket, code=PROTOCOL_ERROR, reason="frames must hold JSON")

    # -- members ------------------------------------------------------------------------------------------------------

    def _of_account(self, socket: SocketId, device_id: str) -> Member | None:
        member = self._members.get(device_id)
        return member if member is not None and member.account == self._sockets[socket].account else None

    def _keep(self, member: Member, now: Moment, resources: Resources | None = None) -> Member:
        device = replace(member.device, last_seen=now.at, resources=resources or member.device.resources)
        kept = replace(member, device=device, heard_s=now.monotonic_s)
        self._members[device.id] = kept
        return kept

    def _revived(self, socket: SocketId, device_id: str, now: Moment) -> Sequence[Action] | None:
        """Returns how a silent device comes back by its own socket; None where it is none."""
        silent = self._sockets[socket].silent.pop(device_id, None)
        if silent is None:
            return None
        if len(self._members) >= self._limits.devices:
            return (Close(socket=socket, code=POLICY, reason=f"device limit of {self._limits.devices} reached"),)
        return (Join(member=self._keep(silent, now), new=True),)

    def _drop_silent(self, device_id: str) -> None:
        for socket in self._sockets.values():
            socket.silent.pop(device_id, None)

    def _leave(self, gone: Sequence[Member], reason: str, *ends: Close) -> Sequence[Action]:
        """Has devices leave. Everybody is told before the cluster is: that takes time, and one may be back by then."""
        for member in gone:
            del self._members[member.device.id]
        told = [Broadcast(frame=codec.left_frame(member.device.id)) for member in gone]
        return [*told, *ends, *(Left(member, reason) for member in gone)]


def _size(resources: Resources) -> tuple[object, ...]:
    """Returns what of a device is its size, which the cluster has to be told of anew."""
    return (
        resources.cpu_cores,
        resources.memory_total,
        resources.storage_total,
        resources.has_gpu,
        resources.gpu_name,
    )
