"""Data goes where a path says, whatever letters it has and wherever the process works that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from arcray.config import Settings, load
from arcray.control.blobs import FsspecBlobs
from arcray.control.journal import Journal
from arcray.core.errors import InvalidArgumentError
from arcray.core.ids import WorkloadId
from arcray.runtime.remote_blobs import RemoteBlobs, SharedBlobs, blobs_for
from arcray.testing.clock import FakeClock

ODD = ["q?x=1", "a%20b", "a::b", "with space", "memory::a", "a#b", "a\\b", "*[x]", "a:b@c", "~x"]


class NoTransport:
    async def blob(self, operation: str, key: str, *arguments: Any) -> Any:
        raise AssertionError(operation, key, arguments)

    async def logs_grew(self, sizes: Mapping[WorkloadId, int]) -> None:
        raise AssertionError(sizes)


async def write(settings: Settings) -> None:
    journal = Journal(settings.sql_url, settings.database)
    await journal.open()
    await journal.close()
    await FsspecBlobs(settings.blob_place, max_blob_bytes=10).put("logs/w.log", b"x")


def below(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ODD)
async def test_a_path_means_itself(tmp_path: Path, name: str) -> None:
    """Makes a database on a disk."""
    await write(load(state_dir=tmp_path / name))
    assert below(tmp_path) == {f"{name}/arcray.db", f"{name}/blobs/logs/w.log"}


@pytest.mark.parametrize("name", ODD)
async def test_blobs_on_a_disk_are_reached_through_the_scheduler(tmp_path: Path, name: str) -> None:
    for url in (str(tmp_path / name), f"file://{tmp_path / name}", f"local://{tmp_path / name}"):
        settings = load(blobs={"url": url})
        assert settings.blob_place == tmp_path / name
        assert isinstance(blobs_for(settings, NoTransport(), FakeClock()), RemoteBlobs)


def test_other_stores_keep_their_url() -> None:
    assert load(blobs={"url": "memory://x"}).blob_place == "memory://x"
    assert load(blobs={"url": "simplecache::s3://bucket/x"}).blob_place == "simplecache::s3://bucket/x"
    assert isinstance(blobs_for(load(blobs={"url": "memory://x"}), NoTransport(), FakeClock()), RemoteBlobs)
    assert isinstance(blobs_for(load(blobs={"url": "dir::file:///x"}), NoTransport(), FakeClock()), SharedBlobs)


def test_paths_begin_where_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ana")
    assert load(state_dir="state").state_dir == tmp_path / "state"
    node = load(node={"models": {"python_path": ["code"]}, "containers": {"mounts": ["data"]}}).node
    assert (node.models.python_path, node.containers.mounts) == ((tmp_path / "code",), (tmp_path / "data",))
    assert load(state_dir="~/state").blob_place == Path("/home/ana/state/blobs")
    assert load(blobs={"url": "~/b"}).blob_place == Path("/home/ana/b")
    assert load(blobs={"url": "b"}).blob_place == tmp_path / "b"
    monkeypatch.setenv("ARCRAY_STATE_DIR", "~/other")
    assert load().state_dir == Path("/home/ana/other")


def test_what_was_read_stays_what_it_is(tmp_path: Path) -> None:
    settings = load(state_dir=tmp_path / "a?b", blobs={"url": f"{tmp_path}/c%20d"})
    assert load(**settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("setting", "field", "message"),
    [
        ({"state_dir": "~nobody-of-that-name/x"}, "state_dir", "home of nobody"),
        ({"blobs": {"url": "file://relative"}}, "blobs.url", "absolute path"),
    ],
)
def test_a_path_to_nowhere_is_refused(setting: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as refused:
        load(**setting)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://ana:secret@x/y", "mysql is not supported"),
        ("postgresql+asyncpg://x/y", "asyncpg is not supported"),
        ("postgres://x/y", "postgres is not supported; give sqlite:///path or postgresql://"),
        ("arcray.db", "is no URL"),
        ("postgresql://ana:secret@x:port/y", "is no URL"),
        ("postgresql://ana:secret@x:99999/y", "99999 is no port"),
        ("sqlite://arcray.db", "three slashes"),
        ("sqlite:///~nobody-of-that-name/x", "home of nobody"),
    ],
)
def test_a_database_that_cannot_be_ours_is_refused_by_its_text(url: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as refused:
        load(database_url=url)
    assert refused.value.field == "database_url"
    assert "secret" not in str(refused.value)


def test_databases_of_ours_are_taken_as_they_are() -> None:
    for url in (
        "sqlite://",
        "sqlite:////data/arcray.db",
        "sqlite+pysqlite:////data/arcray.db?timeout=1",
        "postgresql://ana:p%40ss@[::1]:5432/arcray?sslmode=require",
        "postgresql+psycopg:///arcray?host=/run/postgresql",
    ):
        assert load(database_url=url).database_url == url


def test_a_sqlite_file_begins_where_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ana")
    assert load(database_url="sqlite:///a.db").sql_url.database == str(tmp_path / "a.db")
    assert load(database_url="sqlite:///~/a.db?timeout=3").sql_url.database == "/home/ana/a.db"
