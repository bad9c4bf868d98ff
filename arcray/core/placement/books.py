"""Books: what one node would have left if something on it were given back or taken. A copy; nothing is held by it."""

from __future__ import annotations

from arcray.core.placement.gpus import Devices
from arcray.core.resources import Allocation, Demand

__all__ = ["Books"]


class Books:
    """One node's books, to try things on.

    Args:
        room: how many more slices it takes; None is as many as fit.
    """

    __slots__ = ("_cpu_milli", "_devices", "_disk_bytes", "_memory_bytes", "_room")

    def __init__(
        self, cpu_milli: int, memory_bytes: int, disk_bytes: int, devices: Devices, *, room: int | None = None
    ) -> None:
        self._cpu_milli = cpu_milli
        self._memory_bytes = memory_bytes
        self._disk_bytes = disk_bytes
        self._devices = devices
        self._room = room

    def give_back(self, allocation: Allocation) -> None:
        """Takes a held slice off."""
        self._cpu_milli += allocation.cpu_milli
        self._memory_bytes += allocation.memory_bytes
        self._disk_bytes += allocation.disk_bytes
        if self._room is not None:
            self._room += 1
        if allocation.gpus:
            self._devices.give_back(allocation.gpus)

    def take(self, allocation: Allocation) -> None:
        """Holds a slice."""
        self._cpu_milli -= allocation.cpu_milli
        self._memory_bytes -= allocation.memory_bytes
        self._disk_bytes -= allocation.disk_bytes
        if self._room is not None:
            self._room -= 1
        if allocation.gpus:
            self._devices.take(allocation.gpus)

    def gpus_left(self) -> tuple[int, ...]:
        """Returns how many GPUs are idle, below 0 when one is overcommitted, and what each shareable one has left."""
        return self._devices.idle, *self._devices.shareable_bytes

    def fit(self, demand: Demand) -> Allocation | None:
        """Returns what the demand would get, None when it does not fit."""
        if (
            self._cpu_milli < demand.cpu_milli
            or self._memory_bytes < demand.memory_bytes
            or self._disk_bytes < demand.disk_bytes
            or (self._room is not None and self._room < 1)
        ):
            return None
        shares = self._devices.choose(demand)
        if shares is None:
            return None
        return Allocation(
            cpu_milli=demand.cpu_milli, memory_bytes=demand.memory_bytes, disk_bytes=demand.disk_bytes, gpus=shares
        )
