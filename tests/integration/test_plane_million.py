"""Paging over a long history costs each page the same, in memory and in time of the database.

The quick round has 50,000 rows, `make chaos` a million.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from arcray.config import DatabaseSettings
from arcray.control import database
from arcray.control.journal import Journal
from arcray.control.plane import Plane
from arcray.control.rows import workload_row
from arcray.core.ids import AccountId
from arcray.core.policy import ClusterPolicy
from arcray.core.queries import ListWorkloads, WorkloadPage
from arcray.core.workload import Origin, Phase, Result, Workload
from arcray.testing.builders import T0, a_workload
from arcray.testing.plane import in_process_plane
from tests.rounds import LookedAt, rounds

ROWS = rounds(50_000, 1_000_000)
PAGE = 1_000
MEMORY_BYTES = 48 * 2**20  # that the process may grow by meanwhile: some ten pages, whatever the number of rows
OURS = AccountId("local")
RARE = AccountId("rare")
EVERY = 10_000  # one row in so many is of the rare account

# Every value that tells one row from another is made of its number, so that the database makes them all by itself.
_COLUMNS = "id, kind, phase, account, facade, external_id, node_id, request_id, created_at, finished_at, body"
# A millisecond between two, because SQLite prints no more.
_NUMBERS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) "
    "INSERT INTO workloads ({columns}) SELECT printf('%s%08x', :prefix, i), :kind, :phase, "
    "CASE WHEN i % {every} = 0 THEN :rare ELSE :account END, :facade, '', NULL, '', "
    ":created_at + i * 1000, :finished_at + i * 1000, "
    "replace(replace(replace(:body, :id, printf('%s%08x', :prefix, i)), :time, strftime('%Y-%m-%dT%H:%M:%fZ', "
    "(:created_at + i * 1000) / 1000000.0, 'unixepoch')), '\"account\":\"local\"', "
    'CASE WHEN i % {every} = 0 THEN \'"account":"rare"\' ELSE \'"account":"local"\' END) FROM n',
    "postgresql": "INSERT INTO workloads ({columns}) SELECT :prefix || lpad(to_hex(i), 8, '0'), :kind, :phase, "
    "CASE WHEN i % {every} = 0 THEN :rare ELSE :account END, :facade, '', NULL, '', "
    "CAST(:created_at AS bigint) + i * 1000, "
    "CAST(:finished_at AS bigint) + i * 1000, "
    "replace(replace(replace(:body, :id, :prefix || lpad(to_hex(i), 8, '0')), :time, to_char(to_timestamp("
    "(CAST(:created_at AS bigint) + i * 1000) / 1000000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')), "
    '\'"account":"local"\', CASE WHEN i % {every} = 0 THEN \'"account":"rare"\' ELSE \'"account":"local"\' END) '
    "FROM generate_series(1, {rows}) AS i",
}


async def a_long_history(url: str) -> None:
    """Fills a database with workloads that have ended, each as the journal would have written it."""
    journal = Journal(url)
    await journal.open()
    await journal.close()
    spec = a_workload(1, origin=Origin(facade="rest", account=OURS))
    ended = Workload(spec=spec, phase=Phase.SUCCEEDED, attempt=1, result=Result(exit_code=0), finished_at=T0)
    values = dict(workload_row(ended)) | {"time": "2026-01-01T00:00:00Z", "rare": RARE, "prefix": spec.id[:-8]}
    engine = database.engine(url, DatabaseSettings(statement_timeout_s=500, commit_timeout_s=600))
    statement = _NUMBERS[engine.dialect.name].format(columns=_COLUMNS, rows=ROWS, every=EVERY)
    with database.writer(engine) as connection, connection.begin():
        connection.execute(sa.text(statement), values)
        connection.execute(
            sa.text(
                "INSERT INTO tallies SELECT account, kind, phase, count(*) FROM workloads GROUP BY account, kind, phase"
            )
        )
    engine.dispose()


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_a_long_history_is_paged_through_at_the_cost_of_a_page(
    tmp_path: Path, new_database: Callable[[], str], looked_at: LookedAt
) -> None:
    """Makes its rows by one statement; takes some seconds, or a minute for the million."""
    url = new_database()
    await a_long_history(url)
    policy = ClusterPolicy(keep_finished=0)
    async with in_process_plane(nodes=[], policy=policy, state_dir=tmp_path, database_url=url) as cluster:
        process = psutil.Process()
        query = ListWorkloads(limit=PAGE)
        first = await cluster.plane.query(query)
        assert isinstance(first, WorkloadPage)
        assert first.total == ROWS
        seen, page, newest = len(first.workloads), first, first.workloads[0].spec.created_at
        of_first, _ = await traced(cluster.plane, query)
        resident = process.memory_info().rss
        while page.next is not None:
            last = query
            query = ListWorkloads(limit=PAGE, after=page.next)
            following = await cluster.plane.query(query)
            assert isinstance(following, WorkloadPage)
            assert following.total is None
            assert following.workloads[0].spec.created_at < page.workloads[-1].spec.created_at <= newest
            page = following
            seen += len(page.workloads)
        assert seen == ROWS
        assert process.memory_info().rss - resident <= MEMORY_BYTES
        of_last, left = await traced(cluster.plane, last)
        assert of_last <= 1.5 * of_first
        assert left <= of_first  # of five pages; what the threads of the pool hold on to is of one
        # A rare account's list is as near as any other, and so is its end.
        rare = await cluster.plane.query(ListWorkloads(account=RARE, limit=PAGE))
        assert isinstance(rare, WorkloadPage)
        assert rare.total == len(rare.workloads) == ROWS // EVERY
        assert rare.next is None
        check_plans(url)
    looked_at(rows=ROWS)


async def traced(plane: Plane, query: ListWorkloads) -> tuple[int, int]:
    """Returns how many bytes a page takes at its peak, and how many stay after five."""
    gc.collect()
    tracemalloc.start()
    for _ in range(5):
        await plane.query(query)
    _, peak = tracemalloc.get_traced_memory()
    gc.collect()
    left, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak, left


def check_plans(url: str) -> None:
    """Asserts that the database walks an index to a page in the middle and to a rare account's, and sorts nothing."""
    engine = database.engine(url, DatabaseSettings())
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    page = (
        "SELECT id, body FROM workloads WHERE kind <> 'inference' {more} ORDER BY created_at DESC, id DESC LIMIT 1000"
    )
    middle = f"AND (created_at, id) < ({1_767_225_600_000_000 + ROWS * 500}, 'x')"
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("ANALYZE workloads")
        for more, index in ((middle, "ix_workloads_others"), ("AND account = 'rare'", "ix_workloads_account")):
            plan = " ".join(str(row) for row in connection.exec_driver_sql(f"{explain} {page.format(more=more)}"))
            assert index in plan, plan
            assert "TEMP B-TREE" not in plan
            assert "Sort" not in plan
    engine.dispose()
