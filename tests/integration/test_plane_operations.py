"""Drains, quotas, dead letters and simulations through a whole control plane, and over its restarts."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from arcray.control.simulations import Simulations
from arcray.core.commands import (
    DiscardWorkload,
    DrainNode,
    LabelNode,
    RegisterModel,
    SetNodeScheduling,
    SetQuota,
    StopWorkload,
    Submitted,
    SubmitWorkload,
)
from arcray.core.errors import ConflictError, DeadlineExceededError, ResourceExhaustedError
from arcray.core.events import NodeDrainChanged, Topic
from arcray.core.ids import AccountId, NodeId, WorkloadId
from arcray.core.node import NodeView
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.policy import ClusterPolicy
from arcray.core.queries import (
    GetModel,
    GetNode,
    GetQuota,
    GetWorkload,
    ListWorkloads,
    ModelView,
    QuotaView,
    WorkloadPage,
)
from arcray.core.quota import Quota
from arcray.core.what_if import Simulate, Simulation
from arcray.core.workload import ModelServer, PayloadKind, Phase, RestartPolicy, RestartRule, WorkloadView
from arcray.testing.builders import a_model, a_workload, an_inference
from arcray.testing.faults import check_memory_is_the_rows, folded, journalled, stored_workloads
from arcray.testing.plane import InProcessPlane, in_process_plane
from arcray.testing.simulated_node import Script, SimulatedNode

AGAIN = RestartPolicy(rule=RestartRule.ON_FAILURE)
W1, W2 = a_workload(1).id, a_workload(2).id
LOCAL = AccountId("local")


def endless(name: str = "sim-1") -> SimulatedNode:
    return SimulatedNode(name, script=lambda _: Script(end=None))


def failing(name: str = "sim-1") -> SimulatedNode:
    return SimulatedNode(name, script=lambda _: Script(end=Phase.FAILED, message="exit 1"))


async def node_of(cluster: InProcessPlane, node_id: NodeId) -> NodeView:
    view = await cluster.plane.query(GetNode(node_id=node_id))
    assert isinstance(view, NodeView)
    return view


async def work_of(cluster: InProcessPlane, workload_id: WorkloadId = W1) -> WorkloadView:
    view = await cluster.plane.query(GetWorkload(workload_id=workload_id))
    assert isinstance(view, WorkloadView)
    return view


async def drained(cluster: InProcessPlane, node_id: NodeId) -> None:
    """Waits until a node is drained."""
    changes = cluster.plane.events(frozenset({Topic.NODES}))
    async with asyncio.timeout(5):
        async for batch in changes:
            told = [event for event in batch.events if isinstance(event, NodeDrainChanged)]
            if any(event.drain is not None and event.drain.done_at is not None for event in told):
                break
            drain = (await node_of(cluster, node_id)).drain
            if drain is not None and drain.done_at is not None:
                break
    await changes.aclose()


async def dead_letters(cluster: InProcessPlane) -> list[str]:
    page = await cluster.plane.query(ListWorkloads(kinds=frozenset(PayloadKind), dead=True))
    assert isinstance(page, WorkloadPage)
    assert page.total == len(page.workloads)
    return [view.spec.id for view in page.workloads]


# -- drains ------------------------------------------------------------------------------------------------------------


async def test_a_drained_node_loses_its_work_to_another_one_and_says_so(tmp_path: Path) -> None:
    first = endless()
    async with in_process_plane(nodes=[first], state_dir=tmp_path) as cluster:
        await cluster.ask(SubmitWorkload(spec=a_workload(1, restart=AGAIN)))
        await first.delivered(1)
        second = await cluster.attach(endless("sim-2"))
        await cluster.ask(DrainNode(node_id=first.id, grace_s=2.0))
        await drained(cluster, first.id)
        await second.delivered(1)
        moved = await work_of(cluster)
        assert (moved.node_id, moved.attempt, moved.restarts) == (second.id, 2, 0)
        assert isinstance(first.orders[-1], StopAttempt)
        assert first.orders[-1].grace_s == 2.0
        assert (await node_of(cluster, first.id)).workloads == 0
        await check_memory_is_the_rows(cluster.plane, tmp_path / "arcray.db")
        assert folded(journalled(tmp_path / "arcray.db")) == stored_workloads(tmp_path / "arcray.db")


async def test_a_model_is_served_elsewhere_before_its_copy_on_a_drained_node_ends(tmp_path: Path) -> None:
    first = endless()
    async with in_process_plane(nodes=[first], state_dir=tmp_path) as cluster:
        await cluster.ask(RegisterModel(model=a_model()))
        await cluster.ask(SubmitWorkload(spec=a_workload(1, ModelServer(model=a_model()), restart=AGAIN)))
        await first.delivered(1)
        second = await cluster.attach(endless("sim-2"))
        await cluster.ask(DrainNode(node_id=first.id))
        await drained(cluster, first.id)
        assert (await work_of(cluster)).phase is Phase.STOPPED
        model = await cluster.plane.query(GetModel(model_id=a_model().id))
        assert isinstance(model, ModelView)
        assert [(copy.node_id, copy.phase) for copy in model.servers] == [(second.id, Phase.RUNNING)]
        start, stop = second.orders[0], first.orders[-1]
        assert isinstance(start, StartWorkload)
        assert isinstance(stop, StopAttempt)


async def test_a_drain_goes_on_after_the_scheduler_was_restarted(tmp_path: Path) -> None:
    deaf = endless()
    deaf.deaf = True
    async with in_process_plane(nodes=[deaf], state_dir=tmp_path) as before:
        await before.ask(SubmitWorkload(spec=a_workload(1, restart=AGAIN)))
        await before.ask(LabelNode(node_id=deaf.id, labels={"zone": "eu"}))
        await before.ask(SetQuota(account=LOCAL, quota=Quota(gpus=3)))
        await before.ask(DrainNode(node_id=deaf.id))
    again = endless()
    async with in_process_plane(nodes=[], state_dir=tmp_path) as after:
        assert (await work_of(after)).phase is Phase.STOPPING
        node = await node_of(after, again.id)
        assert (node.draining, dict(node.labels)) == (True, {"zone": "eu"})
        quota = await after.plane.query(GetQuota(account=LOCAL))
        assert isinstance(quota, QuotaView)
        assert (quota.own, quota.quota) == (True, Quota(gpus=3))
        await after.attach(again)  # without the work: its attempt is given up, and that was what the drain wanted
        await drained(after, again.id)
        assert (await work_of(after)).phase is Phase.PENDING
        await after.ask(SetNodeScheduling(node_id=again.id, cordoned=False))
        await again.delivered(1)
        assert (await work_of(after)).attempt == 2


async def test_a_quota_that_was_taken_back_is_gone_after_a_restart(tmp_path: Path) -> None:
    async with in_process_plane(nodes=[], state_dir=tmp_path) as before:
        await before.ask(SetQuota(account=LOCAL, quota=Quota(gpus=3)))
        await before.ask(SetQuota(account=LOCAL, quota=None))
    async with in_process_plane(nodes=[], state_dir=tmp_path) as after:
        quota = await after.plane.query(GetQuota(account=LOCAL))
        assert isinstance(quota, QuotaView)
        assert not quota.own


# -- dead letters ------------------------------------------------------------------------------------------------------


async def test_dead_letters_are_found_settled_and_stay_so_over_a_restart(tmp_path: Path) -> None:
    async with in_process_plane(nodes=[failing()], state_dir=tmp_path) as before:
        for number in (1, 2, 3):
            await before.ask(SubmitWorkload(spec=a_workload(number)))
            await before.finished(a_workload(number).id)
        assert len(await dead_letters(before)) == 3
        await before.ask(DiscardWorkload(workload_id=W2))
        await before.ask(SubmitWorkload(spec=a_workload(4, replay_of=W1)))
        await before.finished(a_workload(4).id)
        assert set(await dead_letters(before)) == {a_workload(3).id, a_workload(4).id}
        await check_memory_is_the_rows(before.plane, tmp_path / "arcray.db")
    async with in_process_plane(nodes=[], state_dir=tmp_path) as after:
        assert set(await dead_letters(after)) == {a_workload(3).id, a_workload(4).id}
        assert (await work_of(after)).replayed_by == a_workload(4).id
        with pytest.raises(ConflictError):
            await after.ask(SubmitWorkload(spec=a_workload(5, replay_of=W1)))


@pytest.mark.parametrize("kept", [0, 1])
async def test_dead_letters_that_memory_has_let_go_of_are_dealt_with_all_the_same(tmp_path: Path, kept: int) -> None:
    policy = ClusterPolicy(keep_finished=kept)
    async with in_process_plane(nodes=[failing()], policy=policy, state_dir=tmp_path) as cluster:
        for number in range(1, 6):
            await cluster.ask(SubmitWorkload(spec=a_workload(number)))
            await cluster.finished(a_workload(number).id)
        await cluster.ask(DiscardWorkload(workload_id=W2))
        reply = await cluster.ask(SubmitWorkload(spec=a_workload(6, replay_of=W1, request_id="k")))
        assert isinstance(reply, Submitted)
        again = await cluster.ask(SubmitWorkload(spec=a_workload(7, replay_of=W1, request_id="k")))
        assert (again.workload_id, again.created) == (a_workload(6).id, False)
        await cluster.finished(a_workload(6).id)
        assert set(await dead_letters(cluster)) == {a_workload(number).id for number in (3, 4, 5, 6)}
        await check_memory_is_the_rows(cluster.plane, tmp_path / "arcray.db")


async def test_a_stopped_workload_is_no_dead_letter_and_a_rejected_request_is_one(tmp_path: Path) -> None:
    policy = ClusterPolicy(routing_patience=timedelta(milliseconds=20))
    async with in_process_plane(nodes=[endless()], policy=policy, state_dir=tmp_path) as cluster:
        await cluster.ask(SubmitWorkload(spec=a_workload(1)))
        await cluster.ask(StopWorkload(workload_id=W1))
        await cluster.finished(W1)
        await cluster.ask(SubmitWorkload(spec=a_workload(2, an_inference())))
        await cluster.finished(W2)
        assert await dead_letters(cluster) == [W2]


# -- what if -----------------------------------------------------------------------------------------------------------


async def test_a_simulation_journals_nothing_and_orders_nothing(tmp_path: Path) -> None:
    node = endless()
    node.deaf = True
    async with in_process_plane(nodes=[node], state_dir=tmp_path) as cluster:
        await cluster.ask(SubmitWorkload(spec=a_workload(1, restart=AGAIN)))
        await node.delivered(1)
        before = journalled(tmp_path / "arcray.db")
        found = await cluster.plane.query(Simulate(drain_nodes=(node.id,), submit=(a_workload(9),)))
        assert isinstance(found, Simulation)
        assert (found.displaced_total, found.waiting) == (1, 2)
        assert journalled(tmp_path / "arcray.db") == before
        assert len(node.orders) == 1
        assert (await work_of(cluster)).phase is Phase.PLACED


async def test_one_simulation_runs_at_a_time(tmp_path: Path) -> None:
    async with in_process_plane(nodes=[endless()], state_dir=tmp_path) as cluster:
        wanted = Simulate(submit=(a_workload(9),))
        answers = await asyncio.gather(*(cluster.plane.query(wanted) for _ in range(3)), return_exceptions=True)
        assert sum(isinstance(answer, Simulation) for answer in answers) == 1
        assert sum(isinstance(answer, ResourceExhaustedError) for answer in answers) == 2
        assert isinstance(await cluster.plane.query(wanted), Simulation)


async def test_a_simulation_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    async with in_process_plane(nodes=[endless()], state_dir=tmp_path) as cluster:
        live = cluster.plane._writer.cluster
        impatient = Simulations(longest_s=0.0)
        with pytest.raises(DeadlineExceededError, match="ask for less"):
            await impatient.run(live, Simulate(submit=tuple(map(a_workload, range(1000)))), cluster.clock.now())
