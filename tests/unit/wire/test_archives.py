"""What is said of a zip before it is read."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest

from arcray.core.errors import InvalidArgumentError, ResourceExhaustedError
from arcray.wire.archives import MAX_DIRECTORY_BYTES, check_directory, entry_point_among, safe_name


def a_zip(*names: str, comment: bytes = b"") -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as bundle:
        for name in names:
            bundle.writestr(name, "")
        bundle.comment = comment
    return written.getvalue()


@pytest.mark.parametrize("comment", [b"", b"made by hand", b"x" * 65_535])
def test_ordinary_archives_pass(comment: bytes) -> None:
    check_directory(io.BytesIO(a_zip("main.py", comment=comment)))


def test_an_archive_without_a_directory_is_none() -> None:
    for data in (b"", b"PK", a_zip("main.py")[:-10], b"print(1)"):
        with pytest.raises(InvalidArgumentError, match="is not a readable zip"):
            check_directory(io.BytesIO(data))


def test_a_directory_that_would_take_a_gigabyte_is_refused_before_it_is_read() -> None:
    entries = MAX_DIRECTORY_BYTES // 46 + 1
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", *[0] * 18)
    directory = entry * entries
    assert len(entry) == 46
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, entries & 0xFFFF, entries & 0xFFFF, len(directory), 0, 0)
    with pytest.raises(ResourceExhaustedError, match="its directory may have"):
        check_directory(io.BytesIO(directory + end))


def test_the_form_for_larger_archives_is_refused() -> None:
    data = a_zip("main.py")
    located = data[:-22] + b"PK\6\7" + bytes(16) + data[-22:]
    with pytest.raises(ResourceExhaustedError, match="zip64"):
        check_directory(io.BytesIO(located))


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (("app.py", "run.py", "task_script.py", "main.py"), "main.py"),
        (("script.py", "app.py"), "app.py"),
        (("zeta.py", "alpha.py", "README"), "alpha.py"),
        (("README", "main.pyc"), None),
        ((), None),
    ],
)
def test_the_file_to_run_is_the_first_of_the_usual_ones(files: tuple[str, ...], chosen: str | None) -> None:
    assert entry_point_among(files) == chosen


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "C:/x", "a\\b", "."])
def test_entries_stay_inside(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"entry '.*' is "):
        safe_name(zipfile.ZipInfo(name))
