from __future__ import annotations

import asyncio
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from arcray.control import blobs as module
from arcray.control.blobs import FsspecBlobs
from arcray.core.errors import (
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)


@pytest.fixture(params=["file", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> FsspecBlobs:
    url = f"file://{tmp_path}/blobs" if request.param == "file" else f"memory://{tmp_path}/blobs"
    return FsspecBlobs(url, max_blob_bytes=1000)


@pytest.fixture
def on_disk(tmp_path: Path) -> FsspecBlobs:
    return FsspecBlobs(tmp_path, max_blob_bytes=1000)


async def test_what_was_put_is_got(blobs: FsspecBlobs) -> None:
    await blobs.put("a/b.bin", b"0123456789")
    assert await blobs.get("a/b.bin") == b"0123456789"
    assert await blobs.size("a/b.bin") == 10


@pytest.mark.parametrize(
    ("start", "end", "data"), [(3, None, b"3456789"), (2, 4, b"23"), (8, 99, b"89"), (10, None, b""), (5, 5, b"")]
)
async def test_a_range_ends_before_its_end(blobs: FsspecBlobs, start: int, end: int | None, data: bytes) -> None:
    await blobs.put("x", b"0123456789")
    assert await blobs.get("x", start, end) == data


async def test_a_key_may_have_letters_of_any_script(blobs: FsspecBlobs) -> None:
    await blobs.put("results/1/-2/結果=20é.txt", b"x")
    assert await blobs.append("results/1/-2/結果=20é.txt", b"y") == 2
    await blobs.delete_below("results/1/-2")
    assert await blobs.size("results/1/-2/結果=20é.txt") is None


async def test_a_disk_that_hangs_holds_up_no_other_threads(blobs: FsspecBlobs) -> None:
    """The pool that everything else shares takes nothing here, and it works all the same."""
    nobody = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(nobody)
    nobody.shutdown()
    await blobs.put("x", b"1")
    assert await blobs.get("x") == b"1"


async def test_putting_replaces(blobs: FsspecBlobs) -> None:
    await blobs.put("x", b"first, and longer")
    await blobs.put("x", b"second")
    assert await blobs.get("x") == b"second"


async def test_appending_creates_and_tells_the_size(blobs: FsspecBlobs) -> None:
    assert await blobs.append("logs/x.log", b"one ") == 4
    assert await blobs.append("logs/x.log", b"two") == 7
    assert await blobs.get("logs/x.log") == b"one two"


async def test_a_deleted_blob_is_gone_and_deleting_none_is_no_error(blobs: FsspecBlobs) -> None:
    await blobs.put("x", b"")
    await blobs.delete("x")
    await blobs.delete("x")
    assert await blobs.size("x") is None


async def test_getting_none_is_an_error(blobs: FsspecBlobs) -> None:
    with pytest.raises(NotFoundError, match="no blob a/x"):
        await blobs.get("a/x")


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "../x", "a/../x", "a/./x", "a//x", "a/", "a b", "a\x00", "a*", "x" * 513, ".partial/1"],
)
async def test_a_key_leads_nowhere_else(on_disk: FsspecBlobs, key: str) -> None:
    for call in (on_disk.put(key, b""), on_disk.append(key, b""), on_disk.get(key), on_disk.delete(key)):
        with pytest.raises(InvalidArgumentError) as caught:
            await call
        assert caught.value.field == "key"


@pytest.mark.parametrize("key", ["a", "a..b", ".hidden", "a-b_c.d/0", "x" * 512])
async def test_these_keys_are_fine(blobs: FsspecBlobs, key: str) -> None:
    if len(key) < 256 or blobs._local is False:
        await blobs.put(key, b"1")
        assert await blobs.get(key) == b"1"
    else:
        with pytest.raises(UnavailableError, match="name too long"):
            await blobs.put(key, b"1")


async def test_all_blobs_below_a_directory_go_and_no_others(blobs: FsspecBlobs) -> None:
    for key in ("results/1/a", "results/1/deep/b", "results/12/a", "results/2"):
        await blobs.put(key, b"1")
    for _ in range(2):
        await blobs.delete_below("results/1/")
    sizes = [await blobs.size(key) for key in ("results/1/a", "results/1/deep/b", "results/12/a", "results/2")]
    assert sizes == [None, None, 1, 1]


async def test_a_negative_range_is_refused(blobs: FsspecBlobs) -> None:
    with pytest.raises(InvalidArgumentError):
        await blobs.get("x", -1)


async def test_a_blob_has_a_largest_size(blobs: FsspecBlobs) -> None:
    with pytest.raises(ResourceExhaustedError, match="1000 bytes"):
        await blobs.put("x", b"1" * 1001)
    await blobs.append("x", b"1" * 999)
    with pytest.raises(ResourceExhaustedError):
        await blobs.append("x", b"12")
    assert await blobs.size("x") == 999


async def test_a_key_in_the_way_of_another_is_a_conflict(on_disk: FsspecBlobs) -> None:
    await on_disk.put("a", b"1")
    with pytest.raises(ConflictError):
        await on_disk.put("a/b", b"1")
    await on_disk.put("c/d", b"1")
    with pytest.raises(ConflictError):
        await on_disk.put("c", b"1")
    assert await on_disk.size("c") is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
async def test_a_full_disk_is_told_and_the_blob_before_it_stays(on_disk: FsspecBlobs, tmp_path: Path) -> None:
    await on_disk.put("x", b"before")
    (tmp_path / ".partial" / f"{os.getpid()}-1").symlink_to("/dev/full")
    with pytest.raises(ResourceExhaustedError, match="full"):
        await on_disk.put("x", b"after")
    assert await on_disk.get("x") == b"before"
    assert list((tmp_path / ".partial").iterdir()) == []


async def test_a_full_disk_is_told_by_append_too(on_disk: FsspecBlobs, tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    with pytest.raises(ResourceExhaustedError, match="full"):
        await on_disk.append("log", b"line")


def test_any_other_failure_is_unavailable() -> None:
    assert isinstance(module._mapped(OSError(errno.EIO, "broken"), "x"), UnavailableError)
    assert isinstance(module._mapped(OSError(errno.EDQUOT, "quota"), "x"), ResourceExhaustedError)


async def test_nothing_is_left_of_a_finished_write(on_disk: FsspecBlobs, tmp_path: Path) -> None:
    await on_disk.put("a/x", b"1")
    found = await asyncio.to_thread(lambda: sorted(path.name for path in tmp_path.rglob("*")))
    assert found == [".partial", "a", "x"]


@pytest.mark.parametrize("url", ["nosuchscheme://x"])
def test_a_store_that_does_not_exist_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgumentError):
        FsspecBlobs(url, max_blob_bytes=1)
