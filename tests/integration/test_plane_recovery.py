"""What a plane that starts on the rows of an earlier one goes on with."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from arcray.control.journal import Journal
from arcray.core.commands import RegisterModel, ReportEnd, ReportTelemetry, StopWorkload, Submitted, SubmitWorkload
from arcray.core.errors import IdempotencyMismatchError, InternalError, NotFoundError, StaleReportError
from arcray.core.ids import AccountId, WorkloadId
from arcray.core.node import Health, NodeView
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.policy import ClusterPolicy
from arcray.core.queries import GetModel, GetNode, GetWorkload, ListWorkloads, WorkloadPage
from arcray.core.workload import PayloadKind, Phase, WorkloadSpec, WorkloadView
from arcray.testing.builders import T0, a_model, a_workload, an_inference
from arcray.testing.plane import InProcessPlane, in_process_plane
from arcray.testing.simulated_node import SimulatedNode
from tests.gated_model import GatedModel

FORGETFUL = ClusterPolicy(keep_finished=2, keep_finished_inference=2)


def a_deaf_node() -> SimulatedNode:
    """Returns a node that does nothing: what a restart of the scheduler finds as it was."""
    node = SimulatedNode()
    node.deaf = True
    return node


async def view_of(cluster: InProcessPlane, workload_id: WorkloadId) -> WorkloadView:
    view = await cluster.plane.query(GetWorkload(workload_id=workload_id))
    assert isinstance(view, WorkloadView)
    return view


async def test_nodes_work_and_models_are_there_again(tmp_path: Path, database_url: str) -> None:
    async with in_process_plane(nodes=[a_deaf_node()], state_dir=tmp_path, database_url=database_url) as before:
        await before.ask(SubmitWorkload(spec=a_workload(1)))
        await before.ask(RegisterModel(model=a_model()))
        placed = await view_of(before, a_workload(1).id)
    async with in_process_plane(nodes=[], state_dir=tmp_path, database_url=database_url) as after:
        assert await view_of(after, a_workload(1).id) == placed
        assert await after.plane.query(GetModel(model_id=a_model().id))
        assert placed.node_id is not None
        node = await after.plane.query(GetNode(node_id=placed.node_id))
        assert isinstance(node, NodeView)
        assert (node.health, node.workloads) == (Health.HEALTHY, 1)


async def test_an_order_that_no_node_has_reported_on_is_delivered_again(tmp_path: Path, database_url: str) -> None:
    node = a_deaf_node()
    async with in_process_plane(nodes=[node], state_dir=tmp_path, database_url=database_url) as before:
        await before.ask(SubmitWorkload(spec=a_workload(1)))
        await node.delivered(1)
    async with in_process_plane(nodes=[], state_dir=tmp_path, database_url=database_url) as after:
        after.driver.add(node.id, node)
        await node.delivered(2)
    first, second = node.orders
    assert first == second
    assert isinstance(first, StartWorkload)


async def test_a_stop_that_was_asked_for_is_asked_for_again(tmp_path: Path, database_url: str) -> None:
    node = a_deaf_node()
    async with in_process_plane(nodes=[node], state_dir=tmp_path, database_url=database_url) as before:
        await before.ask(SubmitWorkload(spec=a_workload(1)))
        await node.delivered(1)
        node.silent = True
        await before.ask(StopWorkload(workload_id=a_workload(1).id))
    node.silent = False
    async with in_process_plane(nodes=[], state_dir=tmp_path, database_url=database_url) as after:
        after.driver.add(node.id, node)
        await node.delivered(2)
    assert isinstance(node.orders[-1], StopAttempt)


async def test_a_node_goes_on_under_its_old_epoch(tmp_path: Path, database_url: str) -> None:
    node = a_deaf_node()
    async with in_process_plane(nodes=[node], state_dir=tmp_path, database_url=database_url) as before:
        await before.ask(SubmitWorkload(spec=a_workload(1)))
    async with in_process_plane(nodes=[], state_dir=tmp_path, database_url=database_url) as after:
        beat = ReportTelemetry(node_id=node.id, epoch=node.epoch)
        assert (await after.ask(beat)).report_models
        end = ReportEnd(
            node_id=node.id, epoch=1, workload_id=a_workload(1).id, attempt=1, phase=Phase.SUCCEEDED
        )  # fmt: skip
        await after.ask(end)
        assert (await view_of(after, a_workload(1).id)).phase is Phase.SUCCEEDED
        with pytest.raises(StaleReportError):
            await after.ask(ReportTelemetry(node_id=node.id, epoch=7))


async def test_work_that_waited_for_a_place_gets_one(tmp_path: Path, database_url: str) -> None:
    async with in_process_plane(nodes=[], state_dir=tmp_path, database_url=database_url) as before:
        await before.ask(SubmitWorkload(spec=a_workload(1)))
    async with in_process_plane(state_dir=tmp_path, database_url=database_url) as after:
        assert (await after.finished(a_workload(1).id)).phase is Phase.SUCCEEDED


async def test_a_damaged_row_is_named_at_the_start(tmp_path: Path, database_url: str) -> None:
    async with in_process_plane(state_dir=tmp_path, database_url=database_url) as before:
        await before.ask(SubmitWorkload(spec=a_workload(1)))
        await before.finished(a_workload(1).id)
    journal = Journal(database_url)
    with journal._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE workloads SET body = '{}'")
    await journal.close()
    with pytest.raises(InternalError, match=a_workload(1).id):
        async with in_process_plane(state_dir=tmp_path, database_url=database_url):
            pass


class TestWhatMemoryHasLetGoOf:
    @pytest.fixture
    def specs(self) -> list[WorkloadSpec]:
        """Five workloads; of finished ones memory keeps two."""
        return [
            a_workload(
                number, request_id=f"key-{number}", request_digest="d", created_at=T0 + timedelta(seconds=number)
            )
            for number in range(1, 6)
        ]

    @pytest.fixture(params=["the same plane", "a restarted plane"])
    async def cluster(
        self, request: pytest.FixtureRequest, tmp_path: Path, database_url: str, specs: list[WorkloadSpec]
    ) -> AsyncIterator[InProcessPlane]:
        async with in_process_plane(policy=FORGETFUL, state_dir=tmp_path, database_url=database_url) as cluster:
            for spec in specs:
                await cluster.ask(SubmitWorkload(spec=spec))
                await cluster.finished(spec.id)
            if request.param == "the same plane":
                yield cluster
                return
        async with in_process_plane(
            nodes=[], policy=FORGETFUL, state_dir=tmp_path, database_url=database_url
        ) as cluster:
            yield cluster

    async def test_is_got_from_its_row(self, cluster: InProcessPlane, specs: list[WorkloadSpec]) -> None:
        assert specs[0].id not in cluster.plane._writer.cluster.state.workloads
        view = await view_of(cluster, specs[0].id)
        assert (view.phase, view.spec) == (Phase.SUCCEEDED, specs[0])

    async def test_is_hidden_from_other_accounts(self, cluster: InProcessPlane, specs: list[WorkloadSpec]) -> None:
        with pytest.raises(NotFoundError):
            await cluster.plane.query(GetWorkload(workload_id=specs[0].id, account=AccountId("other")))

    async def test_is_listed(self, cluster: InProcessPlane, specs: list[WorkloadSpec]) -> None:
        page = await cluster.plane.query(ListWorkloads(limit=2, offset=2))
        assert isinstance(page, WorkloadPage)
        assert [view.spec for view in page.workloads] == [specs[2], specs[1]]
        assert page.total == 5

    async def test_is_not_run_again_under_its_key(self, cluster: InProcessPlane, specs: list[WorkloadSpec]) -> None:
        again = a_workload(50, request_id="key-1", request_digest="d", created_at=T0 + timedelta(hours=1))
        reply = await cluster.ask(SubmitWorkload(spec=again))
        assert isinstance(reply, Submitted)
        assert (reply.workload_id, reply.created, reply.phase) == (specs[0].id, False, Phase.SUCCEEDED)
        with pytest.raises(IdempotencyMismatchError):
            await cluster.ask(SubmitWorkload(spec=a_workload(51, request_id="key-2", request_digest="another")))

    async def test_is_not_run_again_under_its_id(self, cluster: InProcessPlane, specs: list[WorkloadSpec]) -> None:
        reply = await cluster.ask(SubmitWorkload(spec=specs[0]))
        assert (reply.workload_id, reply.created) == (specs[0].id, False)

    async def test_is_stopped_without_effect_and_without_error(
        self, cluster: InProcessPlane, specs: list[WorkloadSpec]
    ) -> None:
        assert await cluster.ask(StopWorkload(workload_id=specs[0].id)) is None
        assert (await view_of(cluster, specs[0].id)).phase is Phase.SUCCEEDED
        with pytest.raises(NotFoundError):
            await cluster.ask(StopWorkload(workload_id=specs[1].id, account=AccountId("other")))
        with pytest.raises(NotFoundError):
            await cluster.ask(StopWorkload(workload_id=a_workload(99).id))

    async def test_keeps_the_order_of_a_batch(self, cluster: InProcessPlane, specs: list[WorkloadSpec]) -> None:
        new = a_workload(60, created_at=T0 + timedelta(hours=1))
        replies = await cluster.plane.submit([SubmitWorkload(spec=specs[0]), SubmitWorkload(spec=new)])
        assert [(reply.workload_id, reply.created) for reply in replies if isinstance(reply, Submitted)] == [
            (specs[0].id, False),
            (new.id, True),
        ]


async def test_a_list_of_requests_joins_rows_and_those_in_flight(tmp_path: Path, database_url: str) -> None:
    slow = GatedModel()
    node = SimulatedNode(models={"echo": lambda value: value, "slow": slow.answer})
    async with in_process_plane(
        nodes=[node], policy=FORGETFUL, state_dir=tmp_path, database_url=database_url
    ) as cluster:
        specs = [
            a_workload(
                number,
                an_inference(model_id="slow" if number in (3, 6) else "echo", input=b"1"),
                waiting=True,
                created_at=T0 + timedelta(seconds=number),
            )
            for number in range(1, 8)
        ]
        replies = cluster.plane.begin([SubmitWorkload(spec=spec) for spec in specs])
        done = [reply for number, reply in enumerate(replies, start=1) if number not in (3, 6)]
        await asyncio.wait_for(asyncio.gather(*done), 5)
        listed: list[WorkloadSpec] = []
        for offset in range(0, 8, 2):
            query = ListWorkloads(kinds=frozenset({PayloadKind.INFERENCE}), limit=2, offset=offset)
            page = await cluster.plane.query(query)
            assert isinstance(page, WorkloadPage)
            assert page.total == 7
            listed += [view.spec for view in page.workloads]
        assert listed == specs[::-1]
        slow.gate.set()
        await asyncio.wait_for(asyncio.gather(*replies), 5)


CHILD = """
import asyncio, sys
from pathlib import Path
from arcray.core.commands import SubmitWorkload
from arcray.core.errors import ArcrayError
from arcray.testing.builders import a_workload
from arcray.testing.plane import in_process_plane

