from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, get_args

import pytest
import sqlalchemy as sa

from arcray.control import expiry
from arcray.control.journal import Journal, Records
from arcray.control.ledger_rows import load_revoked
from arcray.control.rows import event_row, microseconds, workload_row
from arcray.control.schema import RESERVATIONS, WORKLOADS
from arcray.control.tallies import changes, tally_rows
from arcray.core import events as ev
from arcray.core.blobkeys import program_key
from arcray.core.events import Event
from arcray.core.ids import KeyId, ReservationId, WorkloadId
from arcray.core.queries import ListWorkloads
from arcray.core.workload import PayloadKind, Phase, Program, Workload
from arcray.testing.builders import T0, a_model, a_workload, an_inference

DAY = timedelta(days=1)
NOW = T0 + 100 * DAY


@pytest.fixture
async def journal(database_url: str) -> AsyncIterator[Journal]:
    journal = Journal(database_url)
    await journal.open()
    yield journal
    await journal.close()


def ended(number: int, *, age: timedelta, **fields: Any) -> Workload:
    """Returns a workload that was made and ended so long ago."""
    spec = a_workload(number, created_at=NOW - age, **fields)
    return Workload(spec=spec, phase=Phase.SUCCEEDED, finished_at=NOW - age)


async def write(journal: Journal, *workloads: Workload) -> None:
    tallies = tally_rows(changes((None, workload) for workload in workloads))
    await journal.append(Records(workloads=[workload_row(workload) for workload in workloads], tallies=tallies))


async def sweep(
    journal: Journal, *, age: timedelta | None = None, most: int | None = None, limit: int = 2, inference: bool = False
) -> list[int]:
    """Deletes all that a rule gives up, in small steps; returns which were left."""
    before = None if age is None else NOW - age
    rule = expiry.Rule(ended_before=before, most=most, now=NOW)
    position: expiry.Position | None = None
    while True:
        search = partial(expiry.expired_workloads, inference=inference, rule=rule, after=position, limit=limit)
        found = await journal.read(search)
        if found.ids:
            await journal.write(partial(expiry.delete_workloads, ids=found.ids, now=NOW))
        position = found.next
        if position is None:
            return await left(journal)


async def left(journal: Journal) -> list[int]:
    rows, total = await journal.workloads(ListWorkloads(kinds=frozenset(PayloadKind)), limit=100, offset=0)
    assert total == len(rows)
    return sorted(int(row.id[-4:], 16) for row in rows)


async def test_what_ended_long_enough_ago_goes(journal: Journal) -> None:
    await write(journal, *(ended(days, age=days * DAY) for days in (1, 9, 10, 11, 40)))
    assert await sweep(journal, age=10 * DAY) == [1, 9, 10]


async def test_what_is_alive_stays_however_old(journal: Journal) -> None:
    alive = Workload(spec=a_workload(1, created_at=NOW - 90 * DAY), phase=Phase.RUNNING)
    late = Workload(spec=a_workload(2, created_at=NOW - 90 * DAY), phase=Phase.FAILED, finished_at=NOW - DAY)
    await write(journal, alive, late, ended(3, age=90 * DAY), ended(4, age=89 * DAY))
    assert await sweep(journal, age=10 * DAY, most=1_000, limit=1) == [1, 2]


async def test_beyond_a_number_the_oldest_go(journal: Journal) -> None:
    await write(journal, *(ended(days, age=days * DAY) for days in range(2, 9)))
    assert await sweep(journal, most=3) == [2, 3, 4]
    assert await sweep(journal, most=3) == [2, 3, 4]


async def test_requests_and_other_work_are_counted_apart(journal: Journal) -> None:
    await write(journal, *(ended(days, age=days * DAY) for days in range(2, 5)))
    await write(journal, *(ended(days, age=days * DAY, payload=an_inference()) for days in range(12, 15)))
    assert await sweep(journal, most=1, inference=True) == [2, 3, 4, 12]


@pytest.mark.parametrize("rule", [{"age": timedelta(hours=2)}, {"most": 0}])
async def test_a_key_is_remembered_for_a_day(journal: Journal, rule: dict[str, Any]) -> None:
    await write(
        journal,
        ended(1, age=timedelta(hours=23), request_id="young"),
        ended(2, age=timedelta(hours=25), request_id="old"),
        ended(3, age=timedelta(hours=23)),
    )
    assert await sweep(journal, **rule) == [1]


async def test_what_may_be_repeated_under_its_id_stays_for_an_hour(journal: Journal) -> None:
    await write(journal, ended(1, age=timedelta(minutes=59)), ended(2, age=timedelta(minutes=61)))
    assert await sweep(journal, most=0) == [1]


async def test_without_a_rule_nothing_goes(journal: Journal) -> None:
    await write(journal, ended(1, age=99 * DAY))
    assert await sweep(journal) == [1]


