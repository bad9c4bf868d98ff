"""How a request is spread over devices; pure.

``greedy`` goes through the devices in their order and takes of each what it has; ``even`` divides what is wanted over
all that have some of it. Either lists what there is where there is not enough.

Source: Resource Pool API Documentation, "Resource Request"; the order and the caps are the first implementation's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

from arcray.core.ids import NodeId
from arcray.core.node import Health, NodeView
from arcray.core.quantity import MAX_QUANTITY, MB, MIB
from arcray.core.reservation import Reservation, ReservationState
from arcray.core.resources import Demand
from arcray.facades.pool.codec import number
from arcray.facades.pool.messages import Allocated, Device, Number, Requirements
from arcray.facades.pool.nodes import PERCENT_MILLI

__all__ = ["Candidate", "Caps", "Held", "Plan", "Share", "candidate_of_device", "candidate_of_node", "held_of", "plan"]

_ALL: Final = 100
_DIGITS: Final = 6  # of a percentage or a number of MB; what is beyond is a float's doing
_EPSILON: Final = 10.0**-_DIGITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """Percent of a device that may be held in all.

    Args:
        gpu: whether GPUs are given at all.
    """

    cpu: Number
    memory: Number
    storage: Number
    gpu: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What reservations hold of a node."""

    cpu_milli: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpus: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A device that may give something.

    Args:
        cpu: percent that it can give.
        memory, storage: MB that it can give.
        percent_milli: what a percent of it is, in thousandths of a core.
    """

    device_id: str
    name: str
    node_id: NodeId
    cpu: Number
    memory: Number
    storage: Number
    gpu: bool
    percent_milli: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What is to be held of a node."""

    node_id: NodeId
    demand: Demand


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What there is for a request.

    Args:
        shares: what is to be held for ``allocated``, in the same order.
    """

    fulfilled: bool
    allocated: Sequence[Allocated]
    shares: Sequence[Share]


def held_of(reservations: Sequence[Reservation]) -> Mapping[NodeId, Held]:
    """Returns what active reservations hold of each node."""
    found: dict[NodeId, Held] = {}
    for reservation in reservations:
        if reservation.state is not ReservationState.ACTIVE:
            continue
        for part in reservation.slices:
            before, more = found.get(part.node_id, Held()), part.allocation
            found[part.node_id] = Held(
                cpu_milli=before.cpu_milli + more.cpu_milli,
                memory_bytes=before.memory_bytes + more.memory_bytes,
                disk_bytes=before.disk_bytes + more.disk_bytes,
                gpus=before.gpus + len(more.gpus),
            )
    return found


def candidate_of_device(device: Device, view: NodeView, held: Held, caps: Caps) -> Candidate | None:
    """Returns what a device can give beside what is held of it; None where its node takes nothing."""
    if not _is_open(view):
        return None
    has = device.resources
    percent_milli = max(1, int(has.cpu_cores)) * PERCENT_MILLI
    cpu = min(has.cpu_available, caps.cpu) - held.cpu_milli / percent_milli
    memory = min(has.memory_available, has.memory_total * caps.memory / _ALL) - held.memory_bytes / MIB
    storage = min(has.storage_available, has.storage_total * caps.storage / _ALL) - held.disk_bytes / MB
    return Candidate(
        device_id=device.id,
        name=device.name,
        node_id=view.registration.id,
        cpu=_room(min(cpu, view.cpu_milli_free / percent_milli)),
        memory=_room(min(memory, view.memory_bytes_free / MIB)),
        storage=_room(storage),
        gpu=caps.gpu and has.has_gpu and not held.gpus,
        percent_milli=percent_milli,
    )


def candidate_of_node(device: Device, view: NodeView, held: Held, caps: Caps) -> Candidate | None:
    """Returns what a node of another protocol can give, of which 100 is one core; None where it takes nothing."""
    if not _is_open(view):
        return None
    has = view.registration.capacity
    cpu_milli = min(view.cpu_milli_free, int(has.cpu_milli * caps.cpu) // _ALL - held.cpu_milli)
    memory_bytes = min(view.memory_bytes_free, int(has.memory_bytes * caps.memory) // _ALL - held.memory_bytes)
    disk_bytes = int(has.disk_bytes * caps.storage) // _ALL - held.disk_bytes
    return Candidate(
        device_id=device.id,
        name=device.name,
        node_id=view.registration.id,
        cpu=_room(cpu_milli / PERCENT_MILLI),
        memory=_room(memory_bytes // MIB),
        storage=_room(disk_bytes // MB),
        gpu=caps.gpu and len(has.gpus) > held.gpus,
        percent_milli=PERCENT_MILLI,
    )


def plan(wanted: Requirements, candidates: Sequence[Candidate], *, evenly: bool) -> Plan:
    """Spreads a request over candidates, in their order."""
    spread: Callable[[Number, Sequence[Number]], Sequence[Number]] = _even if evenly else _greedy
    cpu = spread(wanted.cpu, [each.cpu for each in candidates])
    memory = spread(wanted.memory, [each.memory for each in candidates])
    storage = spread(wanted.storage, [each.storage for each in candidates])
    with_gpu = next((index for index, each in enumerate(candidates) if each.gpu), None) if wanted.gpu else None
    allocated, shares = [], []
    for index, each in enumerate(candidates):
        given = Allocated(
            device_id=each.device_id,
            device_name=each.name,
            cpu=cpu[index],
            memory=memory[index],
            storage=storage[index],
            gpu=index == with_gpu,
        )
        if given.cpu or given.memory or given.storage or given.gpu:
            allocated.append(given)
            shares.append(Share(node_id=each.node_id, demand=_demand(given, each.percent_milli)))
    fulfilled = (
        _is_enough(cpu, wanted.cpu)
        and _is_enough(memory, wanted.memory)
        and _is_enough(storage, wanted.storage)
        and (with_gpu is not None or not wanted.gpu)
    )
    return Plan(fulfilled=fulfilled, allocated=allocated, shares=shares)


def _is_open(view: NodeView) -> bool:
    return view.health is Health.HEALTHY and not view.cordoned and not view.draining


def _room(amount: float) -> Number:
    return number(max(0, round(amount, _DIGITS)))


def _greedy(wanted: Number, rooms: Sequence[Number]) -> Sequence[Number]:
    given = []
    for room in rooms:
        part = number(round(min(wanted, room), _DIGITS))
        given.append(part)
        wanted = round(wanted - part, _DIGITS)
    return given


def _even(wanted: Number, rooms: Sequence[Number]) -> Sequence[Number]:
    """Returns equal parts; who has less than that gives all, and the others more. Whole numbers stay whole."""
    given: list[Number] = [0] * len(rooms)
    fitting = sorted((index for index, room in enumerate(rooms) if room), key=lambda index: rooms[index])
    for place, index in enumerate(fitting):
        left = len(fitting) - place
        part = ceil(wanted / left) if isinstance(wanted, int) else wanted / left
        given[index] = number(round(min(part, rooms[index], wanted), _DIGITS))
        wanted = number(round(wanted - given[index], _DIGITS))
    return given


def _is_enough(given: Sequence[Number], wanted: Number) -> bool:
    return sum(given) >= wanted - _EPSILON


def _demand(given: Allocated, percent_milli: int) -> Demand:
    return Demand(
        cpu_milli=_whole(given.cpu * percent_milli),
        memory_bytes=_whole(given.memory * MIB),
        disk_bytes=_whole(given.storage * MB),
        gpus=int(given.gpu),
    )


def _whole(amount: float) -> int:
    return min(MAX_QUANTITY, ceil(round(amount, 3)))
