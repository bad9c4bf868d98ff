from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from arcray.config import DatabaseSettings
from arcray.control.driver import Driver
from arcray.control.journal import FencedError, Journal, Records
from arcray.control.rows import event_row, model_row, node_row, reservation_row, workload_row
from arcray.control.schema import WORKLOADS
from arcray.control.statements import Statements
from arcray.control.tallies import changes, tally_rows
from arcray.core import events as ev
from arcray.core.errors import InternalError, InvalidArgumentError, UnavailableError
from arcray.core.ids import AccountId, ReservationId
from arcray.core.node import Health, Node
from arcray.core.queries import ListWorkloads, WorkloadCursor
from arcray.core.reservation import Reservation, ReservationState, Slice
from arcray.core.resources import Allocation
from arcray.core.workload import Inference, PayloadKind, Phase, Workload
from arcray.testing.builders import T0, a_model, a_node, a_workload, an_inference, node_id
from tests.postgres_server import PostgresServer


@pytest.fixture(params=["file", "memory", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """The journal's contract holds on every database."""
    match request.param:
        case "file":
            found: str = request.getfixturevalue("sqlite_url")
        case "memory":
            found = "sqlite://"
        case _:
            found = request.getfixturevalue("postgres").new_database()
    return found


@pytest.fixture
async def journal(url: str) -> AsyncIterator[Journal]:
    journal = Journal(url)
    await journal.open()
    yield journal
    await journal.close()


def a_row(number: int, *, finished: bool = False, age_s: float = 0, **fields: Any) -> Workload:
    spec = a_workload(number, created_at=T0 - timedelta(seconds=age_s), **fields)
    return Workload(
        spec=spec, phase=Phase.SUCCEEDED if finished else Phase.PENDING, finished_at=T0 if finished else None
    )


async def write(journal: Journal, *workloads: Workload) -> None:
    before = [await journal.workload(workload.id) for workload in workloads]
    rows = [workload_row(workload) for workload in workloads]
    await journal.append(Records(workloads=rows, tallies=tally_rows(changes(zip(before, workloads, strict=True)))))


def a_reservation(number: int, state: ReservationState = ReservationState.ACTIVE) -> Reservation:
    held = (Slice(node_id=a_node().id, allocation=Allocation(cpu_milli=1000)),)
    return Reservation(
        id=ReservationId(f"r{number}"),
        account=AccountId("local"),
        granted=held,
        slices=held,
        created_at=T0 + timedelta(seconds=number),
        expires_at=T0 + timedelta(seconds=60),
        state=state,
        ended_at=None if state is ReservationState.ACTIVE else T0,
    )


async def test_active_reservations_and_the_newest_that_ended_are_loaded(journal: Journal) -> None:
    ended = [a_reservation(number, ReservationState.EXPIRED) for number in (2, 3, 4)]
    await journal.append(Records(reservations=[reservation_row(held) for held in [a_reservation(1), *ended]]))
    live = await journal.load(keep_finished=0, keep_finished_inference=0, keep_reservations=2)
    assert live.reservations == [a_reservation(1), ended[2], ended[1]]
    assert await journal.reservation(ended[0].id) == ended[0]
    assert await journal.reservation(ReservationId("nobody")) is None


async def test_what_was_appended_is_loaded_by_another_journal(database_url: str) -> None:
    first = Journal(database_url)
    await first.open()
    node = Node(registration=a_node(), epoch=2, health=Health.HEALTHY, joined_at=T0, last_seen=T0)
    await first.append(
        Records(nodes=[node_row(node)], workloads=[workload_row(a_row(1))], models=[model_row(a_model())])
    )
    await first.close()
    second = Journal(database_url)
    await second.open()
    live = await second.load(keep_finished=10, keep_finished_inference=10)
    await second.close()
    assert (live.nodes, live.workloads, live.models) == ([node], [a_row(1)], [a_model()])


async def test_a_row_written_again_replaces_the_one_before(journal: Journal) -> None:
    await write(journal, a_row(1))
    await write(journal, a_row(1, finished=True))
    assert await journal.workload(a_workload(1).id) == a_row(1, finished=True)


async def test_a_removed_model_is_gone(journal: Journal) -> None:
    await journal.append(Records(models=[model_row(a_model("a")), model_row(a_model("b"))]))
    await journal.append(Records(removed_models=[a_model("a").id]))
    live = await journal.load(keep_finished=0, keep_finished_inference=0)
    assert live.models == [a_model("b")]


async def test_events_keep_their_order(journal: Journal) -> None:
    happened = [ev.ModelRemoved(model_id=a_model(f"m{number}").id, at=T0) for number in range(5)]
    await journal.append(Records(events=[event_row(event) for event in happened[:3]]))
    await journal.append(Records(events=[event_row(event) for event in happened[3:]]))
    read = await journal.events()
    assert [event for _, event in read] == happened
    assert await journal.events(after=read[3][0]) == read[4:]


async def test_the_end_of_a_request_whose_sender_waited_is_written_once_and_read_twice(journal: Journal) -> None:
    request = a_row(1, finished=True, payload=an_inference(), waiting=True)
    assert request.finished_at is not None
    ended = ev.WorkloadFinished(
        workload_id=request.id, attempt=request.attempt, phase=request.phase, message=request.message,
        result=request.result, node_id=request.node_id, placed_at=request.placed_at, started_at=request.started_at,
        at=request.finished_at, spec=request.spec,
    )  # fmt: skip
    await journal.append(Records(events=[event_row(ended)], workloads=[workload_row(request)]))
    assert [event for _, event in await journal.events()] == [ended]
    assert await journal.workload(request.id) == request
    await journal.write(lambda connection: connection.execute(sa.delete(WORKLOADS)))
    assert await journal.events() == []


async def test_loading_takes_all_that_lives_and_the_newest_of_what_has_finished(journal: Journal) -> None:
    await write(journal, *(a_row(number, finished=True, age_s=number) for number in range(1, 6)), a_row(9, age_s=99))
    live = await journal.load(keep_finished=2, keep_finished_inference=0)
    assert {workload.id for workload in live.workloads} == {a_workload(n).id for n in (1, 2, 9)}
    assert live.left_out_until == T0 - timedelta(seconds=3)


async def test_requests_have_a_limit_of_their_own(journal: Journal) -> None:
    requests = [a_row(number, finished=True, payload=an_inference()) for number in range(1, 4)]
    await write(journal, *requests, a_row(9, finished=True))
    live = await journal.load(keep_finished=5, keep_finished_inference=1)
    kinds = sorted(isinstance(workload.spec.payload, Inference) for workload in live.workloads)
    assert kinds == [False, True]


async def test_nothing_is_left_out_when_all_fits(journal: Journal) -> None:
    await write(journal, a_row(1, finished=True))
    assert (await journal.load(keep_finished=1, keep_finished_inference=0)).left_out_until is None


async def test_an_idempotency_key_belongs_to_an_account(journal: Journal) -> None:
    await write(journal, a_row(1, request_id="key"), a_row(2))
    found = await journal.earlier(set(), {AccountId("local"): {"key", "another"}})
    assert [workload.id for workload in found] == [a_workload(1).id]
    assert await journal.earlier(set(), {AccountId("other"): {"key"}, AccountId("local"): {""}}) == []


async def test_earlier_workloads_are_found_by_id_and_key_however_many_are_asked_for(journal: Journal) -> None:
    await write(journal, a_row(1, request_id="key"), a_row(2), a_row(3))
    unknown = {a_workload(number).id for number in range(1_000, 3_000)}
    found = await journal.earlier({a_workload(1).id, a_workload(2).id, *unknown}, {AccountId("local"): {"key"}})
    assert sorted(workload.id for workload in found) == [a_workload(1).id, a_workload(2).id]


async def test_a_page_is_newest_first_and_counts_all(journal: Journal) -> None:
    await write(journal, *(a_row(number, finished=True, age_s=number) for number in range(1, 8)))
    rows, total = await journal.workloads(ListWorkloads(), limit=2, offset=3)
    assert [row.id for row in rows] == [a_workload(4).id, a_workload(5).id]
    assert total == 7


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        (ListWorkloads(), [1, 2]),
        (ListWorkloads(kinds=frozenset({PayloadKind.INFERENCE})), [3]),
        (ListWorkloads(kinds=frozenset({PayloadKind.INFERENCE, PayloadKind.CONTAINER})), [1, 2, 3]),
        (ListWorkloads(kinds=frozenset({PayloadKind.PROGRAM})), []),
        (ListWorkloads(phases=frozenset({Phase.PENDING})), [1]),
        (ListWorkloads(account=AccountId("nobody")), []),
        (ListWorkloads(node_id=node_id(7)), [2]),
        (ListWorkloads(facade="rest"), [1, 2]),
        (ListWorkloads(facade="another"), []),
    ],
)
async def test_a_list_shows_what_its_filters_say(journal: Journal, query: ListWorkloads, numbers: list[int]) -> None:
    placed = a_row(2, finished=True)
    placed.node_id = node_id(7)
    await write(journal, a_row(1), placed, a_row(3, payload=an_inference()))
    rows, total = await journal.workloads(query, limit=10, offset=0)
    assert sorted(row.id for row in rows) == [a_workload(number).id for number in numbers]
    assert total == len(numbers)


