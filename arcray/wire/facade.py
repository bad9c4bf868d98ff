"""The descriptor by which a protocol plugs into the gateway: what it is given, what it gives back, how it is found.

A protocol is one folder. ``arcray.facades.<name>.facade`` (built in) or an entry point of group ``arcray.facades``
(shipped elsewhere) holds one ``Facade`` value. The gateway opens each once per process and composes what it returns;
a facade opens no port, starts no task of its own and imports neither Ray nor another facade.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

from fastapi import APIRouter

from arcray.config import Settings
from arcray.core.errors import InvalidArgumentError
from arcray.core.node import LeaseTerms
from arcray.core.ports import Clock, ControlPlane, Ids
from arcray.core.queues import Meter, Queue
from arcray.wire.attachments import Attachments
from arcray.wire.event_hub import EventHub
from arcray.wire.facade_names import check_names, is_built_in, shipped
from arcray.wire.identity import Authenticator
from arcray.wire.limits import BodyBound

if TYPE_CHECKING:
    import grpc.aio  # importing gRPC takes a tenth of a second that HTTP-only processes need not pay

__all__ = ["Facade", "FacadeContext", "FacadeEndpoints", "RegisterServices", "load_facades"]

RegisterServices: TypeAlias = "Callable[[grpc.aio.Server], Sequence[str]]"
"""Adds servicers or handlers, which is all that is there of the server; returns full service names, for health."""


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
        queues: names of all queues that ``FacadeEndpoints.queues`` reads; nobody else's.
    """

    name: str
    summary: str
    lease: LeaseTerms
    open: Callable[[FacadeContext], FacadeEndpoints]
    queues: frozenset[StrEnum] = frozenset()


def load_facades(names: Sequence[str]) -> tuple[Facade, ...]:
    """Returns the descriptors of these protocols in this order.

    Raises:
        InvalidArgumentError: a name is unknown or comes twice, what it leads to is no ``Facade`` of that name, or two
            of them have a queue of one name.
    """
    check_names(names)
    facades = tuple(_load(name) for name in names)
    _check_queues(facades)
    return facades


def _load(name: str) -> Facade:
    found = _built_in(name) if is_built_in(name) else shipped(name).load()
    if not isinstance(found, Facade) or found.name != name:
        raise InvalidArgumentError(f"{name!r} does not lead to a Facade of that name", field="facades")
    return found


def _check_queues(facades: Sequence[Facade]) -> None:
    """A label that two series share would make Prometheus refuse the page."""
    keepers: dict[str, str] = dict.fromkeys(Queue, "arcray itself")
    for facade in facades:
        for queue in sorted(facade.queues):
            if queue in keepers:
                raise InvalidArgumentError(
                    f"{facade.name!r} has a queue {queue.value!r}, as {keepers[queue]} does", field="facades"
                )
            keepers[queue] = facade.name


def _built_in(name: str) -> object:
    return importlib.import_module(f"arcray.facades.{name}.facade").FACADE
