"""Outages of the database, with real disks, files, processes and servers.

Whatever goes: writes are refused with an error that says why, what is alive is still shown, heartbeats are taken, it
heals by itself, everything that was acknowledged is in the rows, and nothing is shown that is not.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from arcray.control.journal import Journal, Records
from arcray.core.commands import ReportTelemetry, StopWorkload, SubmitWorkload
from arcray.core.errors import ArcrayError, NotFoundError, UnavailableError
from arcray.core.events import Topic
from arcray.core.ids import AccountId, ReservationId, WorkloadId
from arcray.core.node import Health, NodeView
from arcray.core.policy import ClusterPolicy
from arcray.core.queries import (
    GetNode,
    GetQueues,
    GetReservation,
    GetStatement,
    GetStats,
    GetWorkload,
    ListWorkloads,
    Query,
    Queues,
    WorkloadPage,
)
from arcray.core.workload import Phase, WorkloadView
from arcray.testing.builders import T0, a_workload
from arcray.testing.faults import check_memory_is_the_rows, journalled, stored_workloads
from arcray.testing.plane import InProcessPlane, in_process_plane
from arcray.testing.simulated_node import Script, SimulatedNode
from tests.postgres_server import PostgresServer

LIVE = frozenset(phase for phase in Phase if not phase.terminal)
DISK_BYTES = 4 * 2**20
UNKNOWN = a_workload(4711).id
FROM_ROWS: tuple[Query, ...] = (
    GetReservation(reservation_id=ReservationId(UNKNOWN)),
    GetWorkload(workload_id=UNKNOWN),
    ListWorkloads(),
    GetStatement(account_id=AccountId("alice")),
)


@dataclass(frozen=True)
class Outage:
    """How a database goes and comes back, and what callers are told of it."""

    url: str
    begin: Callable[[], object]
    end: Callable[[], object]
    says: str


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def full_disk(small_disk: Path) -> Outage:
    filler = small_disk / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

    return Outage(f"sqlite:///{small_disk / 'arcray.db'}", fill, filler.unlink, "full")


HOLD = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def locked_file(tmp_path: Path) -> Outage:
    holders: list[subprocess.Popen[str]] = []
    path = tmp_path / "arcray.db"

    def lock() -> None:
        arguments = [sys.executable, "-c", HOLD, str(path)]
        holder = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        holders.append(holder)
        assert holder.stdout is not None
        holder.stdout.readline()

    def unlock() -> None:
        holders[0].communicate("", timeout=10)

    return Outage(f"sqlite:///{path}", lock, unlock, "locked")


@pytest.fixture
def removed_file(tmp_path: Path) -> Outage:
    path, away = tmp_path / "arcray.db", tmp_path / "away.db"
    return Outage(f"sqlite:///{path}", lambda: path.rename(away), lambda: away.rename(path), "has been removed")


@pytest.fixture
def replaced_file(tmp_path: Path) -> Outage:
    path, away = tmp_path / "arcray.db", tmp_path / "away.db"

    def replace() -> None:
        path.rename(away)
        path.write_bytes(b"")

    return Outage(f"sqlite:///{path}", replace, lambda: away.rename(path), "another file has taken the place")


@pytest.fixture
def stopped_server(postgres: PostgresServer) -> Iterator[Outage]:
    yield Outage(postgres.new_database(), postgres.stop, postgres.start, "the database failed")
    postgres.start()


@pytest.fixture
def crashed_server(postgres: PostgresServer) -> Iterator[Outage]:
    crash = partial(postgres.stop, "immediate")
    yield Outage(postgres.new_database(), crash, postgres.start, "the database failed")
    postgres.start()


@pytest.fixture(
    params=["full_disk", "locked_file", "removed_file", "replaced_file", "stopped_server", "crashed_server"]
)
def outage(request: pytest.FixtureRequest) -> Outage:
    found: Outage = request.getfixturevalue(request.param)
    return found


async def refused(cluster: InProcessPlane, says: str) -> None:
    """Submits until it is refused; a database may take some more before it is full."""
    async with asyncio.timeout(30):
        number = 1000
        while True:
            number += 1
            spec = a_workload(number, name="x" * 4096, created_at=T0 + timedelta(hours=1))  # certainly no repetition
            (reply,) = await cluster.plane.submit([SubmitWorkload(spec=spec)])
            if isinstance(reply, ArcrayError):
                assert isinstance(reply, UnavailableError)
                assert says in reply.message
                return


async def healed(cluster: InProcessPlane) -> None:
    """Submits again and again, as a client does that repeats what is refused."""
    async with asyncio.timeout(30):
        while True:
            (reply,) = await cluster.plane.submit([SubmitWorkload(spec=a_workload(5))])
            if not isinstance(reply, ArcrayError):
                return
            assert isinstance(reply, UnavailableError)
            await cluster.clock.sleep(0.05)


async def told(cluster: InProcessPlane) -> str:
    """Returns why writes are refused, as whoever measures queues is told."""
    queues = await cluster.plane.query(GetQueues())
    assert isinstance(queues, Queues)
    return queues.refusal


def refusal_of(cluster: InProcessPlane) -> str:
    return "" if cluster.plane.refusal is None else cluster.plane.refusal.message


async def view_of(cluster: InProcessPlane, workload_id: WorkloadId) -> WorkloadView:
    view = await cluster.plane.query(GetWorkload(workload_id=workload_id))
    assert isinstance(view, WorkloadView)
    return view


async def started(cluster: InProcessPlane, number: int) -> WorkloadId:
    """Submits a workload and waits until it runs."""
    spec = a_workload(number)
    changes = cluster.plane.events(frozenset({Topic.WORKLOADS}))
    await anext(changes)
    await cluster.ask(SubmitWorkload(spec=spec))
    async with asyncio.timeout(5):
        while (await view_of(cluster, spec.id)).phase is not Phase.RUNNING:
            await anext(changes)
    await changes.aclose()
    return spec.id


async def test_an_outage_refuses_writes_and_nothing_else(tmp_path: Path, outage: Outage) -> None:
    """Waits for real time-outs and for a server that starts; takes some seconds."""
    node = SimulatedNode(script=lambda _: Script(end=None))
    policy = ClusterPolicy(keep_finished=0)  # so that lists are made from rows, where those are needed
    async with in_process_plane(
        nodes=[node], state_dir=tmp_path / "state", database_url=outage.url, policy=policy
    ) as cluster:
        plane = cluster.plane
        for number in (1, 2, 3):
            await started(cluster, number)
        node.finish(a_workload(3).id)
        await cluster.finished(a_workload(3).id)
        live = await plane.query(ListWorkloads(phases=LIVE))
        acknowledged = set(stored_workloads(outage.url))

        await asyncio.to_thread(outage.begin)
        await refused(cluster, outage.says)
        assert outage.says in refusal_of(cluster)
        assert outage.says in await told(cluster)
        (reply,) = await plane.submit([StopWorkload(workload_id=a_workload(1).id)])
        assert isinstance(reply, UnavailableError)
        (heard,) = await plane.submit([ReportTelemetry(node_id=node.id, epoch=node.epoch)])
        assert not isinstance(heard, ArcrayError)
        # What is alive is answered, as it was acknowledged.
        assert (await view_of(cluster, a_workload(1).id)).phase is Phase.RUNNING
        page = await plane.query(ListWorkloads(phases=LIVE))
        assert isinstance(page, WorkloadPage)
        assert isinstance(live, WorkloadPage)
        assert {view.spec.id for view in page.workloads} >= {view.spec.id for view in live.workloads}
        assert all(view.phase is not Phase.STOPPING for view in page.workloads)
        machine = await plane.query(GetNode(node_id=node.id))
        assert isinstance(machine, NodeView)
        assert machine.health is Health.HEALTHY
        assert await plane.query(GetStats())
        for query in FROM_ROWS:
            with suppress(UnavailableError, NotFoundError):
                await plane.query(query)

        await asyncio.to_thread(outage.end)
        await healed(cluster)
        assert refusal_of(cluster) == await told(cluster) == ""
        assert (await view_of(cluster, a_workload(3).id)).phase is Phase.SUCCEEDED
        node.finish(a_workload(1).id)
        await cluster.finished(a_workload(1).id)
        await check_memory_is_the_rows(plane, outage.url)
        stored = stored_workloads(outage.url)
        assert acknowledged <= set(stored)
        assert {view.spec.id for view in page.workloads} <= set(stored)


async def test_connections_that_are_ended_again_and_again_cost_nothing_acknowledged(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    """Ends all connections twenty times under load."""
    url = postgres.new_database()
    async with in_process_plane(state_dir=tmp_path, database_url=url) as cluster:
        acknowledged: set[WorkloadId] = set()
        done = asyncio.Event()

        async def client(number: int) -> None:
            while not done.is_set():
                (reply,) = await cluster.plane.submit([SubmitWorkload(spec=a_workload(number))])
                if isinstance(reply, ArcrayError):
                    assert isinstance(reply, UnavailableError)
                    await cluster.clock.sleep(0.01)
                else:
                    acknowledged.add(a_workload(number).id)
                    number += 8

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for first in range(1, 9):
                group.create_task(client(first))
            for _ in range(20):
                before = len(acknowledged)
                await asyncio.to_thread(postgres.terminate)
                while len(acknowledged) == before:
                    await cluster.clock.sleep(0.01)
            done.set()
        await check_memory_is_the_rows(cluster.plane, url)
        assert acknowledged <= set(stored_workloads(url))
        assert len(acknowledged) >= 20


async def test_a_damaged_row_of_what_is_alive_is_named_and_mended(tmp_path: Path, database_url: str) -> None:
    """What a rebuild trips over is named; what memory knows is shown all the same."""
    node = SimulatedNode(script=lambda _: Script(end=None))
    async with in_process_plane(nodes=[node], state_dir=tmp_path, database_url=database_url) as cluster:
        damaged, row = await started(cluster, 1), sa.text("UPDATE workloads SET body = :body WHERE id = :id")
        other = Journal(database_url)
        with other._engine.begin() as connection:
            body = connection.execute(sa.text("SELECT body FROM workloads WHERE id = :id"), {"id": damaged}).scalar()
            connection.execute(row, {"body": "{}", "id": damaged})
        writing = cluster.plane._journal.append
        cluster.plane._journal.append = failing  # type: ignore[method-assign]  # one commit, to have it rebuilt
        await cluster.plane.submit([SubmitWorkload(spec=a_workload(3))])
        cluster.plane._journal.append = writing  # type: ignore[method-assign]
        async with asyncio.timeout(10):
            while damaged not in refusal_of(cluster):
                await cluster.clock.sleep(0.01)
        (reply,) = await cluster.plane.submit([SubmitWorkload(spec=a_workload(4))])
        assert isinstance(reply, UnavailableError)
        assert damaged in reply.message
        assert (await view_of(cluster, damaged)).phase is Phase.RUNNING
        with other._engine.begin() as connection:
            connection.execute(row, {"body": body, "id": damaged})
        await other.close()
        await healed(cluster)
        await check_memory_is_the_rows(cluster.plane, database_url)
        assert len(journalled(database_url)) > 0


async def failing(records: Records) -> None:
    _ = records
    raise UnavailableError("the database failed: once")


def remount(place: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)


async def test_a_disk_that_is_read_only_is_named_at_the_start(tmp_path: Path, small_disk: Path) -> None:
    url = f"sqlite:///{small_disk / 'arcray.db'}"
    async with in_process_plane(state_dir=tmp_path, database_url=url) as before:
        await before.ask(SubmitWorkload(spec=a_workload(1)))
    remount(small_disk, "ro")
    with pytest.raises(UnavailableError, match=r"readonly|read-only|unable to open"):
        async with in_process_plane(nodes=[], state_dir=tmp_path, database_url=url):
            pass
    remount(small_disk, "rw")
    async with in_process_plane(nodes=[], state_dir=tmp_path, database_url=url) as after:
        assert (await view_of(after, a_workload(1).id)).spec == a_workload(1)


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnavailableError, match="cannot make the directory of the database"):
        Journal(f"sqlite:///{tmp_path / 'file' / 'arcray.db'}")


def test_the_lock_of_the_test_is_one(tmp_path: Path, locked_file: Outage) -> None:
    path = tmp_path / "arcray.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
        locked_file.begin()
        connection.execute("PRAGMA busy_timeout=1")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.execute("INSERT INTO t VALUES (1)")
        locked_file.end()
        connection.execute("INSERT INTO t VALUES (1)")
