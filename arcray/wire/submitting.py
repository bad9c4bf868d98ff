"""Submitting work with the blobs that it names: they are stored before it, and go again with a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from arcray.core.blobkeys import inline
from arcray.core.commands import Submitted, SubmitWorkload
from arcray.core.errors import ArcrayError, Code
from arcray.core.ports import ControlPlane
from arcray.core.workload import WorkloadSpec

__all__ = ["submit_work"]

_UNKNOWN: Final = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.INTERNAL})


async def submit_work(plane: ControlPlane, spec: WorkloadSpec, blobs: Mapping[str, bytes]) -> Submitted:
    """Submits work that nobody waits for.

    Args:
        blobs: by key, of this submission alone; not kept where an earlier one with the same idempotency key counts.
            What is its own key goes with the workload.

    Raises:
        ArcrayError: it was refused.
        UnavailableError: nothing is known of the submission.
    """
    stored = [key for key in blobs if inline(key) is None]
    for key in stored:
        await plane.blobs.put(key, blobs[key])
    # Where this raises, nothing is known of the submission: it may have been accepted, so its blobs stay.
    (reply,) = await plane.submit((SubmitWorkload(spec=spec),))
    if _came_to_nothing(reply, spec):
        for key in stored:
            await plane.blobs.delete(key)
    if isinstance(reply, ArcrayError):
        raise reply
    assert isinstance(reply, Submitted), "work that nobody waits for is answered at once"
    return reply


def _came_to_nothing(reply: Submitted | ArcrayError, spec: WorkloadSpec) -> bool:
    """Returns whether no workload has these blobs.

    A line to the scheduler that breaks has the same submission asked twice: it is then not new, and yet this one's.
    """
    if isinstance(reply, ArcrayError):
        return reply.code not in _UNKNOWN
    return reply.workload_id != spec.id
