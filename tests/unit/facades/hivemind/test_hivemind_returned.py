"""Results that workers return of other protocols' work: files where they can be trusted, else as they came."""

from __future__ import annotations

import stat
import zipfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcray.control.blobs import FsspecBlobs
from arcray.core.errors import ResourceExhaustedError
from arcray.core.workload import Phase, WorkloadView
from arcray.facades.hivemind.outputs import RETURNED
from arcray.facades.hivemind.returned import files_of, store_returned
from arcray.facades.hivemind.uploads import TASK_BYTES
from arcray.testing.builders import T0, a_workload
from tests import zips

ROOM = 1_000

a_zip = partial(zips.a_zip, mode=zips.PLAIN_FILE)


def test_a_zip_is_its_files() -> None:
    assert files_of(a_zip({"a/b.txt": b"1", "c": b"2", "d/": b""}), ROOM) == {"a/b.txt": b"1", "c": b"2"}


@pytest.mark.parametrize(
    "data",
    [
        b"no zip",
        a_zip({"a": b"1"})[:-3],
        a_zip({"../a": b"1"}),
        a_zip({"/etc/passwd": b"1"}),
        a_zip({"a\\..\\b": b"1"}),
        a_zip({"a": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777),
        a_zip({"a": bytes(ROOM + 1)}),
        a_zip({"a": bytes(ROOM), "b": b"1"}),
        a_zip({str(number): b"" for number in range(1_001)}),
        a_zip({"a": b"1" * 50}, method=zipfile.ZIP_STORED).replace(b"1" * 50, b"2" * 50),  # its sum is another's
        a_zip({"a": b"1"}).replace(b"PK\3\4", b"PK\3\5"),
    ],
)  # fmt: skip
def test_what_is_no_zip_to_be_trusted_is_kept_as_it_came(data: bytes) -> None:
    assert files_of(data, ROOM) == {RETURNED: data}


def test_what_a_zip_says_of_its_sizes_is_not_believed() -> None:
    honest = a_zip({"a": bytes(100 * ROOM)})
    lying = honest.replace((100 * ROOM).to_bytes(4, "little"), (5).to_bytes(4, "little"))
    assert lying != honest
    assert files_of(lying, ROOM) == {RETURNED: lying}


MAIN = a_zip({"a": b"the quick brown fox " * 4 + bytes(range(32, 96)), "b/c": b"hello"})


@given(st.integers(0, len(MAIN) - 1), st.integers(0, 255), st.integers(0, len(MAIN)))
def test_a_damaged_zip_is_its_files_or_kept_as_it_came(at: int, byte: int, cut: int) -> None:
    damaged = bytearray(MAIN)
    damaged[at] = byte
    for data in (bytes(damaged), MAIN[:cut], MAIN[cut:]):
        files = files_of(data, ROOM * 10)
        assert all(".." not in path and not path.startswith("/") for path in files)


async def test_a_result_of_100_mib_is_kept_and_one_byte_more_is_refused(tmp_path: Path) -> None:
    blobs = FsspecBlobs(tmp_path, max_blob_bytes=2 * TASK_BYTES)
    view = WorkloadView(
        spec=a_workload(1), phase=Phase.RUNNING, attempt=2, restarts=0, node_id=None, allocation=None, message="",
        result=None, placed_at=T0, started_at=T0, finished_at=None, ports=(),
    )  # fmt: skip
    with pytest.raises(ResourceExhaustedError, match="result_data: has 104857601 bytes, at most 104857600"):
        await store_returned(blobs, view, bytes(TASK_BYTES + 1), unpacked_bytes=ROOM)
    (key,) = await store_returned(blobs, view, bytes(TASK_BYTES), unpacked_bytes=ROOM)
    assert await blobs.size(key) == TASK_BYTES
    assert await store_returned(blobs, view, b"", unpacked_bytes=ROOM) == []