async def main():
    async with in_process_plane(state_dir=Path(sys.argv[1]), database_url=sys.argv[2]) as cluster:
        async def client(first):
            number = first
            while True:
                (reply,) = await cluster.plane.submit([SubmitWorkload(spec=a_workload(number))])
                assert not isinstance(reply, ArcrayError), reply
                print(reply.workload_id, flush=True)
                number += 8
        await asyncio.gather(*map(client, range(1, 9)))

asyncio.run(main())
"""


async def test_an_acknowledgement_survives_a_kill(tmp_path: Path, database_url: str) -> None:
    """Starts a process, kills it under load, and counts; takes a second."""
    child = subprocess.Popen(  # noqa: ASYNC220 - its output is read line by line, and it is killed here
        [sys.executable, "-c", CHILD, str(tmp_path), database_url],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    acknowledged = [child.stdout.readline().strip() for _ in range(200)]
    child.send_signal(signal.SIGKILL)
    acknowledged += [line.strip() for line in child.stdout if line.endswith("\n")]
    child.wait(timeout=10)
    child.stdout.close()
    async with in_process_plane(nodes=[], state_dir=tmp_path, database_url=database_url) as after:
        after.plane._writer.cluster.state.check_invariants()
        for workload_id in acknowledged:
            assert await view_of(after, WorkloadId(workload_id))
    assert len(set(acknowledged)) >= 200
