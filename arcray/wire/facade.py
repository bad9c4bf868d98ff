"""The descriptor by which a protocol plugs into the gateway: what it is given, what it gives back, how it is found.

A protocol is one folder. ``arcray.facades.<name>.facade`` (built in) or an entry point of group ``arcray.facades``
(shipped elsewhere) holds one ``Facade`` value. The gateway opens each once per process and composes what it returns;
a facade opens no port, starts no task of its own and imports neither Ray nor another facade.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fastapi import APIRouter

from arcray.config import Settings
from arcray.core.errors import InvalidArgumentError
from arcray.core.node import LeaseTerms
from arcray.core.ports import Clock, ControlPlane, Ids
from arcray.core.queues import Meter
from arcray.wire.attachments import Attachments
from arcray.wire.event_hub import EventHub
from arcray.wire.identity import Authenticator
from arcray.wire.limits import BodyBound

if TYPE_CHECKING:
    import grpc.aio  # importing gRPC takes a tenth of a second that HTTP-only processes need not pay

__all__ = ["Facade", "FacadeContext", "FacadeEndpoints", "RegisterServices", "load_facades"]

_GROUP: Final = "arcray.facades"

RegisterServices: TypeAlias = "Callable[[grpc.aio.Server], Sequence[str]]"
"""Adds servicers to the server; returns full service names, for reflection and health."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FacadeContext:
    """Everything a facade may use of its process.

    Args:
        events: the process's one fan-out of cluster events; facades never call ``plane.events`` themselves.
        attachments: where machines that join through this process get their orders.
    """

    plane: ControlPlane
    settings: Settings
    clock: Clock
    ids: Ids
    authenticator: Authenticator
    events: EventHub
    attachments: Attachments


@dataclass(frozen=True, slots=True, kw_only=True)
class FacadeEndpoints:
    """What a facade serves.

    Args:
        router: HTTP and WebSocket routes with their full paths; it is included without a prefix.
        grpc: registers gRPC services, called before the server starts.
        run: background work for as long as the process serves; it is cancelled at the end and must then clean up.
            If it raises, the replica is unhealthy.
        queues: reads the queues that it keeps.
        bodies: bounds of request bodies by path, where they are tighter than what holds for all.
    """

    router: APIRouter | None = None
    grpc: RegisterServices | None = None
    run: Callable[[], Coroutine[Any, Any, None]] | None = None
    queues: Meter | None = None
    bodies: Mapping[str, BodyBound] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facade:
    """One protocol.

    Args:
        name: its folder name, and ``Origin.facade`` of what comes in by it.
        summary: one line for people, shown in the API documentation.
        lease: how long a machine that joined by it may be silent.
        open: builds its endpoints; called once per process, before anything is served. Must not block.
    """

    name: str
    summary: str
    lease: LeaseTerms
    open: Callable[[FacadeContext], FacadeEndpoints]


def load_facades(names: Sequence[str]) -> tuple[Facade, ...]:
    """Returns the descriptors of these protocols in this order.

    Raises:
        InvalidArgumentError: a name is unknown or comes twice, or what it leads to is no ``Facade`` of that name.
    """
    if len(set(names)) != len(names):
        raise InvalidArgumentError(f"names a protocol twice: {', '.join(names)}", field="facades")
    return tuple(_load(name) for name in names)


def _load(name: str) -> Facade:
    found = _built_in(name)
    if found is None:
        found = _shipped(name)
    if not isinstance(found, Facade) or found.name != name:
        raise InvalidArgumentError(f"{name!r} does not lead to a Facade of that name", field="facades")
    return found


def _built_in(name: str) -> object | None:
    # isidentifier keeps a configured name from walking the package tree ("x.y") or importing relatively.
    if not name.isidentifier() or importlib.util.find_spec(f"arcray.facades.{name}") is None:
        return None
    return importlib.import_module(f"arcray.facades.{name}.facade").FACADE  # type: ignore[no-any-return]  # by contract


def _shipped(name: str) -> object:
    found = entry_points(group=_GROUP, name=name)
    if not found:
        raise InvalidArgumentError(
            f"no protocol {name!r}: neither arcray.facades.{name} nor an entry point of group {_GROUP}",
            field="facades",
        )
    return next(iter(found)).load()
