"""The audit log costs what it shows, whatever it is asked by, on each database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from itertools import product
from typing import Any

import pytest
import sqlalchemy as sa

from arcray.config import DatabaseSettings
from arcray.control import database
from arcray.control.audit import audit_rows
from arcray.control.migrations import migrate
from arcray.control.rows import microseconds
from arcray.control.schema import EVENTS
from arcray.core.audit_log import AuditCursor, ReadAudit
from arcray.core.ids import AccountId, NodeId, WorkloadId
from arcray.testing.builders import T0

EVENTS_WRITTEN = 8_000
"""Half of them of each of two accounts, and half on each of two nodes; of both at once, few."""

ROWS: list[dict[str, Any]] = [
    {
        "at": microseconds(T0) + number // 2 - EVENTS_WRITTEN // 4,  # two at a time
        "kind": "WorkloadFinished",
        "subject": str(number // 4),
        "body": "",
        "account": ("ana", "bo")[number % 2],
        "node_id": None if number % 4 == 0 else ("a", "b")[(number % 2) ^ (number % 1_000 == 2)],
    }
    for number in range(EVENTS_WRITTEN)
]

QUERIES = [
    ReadAudit(account=account, workload_id=workload_id, node_id=node_id, since=since, after=after)
    for account, workload_id, node_id, since, after in product(
        (None, AccountId("ana")),
        (None, WorkloadId(str(EVENTS_WRITTEN // 8))),
        (None, NodeId("b")),
        (None, T0),
        (None, AuditCursor(at=T0, seq=EVENTS_WRITTEN // 2 + 1)),
    )
]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Engine]:
    """A database with a log that is too long to be looked through; read by all tests."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('audit') / 'arcray.db'}"
    else:
        url = request.getfixturevalue("postgres").new_database()
    engine = database.engine(url, DatabaseSettings())
    with database.writer(engine) as connection, connection.begin():
        migrate(connection)
        connection.execute(sa.insert(EVENTS), ROWS)
        if request.param == "postgresql":
            connection.exec_driver_sql("ANALYZE events")
    yield engine
    engine.dispose()


@pytest.mark.parametrize("query", QUERIES, ids=repr)
def test_a_page_has_what_was_asked_for_in_order(engine: sa.Engine, query: ReadAudit) -> None:
    wanted = {"subject": query.workload_id, "account": query.account, "node_id": query.node_id}
    since = microseconds(query.since or T0 - timedelta(days=1))
    after = (0, 0) if query.after is None else (microseconds(query.after.at), query.after.seq)
    found = [
        seq
        for seq, row in enumerate(ROWS, 1)
        if all(value in (None, row[name]) for name, value in wanted.items())
        and row["at"] >= since
        and (row["at"], seq) > after
    ]
    with engine.connect() as connection:
        assert [row.seq for row in connection.execute(audit_rows(query))] == found[: query.limit + 1]
    assert found


def plan_of(engine: sa.Engine, query: ReadAudit) -> str:
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    text = audit_rows(query).compile(engine, compile_kwargs={"literal_binds": True})
    with engine.connect() as connection:
        return " ".join(str(row) for row in connection.exec_driver_sql(f"{explain} {text}"))


def index_for(query: ReadAudit) -> str:
    """Returns the index that leads to no more than is shown, or to one workload's few events."""
    if query.workload_id is not None:
        return "ix_events_audit_subject"
    asked = [name for name, value in (("_account", query.account), ("_node", query.node_id)) if value is not None]
    return f"ix_events_audit{''.join(asked)}"


@pytest.mark.parametrize("query", QUERIES, ids=repr)
def test_every_way_of_asking_has_an_index_of_its_own(engine: sa.Engine, query: ReadAudit) -> None:
    plan = plan_of(engine, query)
    assert re.search(rf"{index_for(query)}\b", plan), plan
    assert "Seq Scan" not in plan


@pytest.mark.parametrize("query", [query for query in QUERIES if query.workload_id is None], ids=repr)
def test_a_page_is_not_sorted(engine: sa.Engine, query: ReadAudit) -> None:
    plan = plan_of(engine, query)
    assert "TEMP B-TREE" not in plan
    assert "Sort" not in plan
