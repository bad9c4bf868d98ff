"""What of a log is sent: all of it, its last lines, or all of it and what comes until the workload ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from arcray.core import events as ev
from arcray.core.blobkeys import log_key
from arcray.core.errors import NotFoundError
from arcray.core.ids import WorkloadId
from arcray.core.ports import BlobStore, ControlPlane
from arcray.core.queries import GetWorkload
from arcray.core.workload import WorkloadView
from arcray.wire.event_hub import EventHub, Subscription

__all__ = ["follow", "read", "tail_start"]

_CHUNK_BYTES: Final = 256 * 1024
_TOPICS: Final = frozenset({ev.Topic.LOGS, ev.Topic.WORKLOADS})


async def tail_start(blobs: BlobStore, key: str, lines: int) -> int:
    """Returns where the last ``lines`` lines of a log begin; a last line without an end counts."""
    end = await blobs.size(key) or 0
    if not lines:
        return end
    start, wanted = end, lines
    while start > 0:
        begin = max(0, start - _CHUNK_BYTES)
        chunk = await _part(blobs, key, begin, start)
        if start == end and chunk.endswith(b"\n"):
            wanted += 1  # the newest line's own end begins no other line
        found = chunk.count(b"\n")
        if found >= wanted:
            return begin + _nth_last(chunk, wanted) + 1
        wanted -= found
        start = begin
    return 0


async def read(blobs: BlobStore, key: str, start: int = 0) -> AsyncIterator[bytes]:
    """Yields a log from ``start`` to where it ended when reading began."""
    end = await blobs.size(key) or 0
    while start < end:
        chunk = await _part(blobs, key, start, min(end, start + _CHUNK_BYTES))
        if not chunk:
            return  # it was cut meanwhile
        yield chunk
        start += len(chunk)


async def follow(
    plane: ControlPlane, events: EventHub, workload_id: WorkloadId, start: int = 0
) -> AsyncIterator[bytes]:
    """Yields a log from ``start`` and as it grows, until its workload ends.

    Not for inference requests: they have no log, and their many events are left unread here.
    """
    key = log_key(workload_id)
    async with events.subscribe(_TOPICS) as subscription:
        ended = await _has_ended(plane, workload_id)
        while True:
            # What was cut away from the front shifts the rest; only its end is a place that surely was not sent.
            start = min(start, await plane.blobs.size(key) or 0)
            async for chunk in read(plane.blobs, key, start):
                start += len(chunk)
                yield chunk
            if ended:
                return
            ended = await _next_change(plane, subscription, workload_id)


async def _next_change(plane: ControlPlane, subscription: Subscription, workload_id: WorkloadId) -> bool:
    """Waits until the log grew or the workload ended; returns whether it ended."""
    async for batch in subscription:
        mine = [event for event in batch.events if _is_about(event, workload_id)]
        if any(isinstance(event, ev.WorkloadFinished) for event in mine):
            return True
        if batch.gap:
            return await _has_ended(plane, workload_id)
        if mine:
            return False
    raise AssertionError("a subscription does not end")


def _is_about(event: ev.Event, workload_id: WorkloadId) -> bool:
    return isinstance(event, (ev.LogAppended, ev.WorkloadFinished)) and event.workload_id == workload_id


async def _has_ended(plane: ControlPlane, workload_id: WorkloadId) -> bool:
    try:
        view: WorkloadView = await plane.query(GetWorkload(workload_id=workload_id))
    except NotFoundError:
        return True
    return view.phase.terminal


async def _part(blobs: BlobStore, key: str, start: int, end: int) -> bytes:
    try:
        return await blobs.get(key, start, end)
    except NotFoundError:
        return b""


def _nth_last(chunk: bytes, nth: int) -> int:
    at = len(chunk)
    for _ in range(nth):
        at = chunk.rindex(b"\n", 0, at)
    return at
