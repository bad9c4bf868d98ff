from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from arcray.control import database
from arcray.control.schema import METADATA
from arcray.core.errors import UnavailableError


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = database.engine(f"sqlite:///{tmp_path / 'arcray.db'}")
    yield engine
    engine.dispose()


def test_the_migrations_make_the_tables_that_the_code_uses(engine: sa.Engine) -> None:
    with database.writer(engine) as connection:
        with connection.begin():
            database.migrate(connection)
        difference = compare_metadata(MigrationContext.configure(connection), METADATA)
        names = {index["name"] for index in sa.inspect(connection).get_indexes("workloads")}
    assert difference == []
    assert names == {index.name for index in METADATA.tables["workloads"].indexes}


def test_migrating_again_changes_nothing(engine: sa.Engine) -> None:
    with database.writer(engine) as connection:
        for _ in range(2):
            with connection.begin():
                database.migrate(connection)
        assert connection.exec_driver_sql("SELECT count(*) FROM meta").scalar() == 1


def test_a_database_of_a_newer_version_is_refused(engine: sa.Engine) -> None:
    with database.writer(engine) as connection:
        with connection.begin():
            database.migrate(connection)
        with connection.begin():
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        with connection.begin(), pytest.raises(UnavailableError, match="does not fit this version"):
            database.migrate(connection)


def test_a_migration_that_fails_leaves_nothing(engine: sa.Engine) -> None:
    with database.writer(engine) as connection:
        with connection.begin():
            connection.exec_driver_sql("CREATE TABLE events (seq INTEGER)")  # in the way of the last step
        with pytest.raises(sa.exc.OperationalError), connection.begin():
            database.migrate(connection)
        assert sa.inspect(connection).get_table_names() == ["events"]


def test_what_failed_before_there_were_dead_letters_is_one_afterwards(engine: sa.Engine) -> None:
    row = "INSERT INTO workloads VALUES ('{0}', '{1}', '{2}', 'a', 'rest', '', NULL, '', 1, 2, '{{}}')"
    with database.writer(engine) as connection:
        with connection.begin():
            database.migrate(connection, "0001")
            for identity, kind, phase in (
                ("failed", "program", "failed"),
                ("fine", "program", "succeeded"),
                ("asked", "inference", "rejected"),
            ):
                connection.exec_driver_sql(row.format(identity, kind, phase))
        with connection.begin():
            database.migrate(connection)
        dead = connection.exec_driver_sql("SELECT id FROM workloads WHERE dead = 1").scalars().all()
    assert dead == ["failed"]
