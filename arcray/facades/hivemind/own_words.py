"""What arcray's own ends tell each other beside the document's messages, as metadata of the same calls.

The document has one GPU of a worker, and no word for how much of it a task may use. Other workers and other pools send
none of this and ignore it, as gRPC has them do; what they get is the document's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from arcray.core.errors import InvalidArgumentError
from arcray.core.orders import StartWorkload
from arcray.core.resources import Allocation, Gpu, GpuShare
from arcray.core.workload import WorkloadView

__all__ = [
    "PREFIX",
    "Words",
    "allocation_of",
    "echoed",
    "gpus_of",
    "instance_of",
    "is_of_attempt",
    "saying_allocation",
    "saying_attempt",
    "saying_gpus",
    "saying_instance",
]

Words: TypeAlias = Mapping[str, str]
"""Metadata of a call whose keys begin with ``PREFIX``."""

PREFIX: Final = "arcray-"

_GPUS: Final = "arcray-gpus"
_ALLOCATION: Final = "arcray-allocation"
_ATTEMPT: Final = "arcray-attempt"
_INSTANCE: Final = "arcray-instance"
_MOST_GPUS: Final = 64
_LONGEST: Final = 256
_INT64: Final = 2**63
_WRONG: Final = (ValueError, TypeError, LookupError, RecursionError)


def saying_gpus(gpus: Sequence[Gpu]) -> Words:
    """Returns how a worker tells of all its GPUs when it registers."""
    return {_GPUS: json.dumps([[gpu.name[:_LONGEST], gpu.memory_bytes] for gpu in gpus])}


def gpus_of(words: Words) -> tuple[Gpu, ...] | None:
    """Returns the GPUs that a worker tells of, by index from 0; None where it tells of none but the document's.

    Raises:
        InvalidArgumentError: they are none.
    """
    if _GPUS not in words:
        return None
    try:
        told: Any = json.loads(words[_GPUS])
        gpus = tuple(
            Gpu(index=index, memory_bytes=_amount(memory_bytes), name=_name(name))
            for index, (name, memory_bytes) in enumerate(told[: _MOST_GPUS + 1])
        )
    except _WRONG as error:
        raise InvalidArgumentError("must be a list of names and bytes", field=_GPUS) from error
    if len(gpus) > _MOST_GPUS:
        raise InvalidArgumentError(f"may have {_MOST_GPUS} GPUs", field=_GPUS)
    return gpus


def saying_instance(instance: str) -> Words:
    """Returns how a worker tells, when it registers, which process it is: another one knows nothing of its tasks."""
    return {_INSTANCE: instance}


def instance_of(words: Words) -> str:
    """Returns which process a worker is; "" where it does not say.

    Raises:
        InvalidArgumentError: it cannot be one.
    """
    instance = words.get(_INSTANCE, "")
    if len(instance) > _LONGEST:
        raise InvalidArgumentError(f"may have {_LONGEST} characters", field=_INSTANCE)
    return instance


def saying_allocation(allocation: Allocation) -> Words:
    """Returns how the pool tells a worker which slice of it a task may use; GPUs by the worker's order."""
    shares = [[share.index, share.memory_bytes, share.whole] for share in allocation.gpus]
    told = {"cpu_milli": allocation.cpu_milli, "memory_bytes": allocation.memory_bytes, "gpus": shares}
    return {_ALLOCATION: json.dumps(told)}


def allocation_of(words: Words, offered: Sequence[Gpu]) -> Allocation | None:
    """Returns the slice that a task may use; None where the pool names none.

    Args:
        offered: the GPUs of this worker, in the order that it told of them.

    Raises:
        InvalidArgumentError: it is none, or not of these GPUs.
    """
    if _ALLOCATION not in words:
        return None
    try:
        told: Any = json.loads(words[_ALLOCATION])
        shares = {
            _amount(index): GpuShare(
                index=offered[_amount(index)].index, memory_bytes=_amount(memory_bytes), whole=whole is True
            )
            for index, memory_bytes, whole in told["gpus"]
        }
        return Allocation(
            cpu_milli=_amount(told["cpu_milli"]),
            memory_bytes=_amount(told["memory_bytes"]),
            gpus=tuple(share for _, share in sorted(shares.items())),
        )
    except _WRONG as error:
        raise InvalidArgumentError(f"is no slice of {len(offered)} GPUs", field=_ALLOCATION) from error


def saying_attempt(order: StartWorkload) -> Words:
    """Returns how the pool tells a worker which attempt a task is, also among tasks of its id that were deleted."""
    return {_ATTEMPT: _attempt(order.created_s, order.attempt)}


def echoed(words: Words) -> Words:
    """Returns what a worker says again with every word about a task, given what the pool said when it dialled."""
    return {key: words[key] for key in (_ATTEMPT,) if key in words}


def is_of_attempt(words: Words, work: WorkloadView) -> bool:
    """Returns whether a word is of the present attempt of some work, for all that its worker says of that."""
    said = words.get(_ATTEMPT)
    return said is None or said == _attempt(work.spec.created_at.timestamp(), work.attempt)


def _attempt(created_s: float, attempt: int) -> str:
    return f"{attempt} of {created_s!r}"


def _amount(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _INT64:
        raise ValueError("is no amount")
    return value


def _name(value: Any) -> str:
    if type(value) is not str or len(value) > _LONGEST or "\0" in value:
        raise ValueError("is no name")
    return value
