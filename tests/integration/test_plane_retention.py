"""What has ended is deleted after its time, with its blobs, and nothing else is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from arcray.config import RetentionSettings
from arcray.control.plane import Plane
from arcray.control.retention import RetainedBlobs, Retention, blobs_in_use
from arcray.core.blobkeys import log_key, model_key, program_key, result_key, stdin_key
from arcray.core.commands import (
    DetachNode,
    DiscardWorkload,
    RegisterModel,
    ReleaseReservation,
    RemoveModel,
    Reservable,
    Reserve,
    Submitted,
    SubmitWorkload,
)
from arcray.core.errors import ArcrayError, NotFoundError, UnavailableError
from arcray.core.ids import AccountId, ModelId, ReservationId, WorkloadId
from arcray.core.model import ModelFormat
from arcray.core.policy import ClusterPolicy
from arcray.core.queries import GetNode, GetReservation, GetWorkload, ListWorkloads, WorkloadPage
from arcray.core.reservation import Reservation
from arcray.core.resources import Demand
from arcray.core.workload import PayloadKind, Phase, Program, Workload, WorkloadSpec
from arcray.testing.builders import T0, a_model, a_workload, an_inference
from arcray.testing.clock import FakeClock
from arcray.testing.faults import FailPoints, check_memory_is_the_rows, stored_workloads
from arcray.testing.plane import InProcessPlane, in_process_plane
from arcray.testing.simulated_node import Script, SimulatedNode

LATER = T0 + timedelta(days=36_500)  # later than the times that the disk gives to files
LIVING = frozenset(a_workload(number).id for number in (5000, 5001))  # these run until they are told to end


class RestlessClock:
    """Stands still, and nobody who sleeps on it waits."""

    def __init__(self, time: datetime) -> None:
        self._time = time

    def now(self) -> datetime:
        return self._time

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        _ = seconds
        await asyncio.sleep(0)


def a_program(number: int, **fields: Any) -> WorkloadSpec:
    workload_id = a_workload(number).id
    payload = Program(blob=program_key(workload_id, archive=False), stdin_blob=stdin_key(workload_id))
    return a_workload(number, payload, **fields)


def keys_of(spec: WorkloadSpec) -> list[str]:
    workload_id = spec.id
    return [
        log_key(workload_id), program_key(workload_id, archive=False), stdin_key(workload_id),
        result_key(workload_id, "a.csv"), result_key(workload_id, "deep/b.csv"),
    ]  # fmt: skip


def retention_of(plane: Plane, blobs: RetainedBlobs | None = None, **settings: Any) -> Retention:
    """Returns the retention of a plane a hundred years later, in small steps."""
    return Retention(
        plane._journal,
        blobs or plane._retention._blobs,
        RestlessClock(LATER),
        RetentionSettings(batch=2, **settings),
        writing=lambda: plane.refusal is None,
        memory=plane.letting_go,
        in_use=lambda: blobs_in_use(plane._writer.cluster.state),
    )


def a_node() -> SimulatedNode:
    """Returns a node on which everything ends at once but the ``LIVING``."""
    return SimulatedNode(
        models={"echo": lambda value: value},
        script=lambda order: Script(end=None) if order.workload_id in LIVING else Script(),
    )


async def run(cluster: InProcessPlane, *specs: WorkloadSpec) -> None:
    """Has programs come and go, with all the blobs that they may have."""
    for spec in specs:
        for key in keys_of(spec):
            await cluster.plane.blobs.put(key, b"1")
        await cluster.ask(SubmitWorkload(spec=spec))
        if spec.id not in LIVING:
            await cluster.finished(spec.id)


async def present(cluster: InProcessPlane, spec: WorkloadSpec) -> int:
    return sum([await cluster.plane.blobs.size(key) is not None for key in keys_of(spec)])


@pytest.fixture
def plane_of(tmp_path: Path, database_url: str) -> Callable[[], Any]:
    return lambda: in_process_plane(
        nodes=[a_node()],
        clock=FakeClock(),
        state_dir=tmp_path,
        database_url=database_url,
        retention=RetentionSettings(),
    )


async def test_what_has_ended_goes_with_its_blobs_and_what_lives_stays(
    plane_of: Callable[[], Any], database_url: str
) -> None:
    async with plane_of() as cluster:
        old, alive = [a_program(number) for number in range(1, 6)], a_program(5000)
        await run(cluster, *old, alive)
        request = a_workload(20, an_inference(input=b"1"), waiting=True)
        await cluster.ask(SubmitWorkload(spec=request))
        await retention_of(cluster.plane).sweep()
        for spec in [*old, request]:
            with pytest.raises(NotFoundError, match=r"ended work after 30 days and inference requests after 7 days"):
                await cluster.plane.query(GetWorkload(workload_id=spec.id))
        assert [await present(cluster, spec) for spec in [*old, alive]] == [0] * 5 + [5]
        page = await cluster.plane.query(ListWorkloads(kinds=frozenset(PayloadKind)))
        assert isinstance(page, WorkloadPage)
        assert [view.spec.id for view in page.workloads] == [alive.id]
        assert page.total == 1
        await check_memory_is_the_rows(cluster.plane, database_url)
        cluster.nodes[0].finish(alive.id)
        assert (await cluster.finished(alive.id)).phase is Phase.SUCCEEDED
        await check_memory_is_the_rows(cluster.plane, database_url)


def a_dead_node() -> SimulatedNode:
    return SimulatedNode(script=lambda _: Script(end=Phase.FAILED))


async def test_what_is_being_written_is_not_deleted(tmp_path: Path, database_url: str) -> None:
    async with in_process_plane(
        nodes=[a_dead_node()], clock=FakeClock(), state_dir=tmp_path, database_url=database_url
    ) as cluster:
        old, new = a_program(1), a_program(2)
        await run(cluster, old)
        replies = cluster.plane.begin([DiscardWorkload(workload_id=old.id, account=None), SubmitWorkload(spec=new)])
        async with cluster.plane.letting_go.workloads([old.id]) as free:
            assert free == []
        assert not [reply for reply in await asyncio.gather(*replies) if isinstance(reply, ArcrayError)]
        await cluster.finished(new.id)
        await retention_of(cluster.plane).sweep()
        await check_memory_is_the_rows(cluster.plane, database_url)


async def test_what_is_being_looked_up_is_deleted_only_after_it_was_handled(tmp_path: Path, database_url: str) -> None:
    """Else what was read before would be written again after, and rows and their counts part for good."""
    policy = ClusterPolicy(keep_finished=0)
    async with in_process_plane(
        nodes=[a_dead_node()], policy=policy, clock=FakeClock(), state_dir=tmp_path, database_url=database_url
    ) as cluster:
        old = [a_program(number) for number in (1, 2, 3)]
        await run(cluster, *old)
        journal, read, swept = cluster.plane._journal, asyncio.Event(), asyncio.Event()
        earlier = journal.earlier

        async def slowly(*asked: Any) -> list[Workload]:
            found = await earlier(*asked)
            read.set()
            await asyncio.wait({asyncio.ensure_future(swept.wait())}, timeout=0.2)  # which must not happen meanwhile
            assert not swept.is_set()
            return found

        journal.earlier = slowly  # type: ignore[method-assign, assignment]
        discarding = asyncio.create_task(cluster.plane.submit([DiscardWorkload(workload_id=old[0].id, account=None)]))
        await read.wait()
        await retention_of(cluster.plane).sweep()
        swept.set()
        assert await discarding == [None]
        await retention_of(cluster.plane).sweep()
        page = await cluster.plane.query(ListWorkloads())
        assert isinstance(page, WorkloadPage)
        assert (page.total, page.workloads) == (0, ())
        await check_memory_is_the_rows(cluster.plane, database_url)


async def test_a_key_whose_workload_was_deleted_makes_a_new_one(plane_of: Callable[[], Any]) -> None:
    async with plane_of() as cluster:
        await run(cluster, a_program(1, request_id="key", request_digest="d"))
        await retention_of(cluster.plane).sweep()
        again = a_workload(2, request_id="key", request_digest="other", created_at=LATER)
        reply = await cluster.ask(SubmitWorkload(spec=again))
        assert isinstance(reply, Submitted)
        assert (reply.workload_id, reply.created) == (again.id, True)


async def test_a_program_that_someone_alive_runs_stays_until_that_has_ended(plane_of: Callable[[], Any]) -> None:
    async with plane_of() as cluster:
        first = a_program(1)
        await run(cluster, first)
        again = a_workload(5001, first.payload)  # as a replay is
        await cluster.ask(SubmitWorkload(spec=again))
        await retention_of(cluster.plane).sweep()
        assert first.id not in cluster.plane._writer.cluster.state.workloads
        assert await cluster.plane.blobs.size(program_key(first.id, archive=False)) == 1
        cluster.nodes[0].finish(again.id)
        await cluster.finished(again.id)
        await retention_of(cluster.plane).sweep()
        assert await present(cluster, first) == 0


async def test_an_id_that_comes_again_keeps_its_blobs(plane_of: Callable[[], Any]) -> None:
    async with plane_of() as cluster:
        first, replay = a_program(1), a_workload(5001, a_program(1).payload)
        await run(cluster, first)
        await cluster.ask(SubmitWorkload(spec=replay))
        await retention_of(cluster.plane).sweep()  # the blobs of the first are still owed: its program runs
        second = Program(blob=program_key(first.id, archive=False, submission="second"))
        for key in keys_of(first):
            await cluster.plane.blobs.put(key, b"1")
        again = replace(first, payload=second, request_digest="second", created_at=LATER)
        await cluster.ask(SubmitWorkload(spec=again))
        cluster.nodes[0].finish(replay.id)
        await cluster.finished(replay.id)
        await retention_of(cluster.plane, workloads_s=None, max_workloads=None).sweep()
        assert await cluster.plane.blobs.size(log_key(first.id)) == 1
        assert await cluster.plane.blobs.size(result_key(first.id, "a.csv")) == 1


async def test_an_id_that_comes_again_runs_again_where_it_ran_before(plane_of: Callable[[], Any]) -> None:
    async with plane_of() as cluster:
        spec = a_program(1)
        await run(cluster, spec)
        await retention_of(cluster.plane).sweep()
        await run(cluster, replace(spec, created_at=LATER))
        assert cluster.nodes[0].executed == [(spec.id, 1), (spec.id, 1)]


async def test_a_program_under_a_key_of_its_submission_goes_with_its_workload(plane_of: Callable[[], Any]) -> None:
    async with plane_of() as cluster:
        spec = a_program(1)
        own, anothers = (program_key(spec.id, archive=False, submission=each) for each in ("own", "anothers"))
        for key in (own, anothers):
            await cluster.plane.blobs.put(key, b"1")
        await run(cluster, replace(spec, payload=Program(blob=own)))
        await retention_of(cluster.plane, workloads_s=None, max_workloads=None, orphans_s=None).sweep()
        assert await cluster.plane.blobs.size(own) == 1
        await retention_of(cluster.plane, orphans_s=None).sweep()
        assert await cluster.plane.blobs.size(own) is None
        assert await cluster.plane.blobs.size(anothers) == 1  # of a submission that was refused, or is on its way
        await retention_of(cluster.plane).sweep()
        assert await cluster.plane.blobs.size(anothers) is None


async def test_a_program_that_another_workload_runs_goes_once_that_has_ended(plane_of: Callable[[], Any]) -> None:
    async with plane_of() as cluster:
        spec = a_program(1)
        own = Program(blob=program_key(spec.id, archive=False, submission="own"))
        await cluster.plane.blobs.put(own.blob, b"1")
        await run(cluster, replace(spec, payload=own))
        await cluster.ask(SubmitWorkload(spec=a_workload(5001, own)))
        await retention_of(cluster.plane, orphans_s=None).sweep()
        assert await cluster.plane.blobs.size(own.blob) == 1
        await run(cluster, replace(spec, created_at=LATER))  # an id that comes again keeps nothing of the first
        cluster.nodes[0].finish(a_workload(5001).id)
        await cluster.finished(a_workload(5001).id)
        await retention_of(cluster.plane, workloads_s=None, max_workloads=None, orphans_s=None).sweep()
        assert await cluster.plane.blobs.size(own.blob) is None
        assert await present(cluster, spec) == len(keys_of(spec))


async def test_a_model_that_is_a_result_stays(plane_of: Callable[[], Any]) -> None:
    async with plane_of() as cluster:
        trained = a_program(1)
        await run(cluster, trained)
        source = result_key(trained.id, "a.csv")
        await cluster.ask(RegisterModel(model=a_model("trained", format=ModelFormat.ONNX, source=source)))
        await retention_of(cluster.plane).sweep()
        assert await cluster.plane.blobs.size(source) == 1


async def test_blobs_of_no_workload_are_found_and_deleted_in_time(plane_of: Callable[[], Any]) -> None:
    async with plane_of() as cluster:
        alive, never = a_program(5000), a_program(7)
        await run(cluster, alive)
        foreign = ["programs/readme", "elsewhere/x"]
        for key in [*keys_of(never), *foreign]:
            await cluster.plane.blobs.put(key, b"1")
        young = retention_of(cluster.plane)
        young._clock = RestlessClock(T0)  # long before they were written
        await young.sweep()
        assert await present(cluster, never) == 5
        await retention_of(cluster.plane).sweep()
        assert (await present(cluster, never), await present(cluster, alive)) == (0, 5)
        assert [await cluster.plane.blobs.size(key) for key in foreign] == [1, 1]


async def test_model_files_that_no_model_names_are_deleted_in_time(plane_of: Callable[[], Any]) -> None:
    async with plane_of() as cluster:
        kept, removed, refused = (model_key(str(number) * 64) for number in (1, 2, 3))
        for key in (kept, removed, refused):
            await cluster.plane.blobs.put(key, b"1")
        for name, key in (("kept", kept), ("removed", removed)):
            await cluster.ask(RegisterModel(model=a_model(name, format=ModelFormat.ONNX, source=key)))
        await cluster.ask(RemoveModel(model_id=ModelId("removed")))
        young = retention_of(cluster.plane)
        young._clock = RestlessClock(T0)  # long before they were written
        await young.sweep()
        assert [await cluster.plane.blobs.size(key) for key in (kept, removed, refused)] == [1, 1, 1]
        await retention_of(cluster.plane).sweep()
        assert [await cluster.plane.blobs.size(key) for key in (kept, removed, refused)] == [1, None, None]


class AwayBlobs:
    """A blob store that goes away after some deletions."""

    def __init__(self, real: RetainedBlobs, left: int) -> None:
        self._real = real
        self.left = left
        self.put, self.append, self.get, self.size = real.put, real.append, real.get, real.size
        self.entries = real.entries

    async def delete(self, key: str) -> None:
        self._take()
        await self._real.delete(key)

    async def delete_below(self, prefix: str) -> None:
        self._take()
        await self._real.delete_below(prefix)

    def _take(self) -> None:
        if self.left == 0:
            raise UnavailableError("the blob store is away")
        self.left -= 1


@pytest.mark.parametrize("deletions", [0, 1, 7, 13])
async def test_blobs_that_could_not_be_deleted_are_deleted_by_the_next_scheduler(
    plane_of: Callable[[], Any], deletions: int
) -> None:
    old = [a_program(number) for number in (1, 2, 3)]
    async with plane_of() as cluster:
        await run(cluster, *old)
        blobs = AwayBlobs(cluster.plane._retention._blobs, deletions)
        with pytest.raises(UnavailableError):
            await retention_of(cluster.plane, blobs).sweep()
        assert sum([await present(cluster, spec) for spec in old]) > 0
    async with plane_of() as cluster:
        await retention_of(cluster.plane).sweep()
        assert [await present(cluster, spec) for spec in old] == [0, 0, 0]


@pytest.mark.timeout(300)
async def test_a_failure_at_any_step_leaves_no_row_without_its_blobs(
    plane_of: Callable[[], Any], database_url: str
) -> None:
    """Sweeps once for every step of the database that a sweep has; takes some seconds."""
    failures = 0
    async with plane_of() as cluster:
        points = FailPoints(cluster.plane)
        for step in count(1):
            old = [a_program(3 * step + number) for number in range(3)]
            await run(cluster, *old)
            with points.arm(lambda taken, at=step: taken == at):  # type: ignore[misc]  # bound now
                try:
                    await retention_of(cluster.plane).sweep()
                except UnavailableError:
                    failures += 1
            stored = stored_workloads(database_url)
            assert [await present(cluster, spec) for spec in old if spec.id in stored] == [5] * len(stored)
            await retention_of(cluster.plane).sweep()
            assert stored_workloads(database_url) == {}
            assert [await present(cluster, spec) for spec in old] == [0, 0, 0]
            await check_memory_is_the_rows(cluster.plane, database_url)
            if not points.failed:
                break
    assert failures >= 10


async def test_nothing_is_deleted_while_the_journal_takes_no_writes(plane_of: Callable[[], Any]) -> None:
    async with plane_of() as cluster:
        await run(cluster, a_program(1))
        plane = cluster.plane
        retention = retention_of(plane)
        retention._writing = lambda: False
        await retention.turn()
        assert await plane.query(GetWorkload(workload_id=a_program(1).id))
        retention._writing = lambda: True
        await retention.turn()
        with pytest.raises(NotFoundError):
            await plane.query(GetWorkload(workload_id=WorkloadId(a_program(1).id)))


def a_place(number: int) -> Reserve:
    return Reserve(
        reservation_id=ReservationId(f"r{number}"),
        account=AccountId("local"),
        slices=(Reservable(demand=Demand(cpu_milli=1_000)),),
        ttl_s=300.0,
    )


@pytest.mark.parametrize("kept", [0, 1_000])
async def test_ended_reservations_go_and_active_ones_stay(tmp_path: Path, database_url: str, kept: int) -> None:
    policy = ClusterPolicy(keep_reservations=kept)
    async with in_process_plane(
        policy=policy, clock=FakeClock(), state_dir=tmp_path, database_url=database_url
    ) as cluster:
        held = [await cluster.ask(a_place(number)) for number in range(1, 7)]
        for reservation in held[:5]:
            await cluster.ask(ReleaseReservation(reservation_id=reservation.id))
        await retention_of(cluster.plane).sweep()
        for reservation in held[:5]:
            with pytest.raises(NotFoundError):
                await cluster.plane.query(GetReservation(reservation_id=reservation.id))
        assert await cluster.plane.query(GetReservation(reservation_id=held[5].id)) == held[5]
        await check_memory_is_the_rows(cluster.plane, database_url)
        again: Reservation = await cluster.ask(a_place(1))
        assert again.id == held[0].id
        await check_memory_is_the_rows(cluster.plane, database_url)


async def test_a_reservation_that_live_work_came_by_stays(tmp_path: Path, database_url: str) -> None:
    async with in_process_plane(
        nodes=[a_node()], clock=FakeClock(), state_dir=tmp_path, database_url=database_url
    ) as cluster:
        taken: Reservation = await cluster.ask(a_place(1))
        spec = a_workload(5000, demand=Demand(cpu_milli=1_000), reservation_id=taken.id)
        await cluster.ask(SubmitWorkload(spec=spec))
        await retention_of(cluster.plane).sweep()
        assert await cluster.plane.query(GetReservation(reservation_id=taken.id))
        cluster.nodes[0].finish(spec.id)
        await cluster.finished(spec.id)
        await retention_of(cluster.plane).sweep()
        with pytest.raises(NotFoundError):
            await cluster.plane.query(GetReservation(reservation_id=taken.id))
        await check_memory_is_the_rows(cluster.plane, database_url)


async def test_machines_that_come_and_go_leave_nothing(tmp_path: Path, database_url: str) -> None:
    spot = [SimulatedNode(f"spot-{number}") for number in range(6)]
    async with in_process_plane(
        nodes=spot, clock=FakeClock(), state_dir=tmp_path, database_url=database_url
    ) as cluster:
        state = cluster.plane._writer.cluster.state
        for node in cluster.nodes[:5]:
            await node.detach()
        await retention_of(cluster.plane).sweep()
        assert [*state.nodes] == [cluster.nodes[5].id]
        for node in cluster.nodes[:5]:
            with pytest.raises(NotFoundError):
                await cluster.plane.query(GetNode(node_id=node.id))
        await check_memory_is_the_rows(cluster.plane, database_url)
        await cluster.attach(cluster.nodes[0])
        assert state.nodes[cluster.nodes[0].id].epoch == 1
        await check_memory_is_the_rows(cluster.plane, database_url)


async def test_a_departure_that_is_being_written_is_not_deleted_yet(tmp_path: Path, database_url: str) -> None:
    async with in_process_plane(
        nodes=[a_node()], clock=FakeClock(), state_dir=tmp_path, database_url=database_url
    ) as cluster:
        leaving = cluster.nodes[0].id
        replies = cluster.plane.begin([DetachNode(node_id=leaving, epoch=1)])
        async with cluster.plane.letting_go.nodes([leaving]) as gone:
            assert list(gone) == []
        assert await replies[0] is None
        await check_memory_is_the_rows(cluster.plane, database_url)


@pytest.mark.timeout(300)
async def test_a_failure_at_any_step_leaves_no_row_of_a_machine_that_was_forgotten(
    tmp_path: Path, database_url: str
) -> None:
    """Sweeps once for every step of the database that a sweep has; takes some seconds."""
    failures = 0
    async with in_process_plane(nodes=[], clock=FakeClock(), state_dir=tmp_path, database_url=database_url) as cluster:
        points = FailPoints(cluster.plane)
        for step in count(1):
            node = await cluster.attach(a_node())
            await node.detach()
            with points.arm(lambda taken, at=step: taken == at):  # type: ignore[misc]  # bound now
                try:
                    await retention_of(cluster.plane).sweep()
                except UnavailableError:
                    failures += 1
            await retention_of(cluster.plane).sweep()
            await check_memory_is_the_rows(cluster.plane, database_url)
            if not points.failed:
                break
    assert failures >= 10
