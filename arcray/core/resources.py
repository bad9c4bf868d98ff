"""What a machine has, what work asks for, and what it gets: integers throughout.

GPU sharing: a demand without ``gpu_memory_bytes`` takes whole devices; with it, it takes that much memory on each of
``gpus`` devices and shares them with others that asked the same way. A device is never whole for one and shared for
another at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass

from arcray.core.errors import InvalidArgumentError
from arcray.core.quantity import bounded

__all__ = ["MAX_GPUS_PER_NODE", "NO_DEMAND", "Allocation", "Capacity", "Demand", "Gpu", "GpuShare"]

MAX_GPUS_PER_NODE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU of a machine.

    Args:
        index: position on its machine, 0 or more, unique there.
        uuid: the vendor's identifier; "" where the wire carries none.
        name: product name, for example "NVIDIA H200".
        memory_bytes: device memory that work can have; 0 where a device has none of its own, which is then given
            whole only.
    """

    index: int
    memory_bytes: int
    uuid: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Everything a machine offers.

    Args:
        gpus: one entry per device, sorted by index.
    """

    cpu_milli: int
    memory_bytes: int
    disk_bytes: int = 0
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a workload asks of one node.

    Args:
        gpus: number of devices, 0 to 64.
        gpu_memory_bytes: memory wanted on each device, shared with others; None takes whole devices.

    Raises:
        InvalidArgumentError: a quantity is negative or too large; names it.
    """

    cpu_milli: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpus: int = 0
    gpu_memory_bytes: int | None = None

    def __post_init__(self) -> None:
        bounded(self.cpu_milli, "demand.cpu")
        bounded(self.memory_bytes, "demand.memory")
        bounded(self.disk_bytes, "demand.disk")
        bounded(self.gpus, "demand.gpus", high=MAX_GPUS_PER_NODE)
        if self.gpu_memory_bytes is not None:
            bounded(self.gpu_memory_bytes, "demand.gpuMemory", low=1)
            if self.gpus == 0:
                raise InvalidArgumentError("needs gpus of at least 1", field="demand.gpuMemory")


NO_DEMAND = Demand()


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuShare:
    """A slice of one device: whole devices have ``memory_bytes`` equal to the device's and ``whole`` set."""

    index: int
    memory_bytes: int
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The slice of one node that one workload holds from placement to its terminal phase.

    Args:
        gpus: one entry per device, sorted by index.
    """

    cpu_milli: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpus: tuple[GpuShare, ...] = ()
