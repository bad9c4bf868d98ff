"""What cannot work is refused before anything starts; what may work later is not."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fsspec
import pytest
from fsspec import AbstractFileSystem

from arcray import facades
from arcray.config import load
from arcray.core.errors import InvalidArgumentError
from arcray.runtime.start_check import check_start

NOBODY = 65_534


def refusal(**settings: Any) -> InvalidArgumentError:
    with pytest.raises(InvalidArgumentError) as refused:
        check_start(load(**settings))
    return refused.value


def test_an_empty_directory_is_no_obstacle(tmp_path: Path) -> None:
    check_start(load(state_dir=tmp_path))
    check_start(load(state_dir=tmp_path / "a" / "b"))
    check_start(load(state_dir=tmp_path, database_url="sqlite://"))
    check_start(load(state_dir=tmp_path, database_url="postgresql://nobody.invalid/x"))
    assert list(tmp_path.iterdir()) == []


def test_a_protocol_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert refusal(state_dir=tmp_path, facades=["rest", "nope"]).field == "facades"
    assert "'nope'" in str(refusal(state_dir=tmp_path, facades=["nope"]))


@pytest.mark.parametrize("name", ["__pycache__", "__init__", "README", "rest.x", ""])
def test_what_lies_beside_the_protocols_is_none(tmp_path: Path, name: str) -> None:
    (Path(facades.__file__).parent / "__pycache__").mkdir(exist_ok=True)
    assert refusal(state_dir=tmp_path, facades=["rest", name]).field == "facades"


def test_serving_nothing_is_refused(tmp_path: Path) -> None:
    assert refusal(state_dir=tmp_path, facades=[]).field == "facades"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nope://bucket", "cannot use this blob store"),
        ("://", "no scheme"),
        ("http://host/path", "http cannot be written"),
        ("zip://x", "zip cannot be written"),
        ("simplecache::https://host/path", "https cannot be written"),
        ("memory://a\0b", "NUL"),
        ("breaks://x", "cannot use this blob store: KeyError: 'anything at all'"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused(tmp_path: Path, url: str, message: str) -> None:
    fsspec.register_implementation("breaks", Breaks, clobber=True)
    error = refusal(state_dir=tmp_path, blobs={"url": url})
    assert error.field == "blobs.url"
    assert message in str(error)


class Breaks(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A store whose library raises what it likes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        raise KeyError("anything at all")


@pytest.mark.parametrize("below", ["", "/below/it"])
def test_a_file_where_a_directory_is_to_be_is_refused(tmp_path: Path, below: str) -> None:
    file = tmp_path / "file"
    file.touch()
    wrong: dict[str, dict[str, Any]] = {
        "blobs.url": {"state_dir": tmp_path, "blobs": {"url": f"{file}{below}"}},
        "state_dir": {"state_dir": f"{file}{below}"},
    }
    for field, settings in wrong.items():
        error = refusal(**settings)
        assert error.field == field
        assert f"{file} is no directory" in str(error)


@pytest.mark.parametrize("field", ["state_dir", "database_url", "blobs.url"])
def test_a_path_with_a_nul_is_refused(tmp_path: Path, field: str) -> None:
    path = f"{tmp_path}/a\0b"
    settings: dict[str, dict[str, Any]] = {
        "state_dir": {"state_dir": path},
        "database_url": {"database_url": f"sqlite:///{path}"},
        "blobs.url": {"blobs": {"url": path}},
    }
    error = refusal(**settings[field])
    assert error.field == field
    assert "NUL" in str(error)


@pytest.mark.parametrize("field", ["state_dir", "blobs.url"])
def test_a_path_that_is_too_long_is_refused(tmp_path: Path, field: str) -> None:
    path = tmp_path / ("x" * 5000)
    error = refusal(**({"state_dir": path} if field == "state_dir" else {"blobs": {"url": str(path)}}))
    assert error.field == field


def test_a_directory_of_somebody_else_is_refused() -> None:
    with TemporaryDirectory(dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o555)
        assert "this user" in as_nobody(lambda: str(refusal(state_dir=directory / "state")))


@pytest.mark.parametrize("name", ["arcray.db", "a?b#c%20d.db"])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, name: str) -> None:
    garbage = tmp_path / name
    garbage.write_bytes(b"not what it was" * 1000)
    url = "" if name == "arcray.db" else f"sqlite:///{tmp_path}/a%3Fb%23c%2520d.db"
    error = refusal(state_dir=tmp_path, database_url=url)
    assert error.field == "database_url"
    assert str(error).endswith(f"{garbage}: file is not a database")


def as_nobody(told: Callable[[], str]) -> str:
    """Returns what a process without root's rights tells."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(NOBODY)
            os.write(writing, told().encode())
        finally:
            os._exit(0)  # a copy of the test's own process must not go on
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(pid, 0)
    return answer


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is no file" in str(refusal(database_url=f"sqlite:///{tmp_path}"))
    beside = refusal(state_dir=tmp_path, database_url=f"sqlite:///{tmp_path}/file/arcray.db")
    assert "its directory is a file" in str(beside)


def test_a_file_of_somebody_else_is_refused() -> None:
    with TemporaryDirectory(dir="/tmp") as name:  # which nobody may pass through, unlike that of a test
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "arcray.db").touch(mode=0o400)
        assert "this user" in as_nobody(lambda: str(refusal(state_dir=directory)))


def test_a_locked_database_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "arcray.db"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("PRAGMA journal_mode=WAL")
    holder.execute("BEGIN EXCLUSIVE")
    holder.execute("CREATE TABLE t (x)")
    check_start(load(state_dir=tmp_path))
    holder.close()


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE bookmarks (x)")
    error = refusal(state_dir=tmp_path, database_url=f"sqlite:///{tmp_path}/other.db")
    assert error.field == "database_url"
    assert "of something else, with the tables bookmarks" in str(error)


@pytest.mark.parametrize("empty", [False, True])
def test_a_database_that_is_missing_beside_its_log_is_refused(tmp_path: Path, empty: bool) -> None:
    (tmp_path / "arcray.db-wal").write_bytes(b"acknowledged")
    if empty:
        (tmp_path / "arcray.db").touch()
    error = refusal(state_dir=tmp_path)
    assert error.field == "database_url"
    assert "beside its write-ahead log" in str(error)


def test_a_damaged_database_is_left_to_the_scheduler(tmp_path: Path) -> None:
    """It may be one whose last pages are still in its log."""
    path = tmp_path / "arcray.db"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("CREATE TABLE t (x)")
    holder.close()
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * 5000)
    check_start(load(state_dir=tmp_path))
    (tmp_path / "arcray.db").write_bytes(b"")
    check_start(load(state_dir=tmp_path))