async def test_totals_follow_what_workloads_become(journal: Journal) -> None:
    await write(journal, a_row(1), a_row(2), a_row(3, payload=an_inference()))
    await write(journal, a_row(1, finished=True))
    pending = ListWorkloads(phases=frozenset({Phase.PENDING}))
    assert [(await journal.workloads(query, limit=0, offset=0))[1] for query in (ListWorkloads(), pending)] == [2, 1]


async def test_pages_go_on_after_each_other_whatever_comes_in_between(journal: Journal) -> None:
    # Some were made in the same instant, and are told apart by their ids.
    await write(journal, *(a_row(number, finished=True, age_s=number // 3) for number in range(1, 12)))
    seen: list[Workload] = []
    query = ListWorkloads()
    while True:
        rows, total = await journal.workloads(query, limit=3, offset=0)
        assert total == (11 if query.after is None else None)
        if not rows:
            break
        seen += rows
        await write(journal, a_row(100 + len(seen), age_s=-len(seen)))  # newer than all, so on no later page
        query = ListWorkloads(after=WorkloadCursor(created_at=rows[-1].spec.created_at, id=rows[-1].id))
    assert [row.id for row in seen] == [
        row.id for row in sorted(seen, key=lambda row: (row.spec.created_at, row.id), reverse=True)
    ]
    assert {row.id for row in seen} == {a_workload(number).id for number in range(1, 12)}


@pytest.mark.parametrize("kind", [None, PayloadKind.CONTAINER, PayloadKind.INFERENCE])
async def test_a_list_walks_an_index(sqlite_url: str, kind: PayloadKind | None) -> None:
    journal = Journal(sqlite_url)
    await journal.open()
    statements: list[str] = []
    sa.event.listen(
        journal._engine, "before_cursor_execute", lambda _c, _k, statement, *_: statements.append(statement)
    )
    await journal.workloads(ListWorkloads(kinds=frozenset({kind} if kind else ())), limit=1, offset=0)
    page = next(statement for statement in statements if "ORDER BY" in statement)
    with journal._engine.begin() as connection:
        values = ("container", 1, 0) if kind is PayloadKind.CONTAINER else (1, 0)
        plan = " ".join(str(row) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {page}", values))
    await journal.close()
    assert "INDEX ix_workloads_" in plan
    assert "TEMP B-TREE" not in plan


async def test_an_earlier_scheduler_is_fenced_off(database_url: str) -> None:
    earlier, later = Journal(database_url), Journal(database_url)
    await earlier.open()
    await later.open()
    with pytest.raises(FencedError):
        await write(earlier, a_row(1))
    with pytest.raises(FencedError):
        await earlier.probe()
    await write(later, a_row(2))
    live = await later.load(keep_finished=9, keep_finished_inference=9)
    assert [workload.id for workload in live.workloads] == [a_workload(2).id]
    await earlier.close()
    await later.close()


async def test_a_batch_that_fails_midway_leaves_nothing(journal: Journal) -> None:
    broken = dict(workload_row(a_row(2)), kind=None)  # violates NOT NULL, after the events were inserted
    removed = ev.ModelRemoved(model_id=a_model().id, at=T0)
    with pytest.raises(UnavailableError, match="the database failed"):
        await journal.append(Records(events=[event_row(removed)], workloads=[workload_row(a_row(1)), broken]))
    assert await journal.events() == []
    assert await journal.workload(a_workload(1).id) is None
    await write(journal, a_row(1))  # and the journal goes on


async def test_an_error_does_not_tell_payloads(journal: Journal) -> None:
    secret = dict(workload_row(a_row(1)), kind=None, body="the secret")
    with pytest.raises(UnavailableError) as caught:
        await journal.append(Records(workloads=[secret]))
    assert "secret" not in caught.value.message
    assert "secret" not in str(caught.value.__cause__)


async def test_a_database_that_others_hold_is_unavailable_and_then_works(sqlite_url: str) -> None:
    journal = Journal(sqlite_url, DatabaseSettings(busy_timeout_s=0.001))
    await journal.open()
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UnavailableError, match="locked"):
        await journal.probe()
    other.execute("ROLLBACK")
    other.close()
    await journal.probe()
    await journal.close()


async def test_the_loop_goes_on_while_others_hold_the_database(sqlite_url: str) -> None:
    journal = Journal(sqlite_url)
    await journal.open()
    await write(journal, a_row(1))
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writing = asyncio.ensure_future(write(journal, a_row(2)))
    await asyncio.sleep(0)
    assert not writing.done()
    other.execute("ROLLBACK")
    other.close()
    await writing
    assert await journal.workload(a_row(2).id) == a_row(2)
    await journal.close()


async def test_a_damaged_row_is_named_at_recovery(journal: Journal) -> None:
    await journal.append(Records(workloads=[dict(workload_row(a_row(1)), body="{}")]))
    with pytest.raises(InternalError, match=a_workload(1).id):
        await journal.load(keep_finished=1, keep_finished_inference=1)


async def test_commits_survive_a_power_cut_by_configuration(sqlite_url: str) -> None:
    journal = Journal(sqlite_url)
    await journal.open()
    with journal._engine.begin() as connection:
        modes = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    await journal.close()
    assert modes == ["wal", 2]  # 2 is FULL


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database, " * 100)
    journal = Journal(f"sqlite:///{tmp_path / 'x.db'}")
    with pytest.raises(UnavailableError, match="not a database"):
        await journal.open()
    await journal.close()


@pytest.mark.parametrize("url", ["nonsense", "mysql://x/y", "postgresql+nodriver://x/y", "oracle://x"])
def test_a_database_that_is_not_supported_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Journal(url)
    assert caught.value.field == "database_url"


def test_postgresql_gets_its_own_spelling() -> None:
    statements = Statements(sa.make_url("postgresql+psycopg://").get_dialect()())
    assert statements.generation.endswith("FOR UPDATE")
    assert "ON CONFLICT (id) DO UPDATE SET" in statements.upsert_workloads._text
    assert "RETURNING" not in statements.insert_events._text


async def test_a_commit_that_takes_too_long_is_unavailable_and_its_outcome_is_read_after_it(database_url: str) -> None:
    """Waits for a time-out of 0.2 s."""
    times = DatabaseSettings(busy_timeout_s=0.05, connect_timeout_s=1, statement_timeout_s=0.1, commit_timeout_s=1.1)
    journal = Journal(database_url, times)
    await journal.open()
    journal._commit_timeout_s = 0.2  # below what the settings allow, to wait less
    released = threading.Event()
    blocked = asyncio.ensure_future(journal._in(journal._writes, released.wait, 10))
    await asyncio.sleep(0)  # it is the first in the thread
    with pytest.raises(UnavailableError, match="did not commit within"):
        await write(journal, a_row(1))
    loading = asyncio.ensure_future(journal.load(keep_finished=1, keep_finished_inference=1))
    released.set()
    await blocked
    await loading
    await write(journal, a_row(2))
    assert await journal.workload(a_workload(2).id) == a_row(2)
    await journal.close()


class TestOnPostgresql:
    @pytest.fixture
    def url(self, postgres: PostgresServer) -> str:
        return postgres.new_database()

    async def test_a_connection_that_dies_in_idleness_costs_nobody_an_error(
        self, postgres: PostgresServer, journal: Journal
    ) -> None:
        await write(journal, a_row(1))
        assert await journal.workload(a_workload(1).id) is not None
        assert postgres.terminate() >= 2
        await write(journal, a_row(2))
        assert await journal.workload(a_workload(2).id) == a_row(2)

    async def test_a_connection_that_dies_in_a_transaction_leaves_nothing(
        self, postgres: PostgresServer, journal: Journal
    ) -> None:
        insert = journal._sql.upsert_workloads.many

        def die(driver: Driver, rows: Any) -> None:
            insert(driver, rows)
            postgres.terminate()

        journal._sql.upsert_workloads.many = die  # type: ignore[method-assign]  # between the insert and the commit
        with pytest.raises(UnavailableError, match=r"terminat|closed"):
            await write(journal, a_row(1))
        journal._sql.upsert_workloads.many = insert  # type: ignore[method-assign]
        assert await journal.workload(a_workload(1).id) is None
        await write(journal, a_row(2))

    async def test_what_is_loaded_is_read_after_a_commit_that_the_server_was_still_at(
        self, postgres: PostgresServer, url: str, journal: Journal
    ) -> None:
        with postgres.connect(url) as straggler:  # our own backend, whose client has lost it in its commit
            straggler.execute("BEGIN")
            straggler.execute("SELECT value FROM meta WHERE name = 'generation' FOR UPDATE")
            row = workload_row(a_row(1))
            columns = ", ".join(row)
            places = ", ".join(["%s"] * len(row))
            straggler.execute(f"INSERT INTO workloads ({columns}) VALUES ({places})".encode(), list(row.values()))
            loading = asyncio.ensure_future(journal.load(keep_finished=1, keep_finished_inference=1))
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            while not postgres.execute(waiting)[0][0]:  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.01)
            straggler.execute("COMMIT")
            live = await loading
        assert [workload.id for workload in live.workloads] == [a_workload(1).id]

    async def test_a_lock_of_others_is_waited_for_so_long_and_no_longer(
        self, postgres: PostgresServer, url: str
    ) -> None:
        journal = Journal(url, DatabaseSettings(busy_timeout_s=0.05))
        await journal.open()
        with postgres.connect(url) as other:
            other.execute("BEGIN")
            other.execute("LOCK TABLE meta")
            with pytest.raises(UnavailableError, match="lock timeout"):
                await journal.probe()
        await journal.probe()
        await journal.close()

    async def test_a_server_that_stops_and_starts_again_is_found_again(
        self, postgres: PostgresServer, journal: Journal
    ) -> None:
        """Restarts a server; takes about a second."""
        await write(journal, a_row(1))
        await asyncio.to_thread(postgres.stop)
        try:
            with pytest.raises(UnavailableError, match="the database failed"):
                await write(journal, a_row(2))
            with pytest.raises(UnavailableError, match="the database failed"):
                await journal.workload(a_workload(1).id)
        finally:
            await asyncio.to_thread(postgres.start)
        await journal.probe()
        live = await journal.load(keep_finished=1, keep_finished_inference=1)
        assert [workload.id for workload in live.workloads] == [a_workload(1).id]

    async def test_commits_reach_the_disk_whatever_the_servers_default_is(
        self, postgres: PostgresServer, url: str
    ) -> None:
        postgres.execute("ALTER ROLE arcray SET synchronous_commit = off")
        try:
            journal = Journal(url)
            await journal.open()
            with journal._engine.begin() as connection:
                assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
                assert connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "read committed"
            await journal.close()
        finally:
            postgres.execute("ALTER ROLE arcray RESET synchronous_commit")

    async def test_a_database_that_does_not_hold_our_text_is_refused(self, postgres: PostgresServer) -> None:
        postgres.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' STRATEGY file_copy")
        journal = Journal(postgres.url("latin"))
        with pytest.raises(UnavailableError, match="ENCODING 'UTF8'"):
            await journal.open()
        await journal.close()

    async def test_two_schedulers_that_start_at_once_make_the_tables_once(self, url: str) -> None:
        journals = [Journal(url), Journal(url)]
        await asyncio.gather(*(journal.open() for journal in journals))
        outcomes = await asyncio.gather(*(journal.probe() for journal in journals), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes].count(FencedError) == 1
        for journal in journals:
            await journal.close()
