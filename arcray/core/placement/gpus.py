"""The GPUs of one node: who holds what of each device, and which devices a demand gets.

A device is idle, held whole by one allocation, or shared by memory among several; never whole and shared at once. A
device that holds more than it has (it vanished, shrank, or was recorded twice) is overcommitted, and a node with such a
device takes nothing until that is released. A *closed* device keeps its holders and takes no more.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from arcray.core.resources import Demand, Gpu, GpuShare

__all__ = ["Devices"]


class _Device:
    """One device's books.

    Args:
        memory_bytes: of the device; None once it is gone and only its holders are remembered.
        entire: what a demand gets that gets all of it.
        closed: it takes nothing new.
    """

    __slots__ = ("closed", "entire", "index", "memory_bytes", "shared_bytes", "shares", "whole")

    def __init__(self, index: int) -> None:
        self.index = index
        self.closed = False
        self.memory_bytes: int | None = None
        self.entire = GpuShare(index=index, memory_bytes=0, whole=True)
        self.whole = 0
        self.shares = 0
        self.shared_bytes = 0

    @property
    def held(self) -> bool:
        return self.whole > 0 or self.shares > 0

    @property
    def overcommitted(self) -> bool:
        if self.memory_bytes is None:
            return self.held
        return self.whole + (self.shares > 0) > 1 or self.shared_bytes > self.memory_bytes


class Devices:
    """Every device of one node.

    Attributes:
        idle: devices that nobody uses; minus the number of overcommitted ones when there are any.
        present: devices that the node has, closed ones aside.
        open_bytes: most memory left on a device that is already shared, 0 without one.
        shareable_bytes: memory left on each device that can be shared, largest first.
    """

    __slots__ = ("_devices", "_idle", "idle", "open_bytes", "present", "shareable_bytes")

    def __init__(self) -> None:
        self._devices: dict[int, _Device] = {}
        self._idle: list[GpuShare] = []  # lowest index first
        self.idle = 0
        self.present = 0
        self.open_bytes = 0
        self.shareable_bytes: list[int] = []

    @property
    def overcommitted(self) -> frozenset[int]:
        """Returns the devices that hold more than they have."""
        if self.idle >= 0:
            return frozenset()
        return frozenset(device.index for device in self._devices.values() if device.overcommitted)

    def copy(self) -> Devices:
        """Returns books of their own with the same entries."""
        other = Devices()
        for device in self._devices.values():
            twin = other._devices[device.index] = _Device(device.index)
            twin.closed = device.closed
            twin.memory_bytes, twin.entire = device.memory_bytes, device.entire
            twin.whole, twin.shares, twin.shared_bytes = device.whole, device.shares, device.shared_bytes
        other.present = self.present
        other._summarize()
        return other

    def resize(self, gpus: Iterable[Gpu], closed: Container[int] = ()) -> None:
        """Takes over the node's inventory; what is held on a device stays held.

        Args:
            closed: indices of devices that take nothing new.
        """
        before = self._devices
        now: dict[int, _Device] = {}
        for gpu in gpus:
            device = before.get(gpu.index) or _Device(gpu.index)
            device.memory_bytes = gpu.memory_bytes
            device.entire = GpuShare(index=gpu.index, memory_bytes=gpu.memory_bytes, whole=True)
            device.closed = gpu.index in closed
            now[gpu.index] = device
        self.present = sum(not device.closed for device in now.values())
        for device in before.values():
            if device.index not in now and device.held:
                device.memory_bytes = None
                now[device.index] = device
        self._devices = dict(sorted(now.items()))
        self._summarize()

    def take(self, shares: Iterable[GpuShare]) -> None:
        """Books shares; never refuses, because what a node holds is a fact."""
        for share in shares:
            device = self._devices.get(share.index)
            if device is None:
                device = self._devices[share.index] = _Device(share.index)
            if share.whole:
                device.whole += 1
            else:
                device.shares += 1
                device.shared_bytes += share.memory_bytes
        self._summarize()

    def give_back(self, shares: Iterable[GpuShare]) -> None:
        """Takes booked shares off."""
        for share in shares:
            device = self._devices[share.index]
            if share.whole:
                device.whole -= 1
            else:
                device.shares -= 1
                device.shared_bytes -= share.memory_bytes
            assert device.whole >= 0 <= device.shares, "released more of a GPU than was allocated"
            if device.memory_bytes is None and not device.held:
                del self._devices[share.index]
        self._summarize()

    def choose(self, demand: Demand) -> tuple[GpuShare, ...] | None:
        """Returns the devices that the demand gets, None when they do not suffice.

        Whole devices: the lowest idle indices. Shares: the fullest devices that still fit, those already shared before
        idle ones, so that idle devices stay whole.
        """
        if self.idle < 0:
            return None
        share_bytes = demand.gpu_memory_bytes
        if share_bytes is None:
            return None if demand.gpus > self.idle else tuple(self._idle[: demand.gpus])
        fitting = sorted(
            (device.shares == 0, left, device.index)
            for device in self._devices.values()
            if not device.whole
            and not device.closed
            and (left := (device.memory_bytes or 0) - device.shared_bytes) >= share_bytes
        )
        if len(fitting) < demand.gpus:
            return None
        indices = sorted(index for _, _, index in fitting[: demand.gpus])
        return tuple(GpuShare(index=index, memory_bytes=share_bytes, whole=False) for index in indices)

    def _summarize(self) -> None:
        """Brings the attributes up to date: once per change, read by every decision after it."""
        overcommitted = open_bytes = 0
        shareable: list[int] = []
        entire: list[GpuShare] = []
        for device in self._devices.values():
            if device.overcommitted:
                overcommitted += 1
            elif not device.whole and not device.closed:
                left = (device.memory_bytes or 0) - device.shared_bytes
                shareable.append(left)
                if device.shares == 0:
                    entire.append(device.entire)
                elif left > open_bytes:
                    open_bytes = left
        if overcommitted:
            open_bytes, shareable, entire = 0, [], []
        shareable.sort(reverse=True)
        self._idle, self.idle = entire, len(entire) - overcommitted
        self.open_bytes, self.shareable_bytes = open_bytes, shareable
