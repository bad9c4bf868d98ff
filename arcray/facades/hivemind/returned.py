"""Results that workers return, as they are kept: a task's as it came, other work's as the files that it left.

A task's result is given out byte for byte. One that comes after the end is too: what the end says cannot change any
more, but where such a result is follows from the attempt. Work of another protocol has result files, and a worker can
return but one thing; a zip is taken for those files where it is one that can be trusted, and kept as it came where it
is not.
"""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Final

from arcray.core.blobkeys import result_key
from arcray.core.errors import ArcrayError, ResourceExhaustedError
from arcray.core.ports import BlobStore
from arcray.core.workload import WorkloadView
from arcray.facades.hivemind.outputs import RETURNED
from arcray.facades.hivemind.tasks import FACADE
from arcray.facades.hivemind.uploads import TASK_BYTES
from arcray.wire.archives import BROKEN, check_directory, safe_name

__all__ = ["files_of", "returned_key", "store_returned"]

_FILES: Final = 1_000


def returned_key(work: WorkloadView) -> str:
    """Returns where the result of a task is kept as its worker returned it."""
    return result_key(work.spec.id, RETURNED, work.attempt)


async def store_returned(blobs: BlobStore, work: WorkloadView, data: bytes, *, unpacked_bytes: int) -> Sequence[str]:
    """Stores what a worker returned; returns the keys, sorted. Nothing is stored of nothing.

    Args:
        unpacked_bytes: most that a zip may unpack to.

    Raises:
        ResourceExhaustedError: it is too large.
    """
    if len(data) > TASK_BYTES:
        raise ResourceExhaustedError(f"has {len(data)} bytes, at most {TASK_BYTES}", field="result_data")
    files: Mapping[str, bytes] = {RETURNED: data} if data else {}
    if data and work.spec.origin.facade != FACADE:
        files = await asyncio.to_thread(files_of, data, unpacked_bytes)
    keys = {result_key(work.spec.id, path, work.attempt): content for path, content in files.items()}
    for key, content in keys.items():
        await blobs.put(key, content)
    return sorted(keys)


def files_of(data: bytes, unpacked_bytes: int) -> Mapping[str, bytes]:
    """Returns the files of a zip by path; what is none, or not to be trusted, is one file as it came."""
    try:
        return _unpacked(data, unpacked_bytes)
    except (*BROKEN, OSError, ArcrayError):
        return {RETURNED: data}


def _unpacked(data: bytes, unpacked_bytes: int) -> Mapping[str, bytes]:
    check_directory(io.BytesIO(data))
    found: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as bundle:
        entries = [entry for entry in bundle.infolist() if not entry.is_dir()]
        if len(entries) > _FILES:
            raise ResourceExhaustedError(f"has {len(entries)} files")
        for entry in entries:
            path = str(safe_name(entry))
            with bundle.open(entry) as file:
                found[path] = file.read(unpacked_bytes + 1)  # what it states of its size is its sender's word
            unpacked_bytes -= len(found[path])
            if unpacked_bytes < 0:
                raise ResourceExhaustedError("unpacks to too much")
    return found
