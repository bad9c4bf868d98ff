from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import TypeAdapter

from arcray.config import DatabaseSettings
from arcray.control import database, revision
from arcray.control.journal import Journal, Records
from arcray.control.migrations import _config, migrate, revisions
from arcray.control.rows import Row, decode_row, model_row, node_row, workload_row
from arcray.control.schema import METADATA
from arcray.core.errors import UnavailableError
from arcray.core.model import Model
from arcray.core.node import Node
from arcray.core.queries import ListWorkloads
from arcray.core.workload import PayloadKind, Workload
from tests.revision_samples import FOLDER, Rows, recorded

KINDS: dict[str, tuple[type[Any], Any]] = {
    "nodes": (Node, node_row),
    "workloads": (Workload, workload_row),
    "models": (Model, model_row),
}


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = database.engine(database_url, DatabaseSettings())
    yield engine
    engine.dispose()


def indexes(connection: sa.Connection) -> set[str | None]:
    inspector = sa.inspect(connection)
    return {index["name"] for table in METADATA.tables for index in inspector.get_indexes(table)}


def at_revision(engine: sa.Engine, revision: str, rows: Rows) -> None:
    """Makes a database as it was at a revision, with rows in it."""
    with database.writer(engine) as connection, connection.begin():
        migrate(connection, revision)
        for name, values in rows.items():
            table = sa.Table(name, sa.MetaData(), autoload_with=connection)
            connection.execute(sa.delete(table))  # what the migration itself put there
            if values:
                connection.execute(sa.insert(table), values)


def read(engine: sa.Engine, table: str) -> dict[str, dict[str, Any]]:
    with engine.connect() as connection:
        found = connection.execute(sa.text(f"SELECT * FROM {table}")).mappings()
        return {str(row.get("id", row.get("seq"))): dict(row) for row in found}


def kept(before: Any, after: Any) -> bool:
    """Returns whether a JSON value has all that it had; more is fine."""
    if isinstance(before, dict) and isinstance(after, dict):
        # Of nodes: it follows from ``drain`` now, and was never true before there were drains.
        told = {key: value for key, value in before.items() if key != "draining" or value}
        return all(key in after and kept(value, after[key]) for key, value in told.items())
    if isinstance(before, list) and isinstance(after, list):
        if before and isinstance(before[0], str):  # may have been a set, which has no order
            before, after = sorted(before), sorted(after)
        return len(before) == len(after) and all(map(kept, before, after))
    return bool(before == after)


def test_every_revision_has_its_rows_recorded() -> None:
    missing = [revision for revision in revisions() if not (FOLDER / f"{revision}.json").exists()]
    assert missing == [], "record them: python -m tests.revision_samples"


@pytest.mark.parametrize("revision", revisions())
async def test_a_database_of_any_revision_is_brought_up_to_date_with_its_rows(
    engine: sa.Engine, database_url: str, revision: str
) -> None:
    before = recorded(revision)
    at_revision(engine, revision, before)
    journal = Journal(database_url)
    await journal.open()
    try:
        await check_it_is_up_to_date(journal, engine, before)
    finally:
        await journal.close()


async def check_it_is_up_to_date(journal: Journal, engine: sa.Engine, before: Rows) -> None:
    live = await journal.load(keep_finished=100, keep_finished_inference=100)
    events = await journal.events()
    loaded: dict[str, dict[str, Row]] = {
        "nodes": {node.id: node_row(node) for node in live.nodes},
        "workloads": {workload.id: workload_row(workload) for workload in live.workloads},
        "models": {model.id: model_row(model) for model in live.models},
    }
    for table, (kind, to_row) in KINDS.items():
        stored = read(engine, table)
        assert set(stored) == {row["id"] for row in before[table]} == set(loaded[table])
        for row in before[table]:
            now = stored[row["id"]]
            # What was written then is there, and what the code of today makes of it says the same.
            assert {name: now[name] for name in row if name != "body"} == {n: row[n] for n in row if n != "body"}
            found = decode_row(kind, row["id"], now["body"])
            value = to_row(found)
            assert value == loaded[table][row["id"]]
            # Whole, because rows of today leave out what equals its default.
            assert kept(json.loads(row["body"]), TypeAdapter(kind).dump_python(found, mode="json")), row["id"]
            assert {n: value[n] for n in row if n != "body"} == {n: row[n] for n in row if n != "body"}
    assert [type(event).__name__ for _, event in events] == [row["kind"] for row in before["events"]]
    for query in (ListWorkloads(), ListWorkloads(kinds=frozenset({PayloadKind.INFERENCE}))):
        rows, total = await journal.workloads(query, limit=100, offset=0)
        assert total == len(rows) > 0
    # And it goes on: what was loaded is written again, and replaces what it was loaded from.
    again = {table: list(rows.values()) for table, rows in loaded.items()}
    await journal.append(Records(nodes=again["nodes"], workloads=again["workloads"], models=again["models"]))
    reloaded = await journal.load(keep_finished=100, keep_finished_inference=100)
    assert replace(reloaded, memory=live.memory) == live  # every memory has a number of its own
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


