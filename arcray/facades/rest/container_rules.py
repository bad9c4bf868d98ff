"""What holds of containers beyond the form of their members: the rules of claw-proto's document, told by our own names.

So what is submitted here is refused here, and not by the claw node that it is placed on. Names of variables are freer
than that document's first implementation has them: other nodes take any.

Source: claw-proto API Reference, "Validation".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from arcray import claw_proto as claw
from arcray.core.errors import InvalidArgumentError
from arcray.core.quantity import MIB
from arcray.core.workload import Container, WorkloadSpec

__all__ = ["check_container"]

_NAMES: Final[Mapping[str, tuple[str, str]]] = {
    "gpu_count": ("demand.gpus", ""),
    "gpu_memory_mb": ("demand.gpuMemoryMb", ""),
    "cpu_millicores": ("demand.cpu", "in millicores "),
    "memory_mb": ("demand.memoryMb", ""),
}
"""Their fields, as our bodies name them, and the unit where it is another."""


def check_container(spec: WorkloadSpec) -> WorkloadSpec:
    """Returns a workload whose payload is no container, or one that keeps the rules.

    Raises:
        InvalidArgumentError: it breaks one; names the field and says how.
    """
    container, demand = spec.payload, spec.demand
    if not isinstance(container, Container):
        return spec
    gpu_memory = demand.gpu_memory_bytes
    asked = claw.WorkloadSpec(
        image=container.image,
        gpu_count=demand.gpus,
        gpu_memory_mb=None if gpu_memory is None else gpu_memory // MIB,
        cpu_millicores=demand.cpu_milli,
        memory_mb=demand.memory_bytes // MIB,
        ports=tuple(port.container_port for port in container.ports),
    )
    try:
        claw.validate_workload_spec(asked)
    except claw.ValidationError as error:
        name, unit = _NAMES.get(error.field or "", (error.field, ""))
        raise InvalidArgumentError(f"{unit}{error.message}", field=name) from error
    return spec
