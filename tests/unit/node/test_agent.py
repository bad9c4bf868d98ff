"""The agent over a fake plane, a fake engine and a fake clock: fencing, batching, leases, inventory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from arcray.config import Settings
from arcray.core.commands import (
    Attached,
    AttachNode,
    Command,
    Heard,
    ReportEnd,
    ReportModels,
    ReportPhase,
    ReportTelemetry,
    Running,
)
from arcray.core.errors import (
    ArcrayError,
    ConflictError,
    IllegalTransitionError,
    NotFoundError,
    StaleReportError,
    UnavailableError,
)
from arcray.core.ids import ModelId, NodeId, WorkloadId
from arcray.core.orders import RunInference, StartWorkload, StopAttempt
from arcray.core.resources import Allocation, Demand
from arcray.core.workload import Container, Phase, PortMapping, Program, VolumeMount
from arcray.node.agent import NodeAgent
from arcray.testing.clock import FakeClock, SequenceIds

if TYPE_CHECKING:
    from arcray.testing.node_fakes import FakeEngine, FakeGpus, FakePlane

SANDBOX = {"sandbox": "none"}  # settings of programs


class Node:
    """An agent under test."""

    def __init__(self, agent: NodeAgent, plane: FakePlane, engine: FakeEngine, clock: FakeClock) -> None:
        self.agent, self.plane, self.engine, self.clock = agent, plane, engine, clock

    async def attach(self) -> None:
        await self.agent.start(await self.agent.registration(driver="local", facade="ray", address="here"))

    def ends(self) -> list[ReportEnd]:
        return [each for each in self.plane.commands if isinstance(each, ReportEnd)]

    async def until_end(self, workload_id: str = "w") -> ReportEnd:
        await self.plane.until(lambda commands: any(_ends(each, workload_id) for each in commands))
        return next(each for each in self.ends() if each.workload_id == workload_id)

    async def until_phase(self, phase: Phase, workload_id: str = "w") -> None:
        def told(commands: list[Command]) -> bool:
            return any(
                isinstance(each, ReportPhase) and (each.workload_id, each.phase) == (workload_id, phase)
                for each in commands
            )

        await self.plane.until(told)


def _ends(command: Command, workload_id: str) -> bool:
    return isinstance(command, ReportEnd) and command.workload_id == workload_id


def container(workload_id: str = "w", *, attempt: int = 1, memory_bytes: int = 0, **fields: Any) -> StartWorkload:
    return StartWorkload(
        workload_id=WorkloadId(workload_id),
        attempt=attempt,
        payload=Container(**({"image": "busybox:1"} | fields)),
        demand=Demand(memory_bytes=memory_bytes),
        allocation=Allocation(),
        owner="local",
    )


def inference(workload_id: str) -> RunInference:
    return RunInference(
        workload_id=WorkloadId(workload_id),
        attempt=1,
        model_id=ModelId("m"),
        input=b"1",
        context_window_tokens=1,
        timeout_s=5,
    )


def stop(workload_id: str = "w", attempt: int = 1) -> StopAttempt:
    return StopAttempt(workload_id=WorkloadId(workload_id), attempt=attempt, grace_s=3.0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def programs() -> dict[str, str]:
    """Settings of programs: in an image of the fake engine, because a sandbox is probed by running a real program."""
    return {"runner": "image", "image": "busybox:1"}


@pytest.fixture
def settings(tmp_path: Path, programs: dict[str, str]) -> Settings:
    return Settings.model_validate(
        {
            "state_dir": tmp_path,
            "node": {
                "max_orders": 10,
                "programs": programs,
                "containers": {"images": ["busybox:*"]},
                "labels": {"rack": "7"},
                "location": {"geohash": "9q9hvu"},
                "cpu_milli": 4000,
            },
        }
    )


@pytest.fixture
async def node(
    settings: Settings, plane: FakePlane, engine: FakeEngine, gpus: FakeGpus, clock: FakeClock
) -> AsyncIterator[Node]:
    agent = NodeAgent(
        node_id=NodeId("n"),
        plane=plane,
        settings=settings,
        clock=clock,
        ids=SequenceIds(),
        probe=gpus,
        engine=engine,
    )
    node = Node(agent, plane, engine, clock)
    yield node
    engine.release()
    stopping = asyncio.ensure_future(agent.stop())
    while not stopping.done():
        await clock.advance(1)
    await stopping


@pytest.mark.parametrize("programs", [SANDBOX])
async def test_registration_says_what_was_found(node: Node) -> None:
    registration = await node.agent.registration(driver="local", facade="ray", address="here")
    assert (registration.id, registration.driver, registration.address) == ("n", "local", "here")
    assert registration.capabilities.containers
    assert registration.capabilities.programs
    assert registration.capabilities.inference
    assert registration.capabilities.sandbox == "none"
    assert [gpu.index for gpu in registration.capacity.gpus] == [0, 1]
    assert registration.capacity.cpu_milli == 4000
    assert registration.labels == {"rack": "7"}
    assert registration.location.geozone == "CAISO"
    assert (registration.lease.unhealthy_after_s, registration.lease.lost_after_s) == (15.0, 150.0)


async def test_machine_without_an_engine_offers_no_containers(node: Node) -> None:
    node.engine.answers = False
    registration = await node.agent.registration(driver="d", facade="ray", address="")
    assert not registration.capabilities.containers
    await node.agent.start(registration)
    await node.agent.deliver(1, [container()])
    end = await node.until_end()
    assert (end.phase, end.refused) == (Phase.FAILED, True)


async def test_attaching_is_retried_until_the_scheduler_answers(node: Node) -> None:
    replies: list[Any] = [UnavailableError("starting"), UnavailableError("starting")]
    node.plane.answer = lambda command: replies.pop() if replies and isinstance(command, AttachNode) else None
    starting = asyncio.ensure_future(node.attach())
    await node.plane.until(lambda commands: len(commands) == 1)
    await node.clock.advance(1)
    await node.plane.until(lambda commands: len(commands) == 2)
    assert not starting.done()
    await node.clock.advance(1)
    await asyncio.wait_for(starting, 10)
    assert node.agent.epoch == 1


async def test_refused_attachment_is_the_callers_error(node: Node) -> None:
    node.plane.answer = lambda command: ConflictError("another") if isinstance(command, AttachNode) else None
    with pytest.raises(ConflictError):
        await node.attach()


async def test_container_is_told_from_start_to_end(node: Node) -> None:
    await node.attach()
    await node.agent.deliver(1, [container()])
    await node.until_phase(Phase.RUNNING)
    node.engine.finish("c1", exit_code=0)
    end = await node.until_end()
    assert (end.phase, end.epoch, end.attempt, end.result.exit_code) == (Phase.SUCCEEDED, 1, 1, 0)
    assert node.engine.removed == ["c1"]


async def test_a_container_that_ran_out_of_memory_says_so_though_that_is_known_late(node: Node) -> None:
    await node.attach()
    await node.agent.deliver(1, [container(memory_bytes=1), container("by itself", memory_bytes=1)])
    await node.until_phase(Phase.RUNNING)
    await node.until_phase(Phase.RUNNING, "by itself")
    node.engine.out_of_memory = {"c1"}
    for name in ("c1", "c2"):
        node.engine.finish(name, exit_code=9)
    await node.clock.advance(1)
    assert (await node.until_end()).message == "out of memory"
    assert (await node.until_end("by itself")).message == "exit code 9"


async def test_what_a_container_ended_with_is_told_though_it_cannot_be_looked_at_again(node: Node) -> None:
    await node.attach()
    await node.agent.deliver(1, [container(memory_bytes=1)])
    await node.until_phase(Phase.RUNNING)
    node.engine.finish("c1", exit_code=9)
    await node.clock.advance(0.1)
    await node.engine.remove("c1")
    await node.clock.advance(1)
    assert (await node.until_end()).message == "exit code 9"


async def test_order_that_comes_twice_is_executed_once(node: Node) -> None:
    await node.attach()
    await node.agent.deliver(1, [container(), container()])
    await node.agent.deliver(1, [container()])
    await node.until_phase(Phase.RUNNING)
    assert len(node.engine.created) == 1
    node.engine.finish("c1", exit_code=0)
    await node.until_end()
    await node.agent.deliver(1, [container()])
    await node.clock.advance(1)
    assert len(node.engine.created) == 1


async def test_an_id_that_comes_again_is_other_work(node: Node) -> None:
    await node.attach()
    for number, created_s in ((1, 5.0), (2, 6.0)):
        await node.agent.deliver(1, [replace(container(), created_s=created_s)] * 2)
        await node.plane.until(lambda _, number=number: len(node.engine.created) == number)  # type: ignore[misc]
        node.engine.finish(f"c{number}", exit_code=0)
        await node.plane.until(lambda _, number=number: len(node.ends()) == number)  # type: ignore[misc]
    await node.agent.deliver(1, [replace(stop(), created_s=7.0)])  # its start was lost
    await node.plane.until(lambda _: len(node.ends()) == 3)
    assert [end.phase for end in node.ends()] == [Phase.SUCCEEDED, Phase.SUCCEEDED, Phase.STOPPED]


async def test_an_adopted_container_is_told_from_other_work_of_its_id(node: Node) -> None:
    node.engine.leave("old", node_id="n", workload_id="w", attempt=1, created_s=5.5)
    await node.attach()
    await node.agent.deliver(1, [replace(container(), created_s=5.5)])
    await node.clock.advance(1)
    assert node.engine.created == []
    await node.agent.deliver(1, [replace(container(), created_s=6.5)])
    await node.clock.advance(10)
    await node.plane.until(lambda _: len(node.engine.created) == 1)
    assert "old" not in node.engine.running
    assert node.engine.created[0].labels["arcray.created_s"] == "6.5"


async def test_later_attempt_takes_the_place_of_an_earlier_one(node: Node) -> None:
    await node.attach()
    await node.agent.deliver(1, [container()])
    await node.until_phase(Phase.RUNNING)
    await node.agent.deliver(1, [container(attempt=2)])
    await node.plane.until(lambda commands: any(isinstance(e, ReportPhase) and e.attempt == 2 for e in commands))
    assert node.engine.stopped == [("c1", 0.0)]
    await node.agent.deliver(1, [container(attempt=1)])
    assert len(node.engine.created) == 2
    assert node.ends() == []


@pytest.mark.parametrize(("epoch", "error"), [(0, StaleReportError), (2, UnavailableError)])
async def test_orders_of_an_earlier_epoch_are_void_and_of_a_later_one_come_again(
    node: Node, epoch: int, error: type[ArcrayError]
) -> None:
    await node.attach()
    with pytest.raises(error):
        await node.agent.deliver(epoch, [container()])
    assert node.engine.created == []


async def test_orders_that_outrun_the_attachments_answer_wait_for_it(node: Node) -> None:
    node.plane.gate = asyncio.Event()
    starting = asyncio.ensure_future(node.attach())
    delivering = asyncio.ensure_future(node.agent.deliver(1, [container()]))
    await node.clock.advance(1)
    assert not delivering.done()
    node.plane.gate.set()
    await asyncio.wait_for(asyncio.gather(starting, delivering), 10)
    await node.until_phase(Phase.RUNNING)


async def test_machine_with_too_much_to_do_takes_no_orders(node: Node) -> None:
    await node.attach()
    await node.agent.deliver(1, [container(f"w{i}") for i in range(10)])
    with pytest.raises(UnavailableError, match="has 10 orders to work off"):
        await node.agent.deliver(1, [container("one-more")])


async def test_stop_is_handed_on_with_its_grace(node: Node) -> None:
    await node.attach()
    await node.agent.deliver(1, [container()])
    await node.until_phase(Phase.RUNNING)
    await node.agent.deliver(1, [stop(), stop()])
    end = await node.until_end()
    assert end.phase is Phase.STOPPED
    assert node.engine.stopped == [("c1", 3.0)]


async def test_stop_of_what_never_started_is_answered(node: Node) -> None:
    await node.attach()
    await node.agent.deliver(1, [stop()])
    assert (await node.until_end()).phase is Phase.STOPPED
    await node.agent.deliver(1, [container()])
    await node.clock.advance(1)
    assert node.engine.created == []


async def test_image_outside_of_the_list_is_refused(node: Node) -> None:
    await node.attach()
    await node.agent.deliver(1, [container(image="evil:1")])
    end = await node.until_end()
    assert end.message == "payload.image: node.containers.images does not cover evil:1"


async def test_volume_without_an_allow_list_is_refused(node: Node, tmp_path: Path) -> None:
    await node.attach()
    await node.agent.deliver(1, [container(volumes=(VolumeMount(source=str(tmp_path), target="/d"),))])
    end = await node.until_end()
    assert end.message == "payload.volumes.0.source: is not below node.containers.mounts"


async def test_absent_image_is_pulled_and_told(node: Node) -> None:
    await node.attach()
    node.engine.images.clear()
    await node.agent.deliver(1, [container()])
    await node.until_phase(Phase.RUNNING)
    phases = [each.phase for each in node.plane.commands if isinstance(each, ReportPhase)]
    assert phases == [Phase.PULLING, Phase.STARTING, Phase.RUNNING]


async def test_stop_while_an_image_is_pulled_is_a_stop(node: Node) -> None:
    await node.attach()
    node.engine.images.clear()
    node.engine.slow_pull = asyncio.Event()
    await node.agent.deliver(1, [container()])
    await node.until_phase(Phase.PULLING)
    await node.agent.deliver(1, [stop()])
    end = await node.until_end()
    assert (end.phase, end.message) == (Phase.STOPPED, "stopped before it started")
    assert node.engine.created == []


async def test_pull_that_takes_longer_than_its_work_may_is_running_too_long(node: Node) -> None:
    await node.attach()
    node.engine.images.clear()
    node.engine.slow_pull = asyncio.Event()
    await node.agent.deliver(1, [replace(container(), max_duration_s=3.0)])
    await node.until_phase(Phase.PULLING)
    await node.clock.advance(3)
    end = await node.until_end()
    assert (end.phase, end.message) == (Phase.FAILED, "ran longer than 3 s")
    assert node.engine.created == []


async def test_engine_that_goes_away_and_comes_back_loses_no_container(node: Node) -> None:
    await node.attach()
    await node.agent.deliver(1, [container()])
    await node.until_phase(Phase.RUNNING)
    node.engine.away = True
    node.engine.break_logs("c1")
    await node.clock.advance(5)
    node.engine.away = False
    node.engine.finish("c1", exit_code=5)
    await node.clock.advance(5)
    assert (await node.until_end()).result.exit_code == 5


async def test_inference_without_a_model_is_refused(node: Node) -> None:
    await node.attach()
    await node.agent.deliver(1, [inference("i")])
    end = await node.until_end("i")
    assert (end.phase, end.refused) == (Phase.FAILED, True)


async def test_reports_go_at_once_when_idle_and_together_when_a_call_is_in_flight(node: Node) -> None:
    await node.attach()
    await node.clock.advance(0)
    calls = len(node.plane.calls)
    node.plane.gate = asyncio.Event()
    await node.agent.deliver(1, [inference("first")])
    await node.clock.advance(0)
    await node.agent.deliver(1, [inference(f"i{i}") for i in range(5)])
    node.plane.gate.set()
    await node.until_end("i4")
    first, *rest = [sum(isinstance(e, ReportEnd) for e in call) for call in node.plane.calls[calls:]]
    assert (first, rest) == (1, [5])


async def test_reports_are_sent_again_until_they_are_acknowledged(node: Node) -> None:
    await node.attach()
    failures: list[ArcrayError] = [UnavailableError("away"), UnavailableError("away")]
    node.plane.answer = lambda command: failures.pop() if failures and isinstance(command, ReportEnd) else None
    await node.agent.deliver(1, [inference("i")])
    await node.plane.until(lambda commands: len([e for e in commands if isinstance(e, ReportEnd)]) == 1)
    await node.clock.advance(1)
    await node.plane.until(lambda commands: len([e for e in commands if isinstance(e, ReportEnd)]) == 3)
    await node.clock.advance(60)
    assert len(node.ends()) == 3


@pytest.mark.parametrize(
    "error", [StaleReportError(field="attempt"), NotFoundError(field="workloadId"), ConflictError()]
)
async def test_work_whose_report_is_refused_is_stopped_and_told_no_more(node: Node, error: ArcrayError) -> None:
    await node.attach()
    node.plane.answer = lambda command: error if isinstance(command, ReportPhase) else None
    await node.agent.deliver(1, [container()])
    await node.plane.until(lambda commands: any(isinstance(each, ReportPhase) for each in commands))
    await node.clock.advance(1)
    assert node.ends() == []
    assert node.engine.running == set()


async def test_phase_that_is_a_word_too_late_stops_nothing(node: Node) -> None:
    await node.attach()
    node.plane.answer = lambda command: IllegalTransitionError() if isinstance(command, ReportPhase) else None
    await node.agent.deliver(1, [container()])
    await node.until_phase(Phase.RUNNING)
    await node.clock.advance(1)
    assert node.engine.running == {"c1"}


@pytest.mark.parametrize("error", [StaleReportError(field="epoch"), NotFoundError(field="nodeId")])
async def test_lost_lease_attaches_again_with_all_that_runs(node: Node, error: ArcrayError) -> None:
    await node.attach()
    await node.agent.deliver(1, [container("wanted"), container("unwanted")])
    await node.until_phase(Phase.RUNNING, "wanted")
    await node.until_phase(Phase.RUNNING, "unwanted")
    node.plane.answer = _refuse_epoch(1, error, stop=(Running(workload_id=WorkloadId("unwanted"), attempt=1),))
    await node.clock.advance(5)  # a heartbeat
    await node.plane.until(lambda commands: sum(isinstance(each, AttachNode) for each in commands) == 2)
    await node.clock.advance(1)
    attach = [each for each in node.plane.commands if isinstance(each, AttachNode)][-1]
    assert {work.workload_id for work in attach.inventory} == {"wanted", "unwanted"}
    assert node.agent.epoch == 2
    assert node.engine.running == {"c1"}
    node.engine.finish("c1", exit_code=0)
    assert (await node.until_end("wanted")).epoch == 2
    assert [end.workload_id for end in node.ends()] == ["wanted"]


async def test_work_begins_after_what_the_cluster_gave_up_has_let_go_of_the_machine(node: Node) -> None:
    await node.attach()
    await node.agent.deliver(1, [container("unwanted")])
    await node.until_phase(Phase.RUNNING, "unwanted")
    node.engine.slow_stop = asyncio.Event()
    unwanted = Running(workload_id=WorkloadId("unwanted"), attempt=1)
    node.plane.answer = _refuse_epoch(1, StaleReportError(field="epoch"), stop=(unwanted,))
    await node.clock.advance(5)  # a heartbeat
    await node.plane.until(lambda commands: sum(isinstance(each, AttachNode) for each in commands) == 2)
    await node.agent.deliver(2, [container("next"), container("never"), stop("never")])
    await node.clock.advance(1)
    assert node.engine.running == {"c1"}
    node.engine.slow_stop.set()
    await node.until_phase(Phase.RUNNING, "next")
    assert node.engine.running == {"c2"}
    assert (await node.until_end("never")).phase is Phase.STOPPED


async def test_work_begins_after_what_was_stopped_without_grace_has_ended(node: Node) -> None:
    await node.attach()
    await node.agent.deliver(1, [container("old")])
    await node.until_phase(Phase.RUNNING, "old")
    node.engine.slow_stop = asyncio.Event()
    kill = StopAttempt(workload_id=WorkloadId("old"), attempt=1, grace_s=0.0)
    await node.agent.deliver(1, [kill, container("next")])
    await node.clock.advance(1)
    assert node.engine.running == {"c1"}
    node.engine.slow_stop.set()
    await node.until_phase(Phase.RUNNING, "next")
    assert node.engine.running == {"c2"}


async def test_an_agent_whose_start_is_cancelled_leaves_no_task_behind(node: Node) -> None:
    node.plane.answer = lambda _: UnavailableError()
    before = asyncio.all_tasks()
    starting = asyncio.ensure_future(node.attach())
    await node.plane.until(lambda commands: len(commands) == 1)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await node.agent.stop()
    assert asyncio.all_tasks() == before


async def test_end_that_was_not_heard_is_told_under_the_next_epoch(node: Node) -> None:
    await node.attach()
    await node.agent.deliver(1, [container()])
    await node.until_phase(Phase.RUNNING)
    node.plane.answer = _refuse_epoch(1, StaleReportError(field="epoch"))
    node.engine.finish("c1", exit_code=0)
    await node.plane.until(lambda commands: any(isinstance(each, ReportEnd) and each.epoch == 2 for each in commands))
    attach = [each for each in node.plane.commands if isinstance(each, AttachNode)][-1]
    assert attach.inventory == (Running(workload_id=WorkloadId("w"), attempt=1),)
    accepted = [end for end in node.ends() if end.epoch == 2]
    assert [end.phase for end in accepted] == [Phase.SUCCEEDED]


async def test_heartbeat_carries_a_reading_and_its_answer_may_ask_for_models(node: Node) -> None:
    await node.attach()
    await node.plane.until(lambda commands: any(isinstance(each, ReportTelemetry) for each in commands))
    reading = next(each for each in node.plane.commands if isinstance(each, ReportTelemetry)).telemetry
    assert reading is not None
    assert [gpu.utilization for gpu in reading.gpus] == [0.5, 0.5]
    assert reading.memory_used_bytes > 0
    before = sum(isinstance(each, ReportModels) for each in node.plane.commands)
    node.plane.answer = lambda command: Heard(report_models=True) if isinstance(command, ReportTelemetry) else None
    await node.clock.advance(5)
    await node.plane.until(lambda commands: sum(isinstance(each, ReportModels) for each in commands) > before)


async def test_a_scheduler_that_is_back_is_told_the_models_at_once(node: Node) -> None:
    node.agent.greet()  # a line may stand before the node is attached, which then tells them anyhow
    await node.attach()
    await node.plane.until(lambda commands: any(isinstance(each, ReportModels) for each in commands))
    node.plane.calls.clear()
    node.agent.greet()
    await node.plane.until(lambda commands: any(isinstance(each, ReportModels) for each in commands))


async def test_work_found_from_an_earlier_agent_is_in_the_inventory(node: Node) -> None:
    node.engine.leave("c9", node_id="n", workload_id="old", attempt=4)
    node.engine.leave("c8", node_id="another", workload_id="foreign", attempt=1)
    await node.attach()
    attach = next(each for each in node.plane.commands if isinstance(each, AttachNode))
    assert attach.inventory == (Running(workload_id=WorkloadId("old"), attempt=4),)
    node.engine.finish("c9", exit_code=0)
    end = await node.until_end("old")
    assert (end.attempt, end.phase) == (4, Phase.SUCCEEDED)


def attachments(node: Node) -> list[AttachNode]:
    return [each for each in node.plane.commands if isinstance(each, AttachNode)]


async def until_attached(node: Node, times: int) -> list[AttachNode]:
    await node.plane.until(lambda _: len(attachments(node)) >= times)
    await node.clock.advance(0)  # the agent reads the answer
    return attachments(node)


async def test_engine_that_is_started_later_is_offered_and_used(node: Node) -> None:
    node.engine.answers = False
    await node.attach()
    await node.clock.advance(30)
    assert len(attachments(node)) == 1
    node.engine.answers = True
    await node.clock.advance(5)
    assert [each.registration.capabilities.containers for each in await until_attached(node, 2)] == [False, True]
    await node.agent.deliver(2, [container()])
    await node.until_phase(Phase.RUNNING)


async def test_engine_that_stays_away_is_no_longer_offered_and_one_that_misses_a_look_is(node: Node) -> None:
    await node.attach()
    await node.agent.deliver(1, [container()])
    await node.until_phase(Phase.RUNNING)
    node.engine.answers = False
    await node.clock.advance(10)
    node.engine.answers = True
    await node.clock.advance(10)
    assert len(attachments(node)) == 1
    node.engine.answers = False
    await node.clock.advance(15)
    assert [each.registration.capabilities.containers for each in await until_attached(node, 2)] == [True, False]
    assert attachments(node)[-1].inventory == (Running(workload_id=WorkloadId("w"), attempt=1),)
    await node.agent.deliver(2, [container("refused")])
    assert (await node.until_end("refused")).refused
    node.engine.answers = True
    await node.clock.advance(5)
    await until_attached(node, 3)
    assert (len(node.engine.created), node.engine.stopped) == (1, [])  # what it waits for is not adopted again
    node.engine.finish("c1", exit_code=0)
    assert (await node.until_end()).epoch == 3


async def test_containers_of_an_earlier_agent_are_taken_up_once_the_engine_is_back(node: Node) -> None:
    node.engine.answers = False
    for name in ("wanted", "unwanted"):
        node.engine.leave(name, node_id="n", workload_id=name, attempt=1)
    await node.attach()
    assert attachments(node)[0].inventory == ()
    node.plane.answer = _refuse_epoch(
        1, StaleReportError(field="epoch"), stop=(Running(workload_id=WorkloadId("unwanted"), attempt=1),)
    )
    node.engine.answers = True
    await node.clock.advance(5)
    assert {work.workload_id for work in (await until_attached(node, 2))[-1].inventory} == {"wanted", "unwanted"}
    await node.clock.advance(5)
    assert node.engine.running == {"wanted"}
    node.engine.finish("wanted", exit_code=0)
    assert (await node.until_end("wanted")).phase is Phase.SUCCEEDED


async def test_container_of_an_attempt_that_has_a_successor_is_ended_without_a_word(node: Node) -> None:
    await node.attach()
    await node.agent.deliver(1, [container(attempt=2)])
    await node.until_phase(Phase.RUNNING)
    node.engine.answers = False
    await node.clock.advance(15)
    await until_attached(node, 2)
    node.engine.leave("old", node_id="n", workload_id="w", attempt=1)
    node.engine.answers = True
    await node.clock.advance(5)
    assert (await until_attached(node, 3))[-1].inventory == (Running(workload_id=WorkloadId("w"), attempt=2),)
    await node.clock.advance(5)
    assert (node.engine.running, node.ends()) == ({"c1"}, [])


@pytest.mark.parametrize("programs", [SANDBOX])
async def test_stopping_leaves_containers_and_ends_programs_without_a_word(node: Node) -> None:
    await node.attach()
    node.plane.blobs.data["code"] = b"print('ready')\nimport time\ntime.sleep(60)"
    program = StartWorkload(
        workload_id=WorkloadId("p"),
        attempt=1,
        payload=Program(blob="code"),
        demand=Demand(),
        allocation=Allocation(),
        owner="local",
    )
    await node.agent.deliver(1, [container(), program])
    await node.until_phase(Phase.RUNNING)
    await node.until_phase(Phase.RUNNING, "p")
    stopping = asyncio.ensure_future(node.agent.stop())
    while not stopping.done():
        await node.clock.advance(0.1)
    assert stopping.result() == 1
    assert node.engine.running == {"c1"}
    assert node.engine.stopped == []
    assert node.ends() == []


async def test_container_that_was_asked_to_end_has_ended_and_was_told_before_the_agent_goes(node: Node) -> None:
    await node.attach()
    await node.agent.deliver(1, [container()])
    await node.until_phase(Phase.RUNNING)
    node.engine.slow_stop = asyncio.Event()
    await node.agent.deliver(1, [stop()])
    await node.clock.advance(1)
    stopping = asyncio.ensure_future(node.agent.stop())
    await node.clock.advance(1)
    assert not stopping.done()
    node.engine.slow_stop.set()
    assert await stopping == 0
    assert [(end.workload_id, end.phase) for end in node.ends()] == [("w", Phase.STOPPED)]
    assert node.engine.removed == ["c1"]


def _refuse_epoch(epoch: int, error: ArcrayError, *, stop: tuple[Running, ...] = ()) -> Callable[[Command], Any]:
    def answer(command: Command) -> Any:
        if isinstance(command, AttachNode):
            return Attached(node_id=NodeId("n"), epoch=epoch + 1, stop=stop)
        return error if getattr(command, "epoch", None) == epoch else None

    return answer


async def test_container_whose_attempt_breaks_off_does_not_run_on(node: Node) -> None:
    await node.attach()
    node.engine.away = True  # it starts, and cannot be asked for its ports
    await node.agent.deliver(1, [container(ports=(PortMapping(container_port=80),))])
    end = await node.until_end()
    assert end.phase is Phase.FAILED
    assert node.engine.removed == ["c1"]


async def test_full_disk_for_the_log_position_fails_no_container(node: Node, tmp_path: Path) -> None:
    await node.attach()
    # Where the position would be written stands something else.
    for containers in await asyncio.to_thread(lambda: list(tmp_path.rglob("containers"))):
        (containers / "w-1.draft").mkdir()
    await node.agent.deliver(1, [container()])
    await node.until_phase(Phase.RUNNING)
    node.engine.finish("c1", exit_code=0)
    await node.clock.advance(5)
    assert (await node.until_end()).phase is Phase.SUCCEEDED
    assert node.engine.removed == ["c1"]
