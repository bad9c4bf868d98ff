"""What a task may be: source or a sound zip, of 100 MiB at the most, and nothing that leaves or floods a node."""

from __future__ import annotations

import io
import stat
import zipfile
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcray.core.errors import ArcrayError, InvalidArgumentError, ResourceExhaustedError
from arcray.facades.hivemind.uploads import TASK_BYTES, is_archive
from tests.zips import a_zip

ROOM = 1 << 20

MAIN = a_zip({"main.py": b"print(1)"})


def judged(task_data: bytes) -> bool:
    return is_archive(task_data, unpacked_bytes=ROOM)


@pytest.mark.parametrize("source", [b"print('Hello, HiveMind!')", "print('é')".encode(), b"syntax error (", b"\n"])
def test_text_is_a_program(source: bytes) -> None:
    assert not judged(source)


@pytest.mark.parametrize("files", [{"main.py": b""}, {"pkg/x.py": b"", "odd.py": b""}, {"d/": b"", "run.py": b"1"}])
def test_a_zip_with_a_python_file_at_its_top_is_an_archive(files: dict[str, bytes]) -> None:
    assert judged(a_zip(files))


def test_exactly_100_mib_are_taken() -> None:
    """Makes 100 MiB, which takes a while."""
    data = b"#" * TASK_BYTES
    assert len(data) == 104_857_600
    assert not judged(data)
    with pytest.raises(ResourceExhaustedError, match="task_data: has 104857601 bytes, at most 104857600"):
        judged(data + b"#")


@pytest.mark.parametrize(
    ("task_data", "why"),
    [
        (b"", "must not be empty"),
        (b"\xff\xfe\x00", "neither a zip archive nor Python source"),
        (b"print(1)\0", "it has a NUL"),
        (MAIN[:-1], "is not a readable zip"),
        (MAIN[: len(MAIN) // 2], "is not a readable zip"),
        (b"PK\3\4" + b"x" * 100, "is not a readable zip"),
        (b"PK\5\6" + bytes(18), r"has no \*.py at its top"),
        (b"PK\3\4" + MAIN[-76:], "is not a readable zip|is not where it should be"),
        (a_zip({"README": b""}), r"has no \*.py at its top"),
        (a_zip({"pkg/main.py": b""}), r"has no \*.py at its top"),
        (a_zip({"main.py": b"", "../x": b""}), "entry '../x' is a path that leaves the archive"),
        (a_zip({"main.py": b"", "/etc/cron.d/x": b""}), "is an absolute path"),
        (a_zip({"main.py": b"", "a\\..\\x": b""}), "is an absolute path"),
        (a_zip({"main.py": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777), "is a symbolic link"),
        (a_zip({"main.py": b""}, mode=stat.S_IFIFO), "is neither a file nor a directory"),
    ],
)
def test_what_cannot_be_run_is_refused(task_data: bytes, why: str) -> None:
    with pytest.raises(InvalidArgumentError, match=why):
        judged(task_data)


def test_a_bomb_is_refused_by_what_it_says_of_itself() -> None:
    with pytest.raises(ResourceExhaustedError, match=f"unpacks to {ROOM + 1} bytes, at most {ROOM}"):
        judged(a_zip({"main.py": bytes(ROOM + 1)}))
    with pytest.raises(ResourceExhaustedError, match="has 10001 entries, at most 10000"):
        judged(a_zip({f"{number}.py": b"" for number in range(10_001)}, method=zipfile.ZIP_STORED))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_is_named_once() -> None:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as bundle:
        bundle.writestr("main.py", "1")
        bundle.writestr("main.py", "2")
    with pytest.raises(InvalidArgumentError, match=r"names 'main\.py' twice"):
        judged(written.getvalue())


@given(st.integers(0, len(MAIN) - 1), st.integers(0, 255), st.integers(0, len(MAIN)))
def test_a_damaged_zip_is_judged_or_refused(at: int, byte: int, cut: int) -> None:
    damaged = bytearray(MAIN)
    damaged[at] = byte
    for data in (bytes(damaged), MAIN[:cut], MAIN[cut:], bytes(damaged) + MAIN[:cut]):
        with suppress(ArcrayError):
            judged(data)
