"""Claw nodes over a real listener: they are nodes of the pool, in every form and dialect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from arcray import claw_proto as claw
from arcray.claw_proto import WorkloadState, original
from arcray.claw_proto.frames import MAX_MESSAGE_BYTES, Dialect, Form
from arcray.claw_settings import ClawSettings
from arcray.core import commands as cmd
from arcray.core.blobkeys import log_key
from arcray.core.ids import NodeId
from arcray.core.node import Health
from arcray.core.queries import ExplainWorkload
from arcray.core.resources import Demand
from arcray.core.workload import Container, Phase, PortMapping, RestartPolicy, RestartRule
from arcray.facades.claw import endpoint
from arcray.facades.claw.replies import wire_id
from arcray.facades.claw.wishes import LOG_LEVEL, MAX_WORKLOADS, SHUTDOWN
from arcray.testing.builders import a_workload
from tests.conformance.claw.claw_rig import (
    AT,
    ID,
    ClawNode,
    a_node,
    in_phase,
    node_of,
    registration,
    submit,
    until,
    work_of,
)

S = WorkloadState
FORMS = list(Form)
QUICK = ClawSettings(recall_s=0.3)
TOO_OFTEN = "too many registrations come from this address; wait, then register again"
ON_LOSS = RestartPolicy(rule=RestartRule.ON_LOSS, max_restarts=3)


@pytest.mark.parametrize("path", ["/claw", "/"])
@pytest.mark.parametrize("form", FORMS)
async def test_a_node_runs_what_is_submitted(serve: Any, form: Form, path: str) -> None:
    async with serve(nodes=[], listen=True) as served, a_node(served, form=form, path=path) as node:
        answer = await node.register()
        assert answer == claw.Registered(heartbeat_interval_secs=30, metrics_interval_secs=10)
        name = await submit(served)
        workload = await node.deployed()
        assert (workload.id, workload.spec.image) == (name, "nginx")
        await node.tell(name, S.PULLING, S.STARTING, S.RUNNING)
        await in_phase(served, Phase.RUNNING)
        await node.write(name, "hello", "world")
        await node.tell(name, S.COMPLETED, message="bye")
        view = await served.cluster.finished(a_workload(1).id)
        assert (view.phase, view.node_id) == (Phase.SUCCEEDED, ID)
        assert await served.cluster.plane.blobs.get(log_key(view.spec.id)) == b"hello\nworld\n"


async def test_a_stock_node_of_the_first_implementation_runs_and_stops(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served, a_node(served, dialect=Dialect.ORIGINAL, path="/") as node:
        answer = await node.register()
        assert isinstance(answer, original.Registered)
        assert (answer.node_id, answer.heartbeat_interval_secs) == (ID, 30)
        assert isinstance(await node.beat(), original.HeartbeatAck)
        name = await submit(served)
        told = await node.hear()
        assert isinstance(told, original.StartWorkload)
        assert (told.workload_id, told.spec.image) == (name, "nginx")
        await node.tell(name, S.RUNNING)
        await in_phase(served, Phase.RUNNING)
        await served.cluster.ask(cmd.StopWorkload(workload_id=a_workload(1).id))
        stop = await node.hear()
        assert stop == original.StopWorkload(workload_id=name, grace_period_secs=10)
        await node.tell(name, S.STOPPED)
        assert (await served.cluster.finished(a_workload(1).id)).phase is Phase.STOPPED


async def test_case_19_of_two_nodes_the_one_with_fewer_spare_gpus_is_taken(serve: Any) -> None:
    large, small = ID, ID.replace("5", "6")
    async with (
        serve(nodes=[], listen=True) as served,
        a_node(served, node_id=large) as eight,
        a_node(served, node_id=small) as four,
    ):
        await eight.register(gpu_count=8, total_vram_mb=8 * 81_920)
        await four.register(gpu_count=4, total_vram_mb=4 * 81_920)
        await submit(served, demand=Demand(gpus=4))
        workload = await four.deployed()
        assert (workload.spec.gpu_count, workload.status.gpu_ids) == (4, (0, 1, 2, 3))


async def test_an_illegal_step_is_refused_and_changes_nothing(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served, a_node(served) as node:
        await node.register()
        name = await submit(served)
        await node.deployed()
        await node.tell(name, S.RUNNING, S.COMPLETED)
        await node.beat()
        assert (await work_of(served)).phase is Phase.PLACED


async def test_a_node_is_given_no_more_than_it_takes_at_a_time(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served, a_node(served) as node:
        await node.register(most=1)
        first, _ = await submit(served, 1), await submit(served, 2)
        await node.deployed()
        why = await served.cluster.plane.query(ExplainWorkload(workload_id=a_workload(2).id))
        assert [refusal.filter for refusal in why.placement.refusals] == ["full"]
        await node.tell(first, S.STARTING, S.RUNNING, S.COMPLETED)
        assert (await node.deployed()).id == wire_id(a_workload(2).id, 1)


async def test_what_a_node_has_no_word_for_goes_elsewhere(serve: Any) -> None:
    async with (
        serve(nodes=[], listen=True) as served,
        a_node(served, dialect=Dialect.ORIGINAL) as first,
        a_node(served, node_id=ID.replace("5", "6")) as second,
    ):
        await first.register()
        await second.register()
        await submit(served, payload=Container(image="i", ports=(PortMapping(container_port=80),)))
        assert (await second.deployed()).spec.ports == (80,)


async def test_what_a_node_would_not_begin_goes_elsewhere(serve: Any) -> None:
    other = ID.replace("5", "6")
    async with (
        serve(nodes=[], listen=True) as served,
        a_node(served) as first,
        a_node(served, node_id=other) as second,
    ):
        await first.register()
        name = await submit(served)
        await first.deployed()
        await second.register()
        await first.tell(name, S.FAILED, message="cpu_millicores: 0 are free on this node")
        assert (await second.deployed()).id == wire_id(a_workload(1).id, 2)
        view = await work_of(served)
        assert (view.phase, view.restarts) == (Phase.PLACED, 0)


async def test_what_has_begun_and_failed_has_failed(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served, a_node(served) as node:
        await node.register()
        name = await submit(served)
        await node.deployed()
        await node.tell(name, S.PULLING, S.FAILED, message="no such image")
        assert (await served.cluster.finished(a_workload(1).id)).phase is Phase.FAILED


async def in_health(served: Any, node_id: str, health: Health) -> None:
    async def holds() -> bool:
        return (await node_of(served, node_id)).health is health

    await until(served, holds)


async def test_reading_of_a_node_is_shown(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served, a_node(served) as node:
        await node.register(gpu_count=1, total_vram_mb=81_920)
        reading = claw.GpuMetricsProto(
            index=0,
            utilization_percent=75,
            memory_used_mb=40_960,
            memory_total_mb=81_920,
            temperature_celsius=65,
            power_watts=300,
        )
        await node.say(claw.Metrics(node_id=node.node_id, gpu_metrics=(reading,), timestamp=AT))

        async def holds() -> bool:
            telemetry = (await node_of(served)).telemetry
            return telemetry is not None and telemetry.gpus[0].utilization == 0.75

        await until(served, holds)


# -- coming back -----------------------------------------------------------------------------------------------------


async def running(served: Any, node: ClawNode, **fields: Any) -> claw.WorkloadId:
    """Has a node run something."""
    name = await submit(served, **fields)
    await node.deployed()
    await node.tell(name, S.STARTING, S.RUNNING)
    await in_phase(served, Phase.RUNNING)
    return name


async def test_a_node_that_comes_back_goes_on_with_its_work(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served:
        async with a_node(served) as node:
            await node.register()
            name = await running(served, node)
        async with a_node(served) as node:
            await node.register()
            assert await node.hear() == claw.GetWorkloadStatus(workload_id=name)
            await node.tell(name, S.RUNNING, S.COMPLETED)
            view = await served.cluster.finished(a_workload(1).id)
            assert (view.phase, view.attempt, (await node_of(served)).epoch) == (Phase.SUCCEEDED, 1, 2)


async def test_what_has_ended_meanwhile_has_ended(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served:
        async with a_node(served) as node:
            await node.register()
            name = await running(served, node, restart=ON_LOSS)
        async with a_node(served) as node:
            await node.register()
            await node.hear()
            await node.tell(name, S.FAILED, message="exit code 3")
            view = await served.cluster.finished(a_workload(1).id)
            assert (view.phase, view.attempt, view.message) == (Phase.FAILED, 1, "exit code 3")


async def test_what_a_node_has_lost_begins_again_and_is_ended_there_first(serve: Any) -> None:
    async with serve(nodes=[], listen=True, claw=QUICK) as served:
        async with a_node(served) as node:
            await node.register()
            name = await running(served, node, restart=ON_LOSS)
        async with a_node(served) as node:
            await node.register()
            assert await node.hear() == claw.GetWorkloadStatus(workload_id=name)
            assert await node.hear() == claw.StopWorkload(workload_id=name, force=True)
            workload = await node.deployed()
            assert workload.id == wire_id(a_workload(1).id, 2)


async def test_the_newest_connection_of_a_node_is_its_own(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served, a_node(served) as older, a_node(served) as newer:
        await older.register()
        await newer.register()
        assert (await older.closed())[0] == 4000
        assert (await node_of(served)).epoch == 2
        await submit(served)
        await newer.deployed()


async def test_a_node_that_attaches_through_another_process_has_its_connection_there(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served, a_node(served) as node:
        await node.register()
        elsewhere = replace((await node_of(served)).registration, address="another")
        await served.cluster.ask(cmd.AttachNode(registration=elsewhere))
        assert (await node.closed())[0] == 4000


async def test_a_node_that_registers_again_keeps_its_work(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served, a_node(served) as node:
        await node.register()
        name = await running(served, node)
        await node.register(most=16)
        view = await node_of(served)
        assert (view.epoch, view.registration.max_workloads) == (2, 16)
        await node.tell(name, S.COMPLETED)
        assert (await served.cluster.finished(a_workload(1).id)).phase is Phase.SUCCEEDED


async def test_what_has_ended_before_a_node_registers_again_is_not_begun_again(serve: Any) -> None:
    numbers = range(1, 33)
    async with serve(nodes=[], listen=True) as served, a_node(served) as node:
        await node.register(most=len(numbers))
        names = [await submit(served, number, restart=ON_LOSS) for number in numbers]
        for name in names:
            await node.deployed()
            await node.tell(name, S.STARTING, S.RUNNING)
        await in_phase(served, Phase.RUNNING, numbers[-1])
        for name in names:
            await node.tell(name, S.COMPLETED)
        await node.say(registration(node_id=node.node_id, most=len(numbers)))
        for number in numbers:
            view = await served.cluster.finished(a_workload(number).id)
            assert (view.phase, view.attempt) == (Phase.SUCCEEDED, 1)


async def test_a_silent_connection_is_closed_once_its_lease_is_over(serve: Any) -> None:
    own = ClawSettings(heartbeat_s=1, unhealthy_after_s=1.1, lost_after_s=1.2)
    async with serve(nodes=[], listen=True, claw=own) as served, a_node(served) as node:
        await node.register()
        await in_health(served, ID, Health.LOST)
        assert (await node.closed())[0] in (1008, 4000)


@pytest.mark.parametrize("first", [None, "x" * (MAX_MESSAGE_BYTES + 1)], ids=["nothing", "too much"])
async def test_a_connection_that_does_not_register_is_closed(
    serve: Any, monkeypatch: pytest.MonkeyPatch, first: str | None
) -> None:
    monkeypatch.setattr(endpoint, "_REGISTER_S", 0.2)
    async with serve(nodes=[], listen=True) as served, a_node(served) as node:
        if first is not None:
            await node.socket.send(first)
        assert (await node.closed())[0] == 1008


async def test_an_address_that_registers_too_often_is_told_to_wait(serve: Any) -> None:
    async with serve(nodes=[], listen=True, claw=ClawSettings(registrations_per_minute=1)) as served:
        async with a_node(served) as node:
            await node.register()
        async with a_node(served) as node:
            await node.say(registration())
            assert await node.closed() == (1013, TOO_OFTEN)
        async with a_node(served, dialect=Dialect.ORIGINAL) as node:
            assert await node.register() == original.Error(code=1004, message=TOO_OFTEN)
            assert await node.closed() == (1013, TOO_OFTEN)


# -- what an operator wants ------------------------------------------------------------------------------------------


async def test_labels_configure_a_node(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served, a_node(served) as node:
        await node.register()
        labels = {LOG_LEVEL: "debug", MAX_WORKLOADS: "2"}
        await served.cluster.ask(cmd.LabelNode(node_id=NodeId(ID), labels=labels))
        config = claw.NodeConfig(log_level="debug", max_concurrent_workloads=2)
        assert await node.hear() == claw.UpdateConfig(config=config)

        async def holds() -> bool:
            return (await node_of(served)).registration.max_workloads == 2

        await until(served, holds)
        async with a_node(served) as again:
            assert (await again.register()).config == config  # type: ignore[union-attr]  # of what a node registers by


async def test_how_long_a_node_takes_to_answer_is_shown_also_where_it_has_no_gpu(serve: Any) -> None:
    async with serve(nodes=[], listen=True, claw=ClawSettings(ping_s=0.05)) as served, a_node(served) as node:
        await node.register()
        state = f"/api/v1/nodes/{ID}/scheduling"
        assert (await served.client.get(state)).json()["latencyMs"] is None
        assert isinstance(await node.hear(), claw.Ping)
        await node.beat()

        async def is_known() -> bool:
            telemetry = (await node_of(served)).telemetry
            return telemetry is not None and telemetry.latency_ms is not None

        await until(served, is_known)
        assert (await served.client.get(state)).json()["latencyMs"] > 0


async def test_what_a_node_says_last_is_heard_before_it_has_left(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served, a_node(served) as node:
        await node.register()
        name = await running(served, node)
        await served.cluster.ask(cmd.LabelNode(node_id=NodeId(ID), labels={SHUTDOWN: "graceful"}))
        assert isinstance(await node.hear(), claw.Shutdown)
        await node.tell(name, S.COMPLETED)
        await node.socket.close()
        assert (await served.cluster.finished(a_workload(1).id)).phase is Phase.SUCCEEDED
        await in_health(served, ID, Health.GONE)


async def test_what_runs_on_a_node_that_leaves_goes_on_there_where_it_is_cut_off(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served:
        async with a_node(served) as node:
            await node.register()
            name = await running(served, node, restart=ON_LOSS)
            await served.cluster.ask(cmd.LabelNode(node_id=NodeId(ID), labels={SHUTDOWN: "graceful"}))
            assert isinstance(await node.hear(), claw.Shutdown)
        async with a_node(served) as node:
            await node.register()
            assert await node.hear() == claw.GetWorkloadStatus(workload_id=name)
            await node.tell(name, S.RUNNING)
            assert isinstance(await node.hear(), claw.Shutdown)
            await node.tell(name, S.COMPLETED)
            view = await served.cluster.finished(a_workload(1).id)
            assert (view.phase, view.attempt) == (Phase.SUCCEEDED, 1)


async def test_a_node_that_is_told_to_leave_has_left_when_it_hangs_up(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served, a_node(served) as node:
        await node.register()
        await served.cluster.ask(cmd.LabelNode(node_id=NodeId(ID), labels={SHUTDOWN: "graceful"}))
        assert await node.hear() == claw.Shutdown(reason="an operator had it leave", graceful=True)
        await node.socket.close()
        await in_health(served, ID, Health.GONE)


async def test_a_node_that_is_told_to_leave_gets_no_new_work_until_it_registers_without_the_label(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served:
        label = served.cluster.ask
        async with a_node(served) as node:
            await node.register()
            await running(served, node)
            await label(cmd.LabelNode(node_id=NodeId(ID), labels={SHUTDOWN: "graceful"}))
            assert isinstance(await node.hear(), claw.Shutdown)
            await submit(served, 2)
            # The node is leaving all the same, whatever the label says from now on.
            await label(cmd.LabelNode(node_id=NodeId(ID), labels={SHUTDOWN: None, LOG_LEVEL: "debug"}))
            assert isinstance(await node.hear(), claw.UpdateConfig)
            why = await served.cluster.plane.query(ExplainWorkload(workload_id=a_workload(2).id))
            assert [refusal.filter for refusal in why.placement.refusals] == ["features"]
            assert not (await node_of(served)).cordoned  # that is the operator's
            await node.register()
            assert (await node.deployed()).id == wire_id(a_workload(2).id, 1)


# -- who may come in -------------------------------------------------------------------------------------------------

AUTH = {"mode": "keys", "keys": {"root": "right"}, "scopes": {"root": "admin"}}


async def test_a_key_is_wanted_where_everything_wants_one(serve: Any) -> None:
    async with serve(nodes=[], listen=True, auth=AUTH) as served:
        with pytest.raises(InvalidStatus) as refusal:
            await connect(f"ws://{served.url}/claw")
        assert refusal.value.response.status_code == 401
        root = {"Authorization": "Bearer right"}
        await served.client.post("/api/v1/accounts", json={"id": "ana"}, headers=root)
        body = {"account": "ana", "scope": "node", "nodeId": ID}
        made = await served.client.post("/api/v1/keys", json=body, headers=root)
        key = made.json()["key"]
        async with a_node(served, path=f"/claw?apiKey={key}") as node:
            assert isinstance(await node.register(), claw.Registered)
        async with a_node(served, path=f"/claw?apiKey={key}", node_id=ID.replace("5", "6")) as node:
            await node.say(claw_registration(node))
            assert (await node.closed())[0] == 1008


def claw_registration(node: ClawNode) -> claw.Register:
    return claw.Register(node_id=node.node_id, name="n", capabilities=claw.NodeCapabilities(), protocol_version=1)


async def test_the_id_of_another_protocols_node_is_not_taken(serve: Any) -> None:
    async with serve(listen=True) as served:
        theirs = served.cluster.nodes[0].id
        async with a_node(served, node_id=theirs) as node:
            await node.say(claw_registration(node))
            assert await node.closed() == (1008, "node_id: is the id of a node of another protocol")


async def test_a_process_serves_no_more_than_it_may(serve: Any) -> None:
    async with serve(nodes=[], listen=True, claw=ClawSettings(max_sockets=1)) as served, a_node(served) as node:
        await node.register()
        with pytest.raises(InvalidStatus) as refusal:
            await connect(f"ws://{served.url}/")
        assert refusal.value.response.status_code == 429


async def test_log_of_a_workload_is_cut_at_its_limit(serve: Any) -> None:
    async with serve(nodes=[], listen=True, claw=ClawSettings(log_bytes=1024)) as served, a_node(served) as node:
        await node.register()
        name = await running(served, node)
        for _ in range(3):
            await node.write(name, "x" * 499)
        await node.tell(name, S.COMPLETED)
        await served.cluster.finished(a_workload(1).id)
        log = await served.cluster.plane.blobs.get(log_key(a_workload(1).id))
        assert log.startswith(b"x" * 499 + b"\n" + b"x" * 499)
        assert log.endswith(b"[no more is kept of what it writes]\n")
        assert len(log) < 1100
