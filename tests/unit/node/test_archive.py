"""Archives from strangers stay where they are put."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from arcray.core.errors import ArcrayError, InvalidArgumentError, ResourceExhaustedError
from arcray.node.archive import find_entry_point, unpack


def write(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, data in entries:
            bundle.writestr(name, data)
    return path


def entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "inner" / "target"
    path.mkdir(parents=True)
    return path


def test_archive_is_unpacked_with_its_folders(tmp_path: Path, target: Path) -> None:
    unpack(write(tmp_path / "a.zip", ("main.py", b"1"), ("pkg/", b""), ("pkg/mod.py", b"2")), target, max_bytes=2)
    assert (target / "main.py").read_bytes() == b"1"
    assert (target / "pkg" / "mod.py").read_bytes() == b"2"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../out", "a path that leaves the archive"),
        ("a/../../out", "a path that leaves the archive"),
        ("/out", "an absolute path"),
        ("\\out", "an absolute path"),
        ("c:/out", "an absolute path"),
        ("/".join("a" * 40), "a path too deep"),
        (entry("link", stat.S_IFLNK | 0o777), "a symbolic link"),
        (entry("pipe", stat.S_IFIFO | 0o777), "neither a file nor a directory"),
        (entry("null", stat.S_IFCHR | 0o777), "neither a file nor a directory"),
    ],
)
def test_entry_that_would_leave_the_directory_is_refused(
    tmp_path: Path, target: Path, name: str | zipfile.ZipInfo, reason: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=f"is {reason}"):
        unpack(write(tmp_path / "a.zip", (name, b"/etc")), target, max_bytes=100)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip", "inner", "target"]


def test_bomb_is_stopped_while_it_unpacks(tmp_path: Path, target: Path) -> None:
    bomb = write(tmp_path / "a.zip", ("a", b"0" * 10_000_000), ("b", b"0" * 10_000_000))
    assert bomb.stat().st_size < 50_000
    with pytest.raises(ResourceExhaustedError, match="unpacks to more bytes than allowed"):
        unpack(bomb, target, max_bytes=15_000_000)
    assert sum(path.stat().st_size for path in target.iterdir()) <= 15_000_000


def test_size_that_the_archive_states_is_not_believed(tmp_path: Path, target: Path) -> None:
    path = write(tmp_path / "a.zip", ("a", b"0" * 100_000))
    lying = path.read_bytes().replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    path.write_bytes(lying)
    with pytest.raises(ArcrayError):
        unpack(path, target, max_bytes=1000)
    assert sum(each.stat().st_size for each in target.iterdir()) <= 1000


def test_too_many_entries_are_refused(tmp_path: Path, target: Path) -> None:
    """Writes 10,001 entries, which takes a few tenths of a second."""
    with pytest.raises(ResourceExhaustedError, match="has 10001 entries"):
        unpack(write(tmp_path / "a.zip", *((str(i), b"") for i in range(10_001))), target, max_bytes=1000)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_name_that_comes_twice_is_refused(tmp_path: Path, target: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="twice"):
        unpack(write(tmp_path / "a.zip", ("a", b"1"), ("a", b"2")), target, max_bytes=1000)
    with pytest.raises(InvalidArgumentError, match="twice"):
        unpack(write(tmp_path / "b.zip", ("b", b"1"), ("b/c", b"2")), target, max_bytes=1000)


def test_usual_entry_points_are_found_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.py").touch()
    (tmp_path / "a.py").touch()
    assert find_entry_point(tmp_path, "") == "a.py"
    for name in ("script.py", "app.py", "run.py", "task_script.py", "main.py"):
        (tmp_path / name).touch()
        assert find_entry_point(tmp_path, "") == name
    assert find_entry_point(tmp_path, "b.py") == "b.py"


@pytest.mark.parametrize("asked", ["absent.py", "/etc/passwd", "../x.py", "."])
def test_entry_point_that_is_not_inside_is_refused(tmp_path: Path, asked: str) -> None:
    with pytest.raises(InvalidArgumentError) as refusal:
        find_entry_point(tmp_path, asked)
    assert refusal.value.field == "payload.entryPoint"