@pytest.mark.parametrize("revision", revisions())
def test_every_way_leads_to_the_tables_that_the_code_uses(engine: sa.Engine, revision: str) -> None:
    with database.writer(engine) as connection:
        for target in (revision, "head"):
            with connection.begin():
                migrate(connection, target)
        difference = compare_metadata(MigrationContext.configure(connection), METADATA)
        found = indexes(connection)
    assert difference == []
    assert found == {index.name for table in METADATA.sorted_tables for index in table.indexes}


def test_the_newest_revision_is_known_without_alembic(engine: sa.Engine) -> None:
    with database.writer(engine) as connection:
        with connection.begin():
            assert not revision.is_newest(connection)
            migrate(connection)
            assert revision.is_newest(connection)
        assert MigrationContext.configure(connection).get_current_revision() == revision.newest()


def test_a_start_on_a_database_of_this_version_does_not_import_alembic(engine: sa.Engine) -> None:
    """Starts a process; takes most of a second."""
    with database.writer(engine) as connection, connection.begin():
        migrate(connection)
    start = (
        "import asyncio, sys; from arcray.control.journal import Journal;"
        "journal = Journal(sys.argv[1]); asyncio.run(journal.open()); asyncio.run(journal.close());"
        "assert 'alembic' not in sys.modules"
    )
    url = engine.url.render_as_string(hide_password=False)
    subprocess.run([sys.executable, "-c", start, url], check=True, timeout=60)


def test_migrating_again_changes_nothing(engine: sa.Engine) -> None:
    with database.writer(engine) as connection:
        for _ in range(2):
            with connection.begin():
                migrate(connection)
        assert connection.exec_driver_sql("SELECT count(*) FROM meta").scalar() == 1


def test_a_database_of_a_newer_version_is_refused_by_name(engine: sa.Engine) -> None:
    with database.writer(engine) as connection:
        with connection.begin():
            migrate(connection)
        with connection.begin():
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        with connection.begin(), pytest.raises(UnavailableError, match=r"is at revision 9999 .* newer version"):
            migrate(connection)


@pytest.mark.parametrize("revision", revisions())
def test_there_is_no_way_back(engine: sa.Engine, revision: str) -> None:
    with database.writer(engine) as connection:
        with connection.begin():
            migrate(connection, revision)
        config = _config()
        config.attributes["connection"] = connection
        with pytest.raises(UnavailableError, match=f"{revision} is not undone"), connection.begin():
            command.downgrade(config, "-1")


def test_a_migration_that_fails_leaves_nothing(engine: sa.Engine) -> None:
    with database.writer(engine) as connection:
        with connection.begin():
            connection.exec_driver_sql("CREATE TABLE events (seq INTEGER)")  # in the way of the last step
        with pytest.raises(sa.exc.DBAPIError), connection.begin():
            migrate(connection)
        assert sa.inspect(connection).get_table_names() == ["events"]


def test_what_failed_before_there_were_dead_letters_is_one_afterwards(engine: sa.Engine) -> None:
    row = "INSERT INTO workloads VALUES ('{0}', '{1}', '{2}', 'a', 'rest', '', NULL, '', 1, 2, '{{}}')"
    with database.writer(engine) as connection:
        with connection.begin():
            migrate(connection, "0001")
            for identity, kind, phase in (
                ("failed", "program", "failed"),
                ("fine", "program", "succeeded"),
                ("asked", "inference", "rejected"),
            ):
                connection.exec_driver_sql(row.format(identity, kind, phase))
        with connection.begin():
            migrate(connection)
        dead = connection.exec_driver_sql("SELECT id FROM workloads WHERE dead = 1").scalars().all()
    assert dead == ["failed"]
