"""Builders: valid values with every field defaulted, so that a test names only what it is about."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from arcray.core.ids import AccountId, KeyId, ModelId, NodeId, WorkloadId
from arcray.core.keys import ApiKey, Scope
from arcray.core.model import Model, ModelFormat
from arcray.core.node import DriverCapabilities, LeaseTerms, NodeRegistration
from arcray.core.quantity import CPU_MILLI, GIB
from arcray.core.resources import Capacity, Demand, Gpu
from arcray.core.workload import Container, Inference, Origin, Payload, WorkloadSpec

__all__ = [
    "EVERYTHING",
    "T0",
    "a_capacity",
    "a_container",
    "a_key",
    "a_model",
    "a_node",
    "a_workload",
    "an_inference",
    "node_id",
]

T0: Final = datetime(2026, 1, 1, tzinfo=UTC)

EVERYTHING: Final = DriverCapabilities(
    containers=True, programs=True, models=frozenset(ModelFormat), inference=True, sandbox="bubblewrap"
)


def node_id(number: int) -> NodeId:
    """Returns the id of node ``number``."""
    return NodeId(str(UUID(int=0xA000_0000 + number)))


def a_capacity(*, cores: int = 8, memory_gib: int = 32, gpus: int = 0, gpu_memory_gib: int = 80) -> Capacity:
    """Returns the capacity of a machine."""
    devices = tuple(Gpu(index=index, memory_bytes=gpu_memory_gib * GIB, name="NVIDIA H200") for index in range(gpus))
    return Capacity(cpu_milli=cores * CPU_MILLI, memory_bytes=memory_gib * GIB, disk_bytes=100 * GIB, gpus=devices)


def a_node(number: int = 1, **fields: Any) -> NodeRegistration:
    """Returns a machine that can do everything, with 8 cores, 32 GiB and no GPU."""
    defaults: dict[str, Any] = {
        "id": node_id(number),
        "name": f"node-{number}",
        "facade": "ray",
        "driver": "local",
        "capacity": a_capacity(),
        "capabilities": EVERYTHING,
        "lease": LeaseTerms(unhealthy_after_s=15.0, lost_after_s=150.0),
    }
    return NodeRegistration(**(defaults | fields))


def a_container(**fields: Any) -> Container:
    """Returns a container payload."""
    return Container(**({"image": "busybox"} | fields))


def an_inference(**fields: Any) -> Inference:
    """Returns an inference payload."""
    return Inference(**({"model_id": ModelId("echo")} | fields))


def a_model(name: str = "echo", **fields: Any) -> Model:
    """Returns a Python model."""
    defaults: dict[str, Any] = {"id": ModelId(name), "format": ModelFormat.PYTHON, "source": "m:f", "created_at": T0}
    return Model(**(defaults | fields))


def a_workload(number: int = 1, payload: Payload | None = None, **fields: Any) -> WorkloadSpec:
    """Returns what an ordinary submission asks: one core and 1 GiB for a container."""
    defaults: dict[str, Any] = {
        "id": WorkloadId(str(UUID(int=0xB000_0000 + number))),
        "origin": Origin(facade="rest", account=AccountId("local")),
        "payload": payload or a_container(),
        "created_at": T0,
        "demand": Demand() if isinstance(payload, Inference) else Demand(cpu_milli=CPU_MILLI, memory_bytes=GIB),
    }
    return WorkloadSpec(**(defaults | fields))


def a_key(number: int = 1, **fields: Any) -> ApiKey:
    """Returns a key of the account ``ana`` that may submit; its secret is ``secret-<number>``."""
    defaults: dict[str, Any] = {
        "id": KeyId(str(UUID(int=0xC000_0000 + number))),
        "account": AccountId("ana"),
        "scope": Scope.SUBMIT,
        "prefix": "secret",
        "digest": sha256(f"secret-{number}".encode()).hexdigest(),
        "created_at": T0,
    }
    return ApiKey(**(defaults | fields))
