"""How this machine is doing: one reading of processor, memory, disk, battery and GPUs. And what it has."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from arcray.config import NodeSettings
from arcray.core.node import EnergySource, Telemetry
from arcray.core.ports import Clock
from arcray.core.quantity import CPU_MILLI
from arcray.core.resources import Capacity, Gpu
from arcray.node.gpu import GpuProbe

__all__ = ["Sampler", "measure_capacity"]


class Sampler:
    """Reads the machine. Utilization is that since the last reading.

    Args:
        disk: directory on the disk that work uses.
    """

    def __init__(self, *, gpus: GpuProbe, clock: Clock, disk: Path) -> None:
        self._gpus = gpus
        self._clock = clock
        self._disk = disk
        psutil.cpu_percent()  # the first call has nothing to compare with and answers 0

    def read(self) -> Telemetry:
        """Returns one reading. Blocks for milliseconds."""
        battery = _battery()
        return Telemetry(
            at=self._clock.now(),
            cpu_utilization=min(1.0, psutil.cpu_percent() / 100),
            memory_used_bytes=_memory_used(),
            disk_used_bytes=psutil.disk_usage(str(self._disk)).used,
            energy_source=EnergySource.GRID if battery is None else EnergySource.BATTERY,
            battery_level=1.0 if battery is None else battery,
            gpus=self._gpus.read(),
        )


def measure_capacity(settings: NodeSettings, *, gpus: tuple[Gpu, ...], disk: Path) -> Capacity:
    """Returns what this machine offers: what it has, less what is kept back, unless the settings say it."""
    cpu_milli = settings.cpu_milli
    if cpu_milli is None:
        cpu_milli = max(0, len(os.sched_getaffinity(0)) * CPU_MILLI - settings.reserved_cpu_milli)
    memory = settings.memory_bytes
    if memory is None:
        memory = max(0, psutil.virtual_memory().total - settings.reserved_memory_bytes)
    return Capacity(cpu_milli=cpu_milli, memory_bytes=memory, disk_bytes=psutil.disk_usage(str(disk)).free, gpus=gpus)


def _memory_used() -> int:
    memory = psutil.virtual_memory()
    return int(memory.total - memory.available)


def _battery() -> float | None:
    """Returns the charge while the machine runs on its battery, None on the grid."""
    try:
        battery = psutil.sensors_battery()
    except (AttributeError, OSError):  # no such sensor on this platform, or an unreadable one
        return None
    if battery is None or battery.power_plugged is not False:
        return None
    return float(battery.percent) / 100
