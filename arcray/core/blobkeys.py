"""Keys of the blob store: where programs, models, logs and results live, so that writers and readers agree."""

from __future__ import annotations

import re
from typing import Final

from arcray.core.errors import InvalidArgumentError
from arcray.core.ids import WorkloadId, canonical_uuid

__all__ = [
    "OWNED",
    "log_key",
    "model_key",
    "owner_of",
    "program_key",
    "result_key",
    "result_path",
    "result_prefix",
    "stdin_key",
    "workload_of_log",
]

_FOREIGN: Final = re.compile(r"[^A-Za-z0-9._/-]")


def log_key(workload_id: WorkloadId) -> str:
    """Returns the key of a workload's log; the attempts of one workload share it, in order."""
    return f"logs/{workload_id}.log"


def workload_of_log(key: str) -> WorkloadId | None:
    """Returns whose log the key leads to, None when it leads to something else."""
    return WorkloadId(key[len("logs/") : -len(".log")]) if key.startswith("logs/") and key.endswith(".log") else None


OWNED = ("logs", "programs", "results", "stdin")
"""Directories in which every entry belongs to one workload."""


def owner_of(entry: str) -> WorkloadId | None:
    """Returns whose an entry of one of the ``OWNED`` directories is; None where its name is none of ours.

    Args:
        entry: a name without its directory.
    """
    stem = entry.partition(".")[0]
    try:
        return WorkloadId(canonical_uuid(stem))
    except InvalidArgumentError:
        return None


def result_prefix(workload_id: WorkloadId) -> str:
    """Returns what the keys of all its result files begin with."""
    return f"results/{workload_id}/"


def result_key(workload_id: WorkloadId, path: str, attempt: int = 1) -> str:
    """Returns the key of a result file; characters that keys do not have become ``_``.

    Attempts share no key: a machine that was given up for lost, and works on, must not write over the results of the
    attempt that took its place.

    Args:
        path: relative to the result directory, with ``/`` between its parts.
    """
    named = _FOREIGN.sub("_", path)
    if named.startswith("-"):  # that is what the directories of later attempts begin with
        named = f"_{named[1:]}"
    return f"{result_prefix(workload_id)}{named if attempt == 1 else f'-{attempt}/{named}'}"


def result_path(key: str) -> str:
    """Returns the path of a result file by its key."""
    path = key.split("/", 2)[2]
    return path.split("/", 1)[1] if path.startswith("-") else path


def program_key(workload_id: WorkloadId, *, archive: bool) -> str:
    """Returns the key of a program's code: a zip archive, or the text of one file."""
    return f"programs/{workload_id}.{'zip' if archive else 'py'}"


def stdin_key(workload_id: WorkloadId) -> str:
    """Returns the key of what a program reads from its standard input."""
    return f"stdin/{workload_id}"


def model_key(sha256: str) -> str:
    """Returns the key of a model file; by content, so that the same file is kept once."""
    return f"models/{sha256}.onnx"
