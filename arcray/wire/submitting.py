"""Submitting work with the blobs that it names: they are stored before it, and go again with a refusal."""

from __future__ import annotations

from collections.abc import Mapping

from arcray.core.commands import Submitted, SubmitWorkload
from arcray.core.errors import ArcrayError
from arcray.core.ports import ControlPlane
from arcray.core.workload import WorkloadSpec

__all__ = ["submit_work"]


async def submit_work(plane: ControlPlane, spec: WorkloadSpec, blobs: Mapping[str, bytes]) -> Submitted:
    """Submits work that nobody waits for.

    Args:
        blobs: by key, under the id of this workload; not kept where an earlier submission with the same key counts.

    Raises:
        ArcrayError: it was refused.
        UnavailableError: nothing is known of the submission.
    """
    for key, data in blobs.items():
        await plane.blobs.put(key, data)
    # Where this raises, nothing is known of the submission: it may have been accepted, so its blobs stay.
    (reply,) = await plane.submit((SubmitWorkload(spec=spec),))
    if isinstance(reply, ArcrayError) or not reply.created:
        for key in blobs:
            await plane.blobs.delete(key)
    if isinstance(reply, ArcrayError):
        raise reply
    assert isinstance(reply, Submitted), "work that nobody waits for is answered at once"
    return reply