async def test_a_row_goes_with_a_note_about_its_blobs(journal: Journal) -> None:
    await write(journal, ended(1, age=DAY), ended(2, age=DAY), ended(3, age=DAY, payload=an_inference()))
    ids = [a_workload(number).id for number in (1, 2, 3, 9)]
    gone = await journal.write(partial(expiry.delete_workloads, ids=ids, now=NOW))
    assert set(gone) == set(ids[:3])
    assert await noted(journal) == ids[:2]
    await journal.write(partial(expiry.forget_discards, ids=ids[:1]))
    assert await noted(journal) == ids[1:2]


async def test_a_program_under_a_key_of_its_submission_has_a_note_of_its_own(journal: Journal) -> None:
    first, second = a_workload(1).id, a_workload(2).id
    own = program_key(first, archive=True, submission="own")
    await write(
        journal,
        ended(1, age=DAY, payload=Program(blob=own, archive=True)),
        ended(2, age=DAY, payload=Program(blob=program_key(second, archive=False))),
        ended(3, age=DAY, payload=Program(blob=own, archive=True)),  # it repeats the first
    )
    ids = [a_workload(number).id for number in (1, 2, 3)]
    await journal.write(partial(expiry.delete_workloads, ids=ids, now=NOW))
    assert await journal.read(partial(expiry.discarded_blobs, after="", limit=10)) == [own]
    await journal.write(partial(expiry.forget_discarded_blobs, keys=[own]))
    assert await journal.read(partial(expiry.discarded_blobs, after="", limit=10)) == []


async def test_a_row_that_cannot_be_read_goes_all_the_same(journal: Journal) -> None:
    await write(journal, ended(1, age=DAY, payload=Program(blob=program_key(a_workload(1).id, archive=False))))
    await journal.write(lambda connection: connection.execute(sa.update(WORKLOADS).values(body="{")))
    await journal.write(partial(expiry.delete_workloads, ids=[a_workload(1).id], now=NOW))
    assert await left(journal) == []
    assert await noted(journal) == [a_workload(1).id]


async def test_a_note_is_not_made_twice(journal: Journal) -> None:
    for _ in range(2):
        await write(journal, ended(1, age=DAY))
        await journal.write(partial(expiry.delete_workloads, ids=[a_workload(1).id], now=NOW))
    assert await noted(journal) == [a_workload(1).id]


async def test_what_came_to_life_meanwhile_is_not_deleted(journal: Journal) -> None:
    await write(journal, Workload(spec=a_workload(1), phase=Phase.RUNNING))
    assert await journal.write(partial(expiry.delete_workloads, ids=[a_workload(1).id], now=NOW)) == []
    assert await left(journal) == [1]


async def noted(journal: Journal) -> list[WorkloadId]:
    return await journal.read(partial(expiry.discarded, after="", limit=10))


class TestEvents:
    async def happen(self, journal: Journal, *events: Event) -> None:
        await journal.append(Records(events=[event_row(event) for event in events]))

    async def sweep(self, journal: Journal, *, age: timedelta | None = None, most: int | None = None) -> list[Event]:
        position: int | None = 0
        before = None if age is None else NOW - age
        while position is not None:
            search = partial(expiry.expired_events, before=before, most=most, after=position, limit=2)
            gone, position = await journal.read(search)
            if gone:
                await journal.write(partial(expiry.delete_events, numbers=gone))
        return [event for _, event in await journal.events()]

    def removed(self, days: int) -> Event:
        return ev.ModelRemoved(model_id=a_model().id, at=NOW - days * DAY)

    async def test_old_ones_go(self, journal: Journal) -> None:
        happened = [self.removed(days) for days in (40, 30, 20, 10, 9, 1)]
        await self.happen(journal, *happened)
        assert await self.sweep(journal, age=10 * DAY) == happened[3:]

    async def test_beyond_a_number_the_oldest_go(self, journal: Journal) -> None:
        happened = [self.removed(days) for days in (40, 30, 20, 10, 9, 1)]
        await self.happen(journal, *happened)
        assert await self.sweep(journal, most=2) == happened[4:]

    async def test_the_history_of_what_is_alive_stays(self, journal: Journal) -> None:
        alive = ev.WorkloadSubmitted(spec=a_workload(1), at=NOW - 40 * DAY)
        over = ev.WorkloadSubmitted(spec=a_workload(2), at=NOW - 39 * DAY)
        await write(journal, Workload(spec=a_workload(1)), ended(2, age=20 * DAY))
        await self.happen(journal, alive, over, self.removed(1))
        assert await self.sweep(journal, age=10 * DAY) == [alive, self.removed(1)]

    async def test_the_newest_stays_so_that_its_number_is_not_given_again(self, journal: Journal) -> None:
        await self.happen(journal, self.removed(40), self.removed(30))
        assert await self.sweep(journal, age=10 * DAY, most=0) == [self.removed(30)]
        ((last, _),) = await journal.events()
        await self.happen(journal, self.removed(0))
        assert [number for number, _ in await journal.events()] == [last, last + 1]


def test_of_every_durable_event_it_is_said_whether_it_is_kept() -> None:
    volatile = {kind for kind in get_args(Event) if kind.__dict__.get("durable") is False}
    assert set(get_args(Event)) - volatile == expiry.HISTORY | expiry.KEPT, "say it in control/expiry.py"
    assert not expiry.HISTORY & expiry.KEPT


