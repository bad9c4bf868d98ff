"""The file of a SQLite database goes, or another takes its place: nothing that was acknowledged is lost by that."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from arcray.config import DatabaseSettings
from arcray.control.journal import Journal, Records
from arcray.control.rows import workload_row
from arcray.core.errors import InvalidArgumentError, UnavailableError
from arcray.core.ids import AccountId, ReservationId
from arcray.core.queries import GetStatement, ListWorkloads
from arcray.core.workload import Workload
from arcray.testing.builders import a_workload

READS: dict[str, Callable[[Journal], Awaitable[object]]] = {
    "workload": lambda journal: journal.workload(a_workload(1).id),
    "earlier": lambda journal: journal.earlier({a_workload(1).id}, {}),
    "reservation": lambda journal: journal.reservation(ReservationId(a_workload(1).id)),
    "workloads": lambda journal: journal.workloads(ListWorkloads(), limit=10, offset=0),
    "entry": lambda journal: journal.entry(AccountId("a"), "r"),
    "statement": lambda journal: journal.statement(GetStatement(account_id=AccountId("a"))),
    "events": lambda journal: journal.events(),
    "read": lambda journal: journal.read(lambda connection: connection.exec_driver_sql("SELECT 1").all()),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "arcray.db"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    journal = Journal(f"sqlite:///{path}", DatabaseSettings(busy_timeout_s=0.1))
    await journal.open()
    yield journal
    await journal.close()


def take(path: Path) -> None:
    path.rename(f"{path}.away")


def put_back(path: Path) -> None:
    Path(f"{path}.away").rename(path)


def is_there(path: Path) -> bool:
    return path.exists()


def make_empty(path: Path) -> None:
    path.touch()


def content(path: Path) -> bytes:
    return path.read_bytes()


def log_of(path: Path) -> bytes:
    return content(Path(f"{path}-wal"))


async def append(journal: Journal, number: int) -> None:
    await journal.append(Records(workloads=[workload_row(Workload(spec=a_workload(number)))]))


async def numbers(journal: Journal) -> list[int]:
    loaded = await journal.load(keep_finished=10, keep_finished_inference=10)
    by_id = {a_workload(number).id: number for number in range(1, 10)}
    return sorted(by_id[workload.spec.id] for workload in loaded.workloads)


def after_a_crash(path: Path, place: Path) -> list[str]:
    """Returns the ids of the workloads that the next process would find."""
    place.mkdir()
    for file in path.parent.iterdir():
        if not file.name.endswith("-shm"):
            shutil.copy(file, place)
    with closing(sqlite3.connect(place / path.name)) as connection:
        return [identity for (identity,) in connection.execute("SELECT id FROM workloads ORDER BY id")]


def ids(*found: int) -> list[str]:
    return sorted(a_workload(number).id for number in found)


@dataclass(frozen=True)
class Case:
    """A read while the file is away: with an empty one in its place or none, from a pooled connection or the first."""

    name: str
    replaced: bool
    pooled: bool


CASES = [Case(name, replaced, pooled) for name in READS for replaced in (False, True) for pooled in (False, True)]


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_no_read_touches_what_is_in_the_place_of_the_file(
    journal: Journal, path: Path, tmp_path: Path, case: Case
) -> None:
    read = READS[case.name]
    await append(journal, 1)
    if case.pooled:
        await read(journal)
    logged = log_of(path)
    take(path)
    if case.replaced:
        make_empty(path)
    with pytest.raises(UnavailableError, match="another file" if case.replaced else "has been removed"):
        await read(journal)
    assert is_there(path) is case.replaced
    assert log_of(path) == logged
    put_back(path)
    await read(journal)
    await append(journal, 2)
    assert await numbers(journal) == [1, 2]
    assert after_a_crash(path, tmp_path / "crash") == ids(1, 2)


async def test_a_writer_that_connects_again_makes_no_new_file(journal: Journal, path: Path) -> None:
    await append(journal, 1)
    take(path)
    journal._drop()
    with pytest.raises(UnavailableError, match="has been removed"):
        await append(journal, 2)
    assert not is_there(path)
    put_back(path)
    await append(journal, 2)
    assert await numbers(journal) == [1, 2]


@pytest.mark.parametrize("empty", [False, True])
async def test_no_database_is_begun_beside_the_log_of_another(path: Path, tmp_path: Path, empty: bool) -> None:
    crashed = tmp_path / "crash" / path.name
    journal = Journal(f"sqlite:///{path}")
    await journal.open()
    await append(journal, 1)
    shutil.copytree(path.parent, crashed.parent)
    await journal.close()
    take(crashed)
    if empty:
        make_empty(crashed)
    logged = log_of(crashed)
    second = Journal(f"sqlite:///{crashed}")
    with pytest.raises(InvalidArgumentError, match="beside its write-ahead log"):
        await second.open()
    assert log_of(crashed) == logged
    put_back(crashed)
    await second.open()
    assert await numbers(second) == [1]
    await second.close()


@pytest.mark.parametrize("by", ["append", "probe", "read"])
@pytest.mark.parametrize("replaced", [False, True])
async def test_a_log_that_is_removed_or_replaced_costs_nothing_acknowledged(
    journal: Journal, path: Path, tmp_path: Path, by: str, replaced: bool
) -> None:
    await append(journal, 1)
    await append(journal, 2)
    assert await journal.workload(a_workload(1).id) is not None
    take(Path(f"{path}-wal"))
    if replaced:
        make_empty(Path(f"{path}-wal"))
    match by:
        case "append":
            await append(journal, 3)
        case "probe":
            await journal.probe()
        case _:
            assert await journal.workload(a_workload(2).id) is not None
    await append(journal, 3)
    assert await journal.workload(a_workload(3).id) is not None
    assert after_a_crash(path, tmp_path / "crash") == ids(1, 2, 3)


async def test_a_log_of_a_connection_that_was_replaced_is_watched_too(
    journal: Journal, path: Path, tmp_path: Path
) -> None:
    await append(journal, 1)
    journal._drop()
    await append(journal, 2)
    take(Path(f"{path}-wal"))
    await append(journal, 3)
    assert after_a_crash(path, tmp_path / "crash") == ids(1, 2, 3)


async def test_a_log_that_has_gone_is_saved_once_its_readers_are_done(journal: Journal, path: Path) -> None:
    await append(journal, 1)
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN")
        other.execute("SELECT id FROM workloads").fetchall()
        take(Path(f"{path}-wal"))
        with pytest.raises(UnavailableError, match="in use"):
            await append(journal, 2)
    await append(journal, 2)
    assert await numbers(journal) == [1, 2]


async def test_a_backup_that_opens_and_closes_the_file_is_no_fault(
    journal: Journal, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await append(journal, 1)
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT id FROM workloads").fetchall()
    await append(journal, 2)
    assert await numbers(journal) == [1, 2]
    assert not caplog.records


@pytest.mark.parametrize("statement", ["CREATE TABLE bookmarks (x)", "CREATE TABLE alembic_version (version_num)"])
async def test_a_database_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path, statement: str) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute(statement)
    before = content(other)
    journal = Journal(f"sqlite:///{other}")
    with pytest.raises(InvalidArgumentError, match="is a database of something else"):
        await journal.open()
    await journal.close()
    assert content(other) == before
