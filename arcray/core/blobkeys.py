"""Keys of the blob store: where logs and results live. One place, so that writers and readers agree."""

from __future__ import annotations

import re
from typing import Final

from arcray.core.ids import WorkloadId

__all__ = ["log_key", "result_key", "result_prefix"]

_FOREIGN: Final = re.compile(r"[^A-Za-z0-9._/-]")


def log_key(workload_id: WorkloadId) -> str:
    """Returns the key of a workload's log; the attempts of one workload share it, in order."""
    return f"logs/{workload_id}.log"


def result_prefix(workload_id: WorkloadId) -> str:
    """Returns what the keys of all its result files begin with."""
    return f"results/{workload_id}/"


def result_key(workload_id: WorkloadId, path: str) -> str:
    """Returns the key of a result file; characters that keys do not have become ``_``.

    Args:
        path: relative to the result directory, with ``/`` between its parts.
    """
    return result_prefix(workload_id) + _FOREIGN.sub("_", path)