async def test_a_search_walks_an_index(sqlite_url: str) -> None:
    journal = Journal(sqlite_url)
    await journal.open()
    statements: list[str] = []
    sa.event.listen(journal._engine, "before_cursor_execute", lambda _c, _k, text, *_: statements.append(text))
    rule = expiry.Rule(ended_before=NOW, most=None, now=NOW)
    position = expiry.Position(created_at=1, id="x")
    await journal.read(partial(expiry.expired_workloads, inference=False, rule=rule, after=position, limit=5))
    (search,) = (text for text in statements if "ORDER BY" in text)
    with journal._engine.begin() as connection:
        plan = " ".join(
            str(row) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {search}", (2, 1, "x", 5, 0))
        )
    await journal.close()
    assert "INDEX ix_workloads_others" in plan
    assert "TEMP B-TREE" not in plan


async def plans(journal: Journal, statements: Sequence[tuple[str, Any]]) -> list[str]:
    """Returns how the database does what statements ask with their values."""

    def ask(connection: sa.Connection) -> list[str]:
        sqlite = connection.dialect.name == "sqlite"
        for way in () if sqlite else ("seqscan", "bitmapscan", "sort"):  # what is right for a table without rows
            connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
        explain = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
        return [
            " ".join(str(row) for row in connection.exec_driver_sql(f"{explain} {text}", values))
            for text, values in statements
        ]

    return await journal.read(ask)


async def test_ended_reservations_are_counted_found_and_recovered_by_an_index(database_url: str) -> None:
    journal = Journal(database_url)
    await journal.open()
    asked: list[tuple[str, Any]] = []
    sa.event.listen(journal._engine, "before_cursor_execute", lambda _c, _k, *what: asked.append(what[:2]))
    rule = expiry.Rule(ended_before=NOW, most=0, now=NOW)
    position = expiry.Position(created_at=1, id="x")
    await journal.read(partial(expiry.expired_reservations, rule=rule, after=position, limit=5))
    rule = expiry.Rule(ended_before=NOW, most=None, now=NOW)
    await journal.read(partial(expiry.expired_reservations, rule=rule, after=position, limit=5))
    await journal.load(keep_finished=1, keep_finished_inference=1)
    found = await plans(journal, [statement for statement in asked if "ended_at IS NOT NULL" in statement[0]])
    await journal.close()
    assert len(found) == 4
    for plan in found:
        assert "ix_reservations_ended" in plan
        assert "TEMP B-TREE" not in plan
        assert "Sort" not in plan


async def test_revoked_keys_are_read_by_an_index_the_newest_and_earliest_first(database_url: str) -> None:
    journal = Journal(database_url)
    await journal.open()
    revoked = [ev.KeyRevoked(key_id=KeyId(f"k{number}"), digest=f"{number:064}", at=NOW) for number in range(5)]
    await journal.append(Records(events=[event_row(event) for event in revoked]))
    asked: list[tuple[str, Any]] = []
    sa.event.listen(journal._engine, "before_cursor_execute", lambda _c, _k, *what: asked.append(what[:2]))
    assert await journal.read(lambda connection: load_revoked(connection, 3)) == ["k2", "k3", "k4"]
    assert (await journal.load(keep_finished=1, keep_finished_inference=1)).revoked == ["k0", "k1", "k2", "k3", "k4"]
    (plan,) = await plans(journal, [statement for statement in asked if "KeyRevoked" in statement[0]][:1])
    await journal.close()
    assert "ix_events_revoked" in plan
    assert "TEMP B-TREE" not in plan
    assert "Sort" not in plan


async def test_a_sweep_looks_at_no_reservation_that_it_may_not_delete(sqlite_url: str) -> None:
    journal = Journal(sqlite_url)
    await journal.open()
    ages = [40 * DAY, 30 * DAY, 20 * DAY, 10 * DAY]
    rows = [
        {
            "id": f"r{days}", "account": "ana", "state": "expired", "created_at": microseconds(NOW - age),
            "expires_at": 0, "ended_at": microseconds(NOW - age + timedelta(hours=1)), "body": "{}",
        }
        for days, age in enumerate(ages)
    ]  # fmt: skip
    await journal.write(lambda connection: connection.execute(sa.insert(RESERVATIONS), rows))

    async def found(*, age: timedelta | None, most: int | None) -> tuple[list[ReservationId], bool]:
        rule = expiry.Rule(ended_before=None if age is None else NOW - age, most=most, now=NOW)
        search = partial(expiry.expired_reservations, rule=rule, after=None, limit=2)
        ids, position = await journal.read(search)
        return ids, position is not None

    assert await found(age=None, most=None) == ([], False)
    assert await found(age=None, most=4) == ([], False)
    assert await found(age=None, most=3) == (["r0"], True)
    assert await found(age=35 * DAY, most=None) == (["r0"], False)
    assert await found(age=25 * DAY, most=None) == (["r0", "r1"], True)
    assert await found(age=50 * DAY, most=4) == ([], False)
    await journal.close()
