"""A model: a named, registered artifact that nodes load and inference requests name.

A loaded copy is an ordinary workload with a ``ModelServer`` payload, so placement, GPU shares, restarts, logs and
stopping are those of every workload. What a node can answer for *now* is reported by the node as ``ModelSlots``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from arcray.core.ids import AccountId, ModelId, WorkloadId
from arcray.core.resources import NO_DEMAND, Demand

__all__ = ["RESERVED_VARIABLES", "Model", "ModelFormat", "ModelSlots"]

RESERVED_VARIABLES: Final = frozenset(
    {
        "ARCRAY_GPU_MEMORY_BYTES", "CUDA_VISIBLE_DEVICES", "HOME", "LANG", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
        "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PATH", "PYTHONPATH", "PYTHONUNBUFFERED",
    }
)  # fmt: skip
"""What a node sets itself in the process of a model, so that no model may."""


class ModelFormat(StrEnum):
    """How a model is run."""

    PYTHON = "python"  # a callable, ``module:name`` or the name of an entry point in group ``arcray.models``
    ONNX = "onnx"  # a file, run by onnxruntime
    OPENAI = "openai"  # an OpenAI-compatible HTTP endpoint such as vLLM or Ollama


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A registered model.

    Args:
        id: its public name, 1 to 128 characters; unique.
        format: how it is run.
        source: ``module:name`` (python), a blob key (onnx) or a base URL (openai).
        target: the name the endpoint knows it by (openai); "" means ``id``.
        max_concurrency: requests in flight that one loaded copy takes; None leaves it to the runner.
        demand: what one loaded copy asks of a node.
        env: environment of its process.
        owner: the account that registered it, and may have it forgotten; "" leaves that to operators.
    """

    id: ModelId
    format: ModelFormat
    source: str
    created_at: datetime
    target: str = ""
    max_concurrency: int | None = None
    demand: Demand = NO_DEMAND
    env: tuple[tuple[str, str], ...] = ()
    owner: AccountId = AccountId("")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSlots:
    """One copy of a model that a node answers for; a node may have several of one model.

    Args:
        slots: requests in flight that the node takes for it, 1 or more.
        workload_id: the workload that serves it, None on nodes whose models are not ours to load.
        pid: process that answers, None where unknown.
    """

    model_id: ModelId
    slots: int
    workload_id: WorkloadId | None = None
    pid: int | None = None
