"""What a device of the Resource Pool says and does, frame by frame, without a socket."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass, replace
from typing import Any

import pytest

from arcray.agents.device_session import Action, Begin, DeviceSession
from arcray.core.commands import ReportEnd, Running
from arcray.core.errors import UnavailableError
from arcray.core.ids import WorkloadId
from arcray.core.node import DriverCapabilities, GpuTelemetry, NodeRegistration, Telemetry
from arcray.core.orders import StopAttempt
from arcray.core.quantity import MIB
from arcray.core.workload import Container, Phase, Program, Result
from arcray.facades.pool.codec import read
from arcray.facades.pool.messages import ClientMessage, Heartbeat, Register, ResourceUpdate, TaskComplete
from arcray.facades.pool.programs import Programs
from arcray.pool_settings import DeviceSettings, PoolProgram
from arcray.testing.builders import T0, a_capacity, a_node
from arcray.testing.clock import FakeClock, SequenceIds

DEVICE = "550e8400-e29b-41d4-a716-446655440000"
T1, T2 = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2))
LISTED = '{"type":"devices","devices":[]}'
CODE = {"program": {"source": "print(1)", "entryPoint": "", "args": ["a"], "env": {"A": "é"}}}
PROGRAMS = {"shout": PoolProgram(image="busybox", args=("echo",))}


@dataclass
class Rig:
    """A session, and its server's side of the wire."""

    session: DeviceSession
    clock: FakeClock

    def hear(self) -> list[ClientMessage]:
        """What the session has to say now, as the server reads it."""
        said: list[ClientMessage] = []
        while frames := self.session.take():
            for frame in frames:
                message = read(frame)
                assert message is not None
                said.append(message)
        return said

    def ends(self) -> list[TaskComplete]:
        return [each for each in self.hear() if isinstance(each, TaskComplete)]

    def say(self, kind: str, **values: Any) -> list[Action]:
        return self.session.received(json.dumps({"type": kind, **values}))

    def assign(self, task_id: str = T1, data: Any = None, **requirements: Any) -> list[Action]:
        task = {
            "id": task_id,
            "submitterId": "ana",
            "requirements": requirements,
            "data": {"command": "it", "input": "in", **(CODE if data is None else data)},
        }
        return self.say("task_assign", taskId=task_id, task=task)

    def begin(self, task_id: str = T1, data: Any = None, **requirements: Any) -> Begin:
        (action,) = self.assign(task_id, data, **requirements)
        assert isinstance(action, Begin)
        return action

    def end(self, begin: Begin, phase: Phase = Phase.SUCCEEDED, output: str = "out", **fields: Any) -> None:
        report = ReportEnd(
            node_id=a_node().id,
            epoch=1,
            workload_id=begin.order.workload_id,
            attempt=begin.order.attempt,
            phase=phase,
            **fields,
        )
        task = self.session.task(report)
        assert task is not None
        self.session.ended(task, report, output, {})

    async def after(self, seconds: float) -> list[ClientMessage]:
        await self.clock.advance(seconds)
        return self.hear()


def machine(**fields: Any) -> NodeRegistration:
    """Four cores, 8 GiB, one GPU."""
    capacity = a_capacity(cores=4, memory_gib=8, gpus=1)
    can = DriverCapabilities(programs=True, containers=True)
    return replace(a_node(), capacity=capacity, capabilities=can, **fields)


def a_session(clock: FakeClock, max_tasks: int = 3) -> DeviceSession:
    return DeviceSession(
        clock,
        SequenceIds(),
        DeviceSettings(heartbeat_s=5.0, update_s=2.0),
        device_id=DEVICE,
        name="machine-7",
        platform="linux",
        max_tasks=max_tasks,
        programs=Programs(PROGRAMS),
    )


def opened(*, max_tasks: int = 3, registered: bool = True, registration: NodeRegistration | None = None) -> Rig:
    clock = FakeClock()
    session = a_session(clock, max_tasks)
    session.attach(registration or machine(), ())
    session.opened()
    if registered:
        session.received(LISTED)
    return Rig(session, clock)


# -- registration and signs of life -----------------------------------------------------------------------------------


def test_a_machine_says_what_it_is_and_then_what_it_has() -> None:
    rig = opened(registered=False)
    assert read(rig.session.opened()) == Register(
        device_id=DEVICE,
        device_name="machine-7",
        platform="linux",
        capabilities=frozenset({"task", "container"}),
        max_tasks=3,
    )
    assert (rig.hear(), rig.session.due_s(), rig.session.registered) == ([], None, False)
    rig.session.received(LISTED)
    assert rig.session.registered
    (update,) = rig.hear()
    assert isinstance(update, ResourceUpdate)
    has = update.changes
    assert (has["cpu_cores"], has["cpu_available"], has["memory_total"], has["has_gpu"]) == (4, 100, 8192, True)


@pytest.mark.parametrize(
    ("can", "told"),
    [
        (DriverCapabilities(programs=True), {"task"}),
        (DriverCapabilities(containers=True), {"task", "container"}),
        (DriverCapabilities(), set()),
    ],
)
def test_a_machine_offers_what_it_can(can: DriverCapabilities, told: set[str]) -> None:
    rig = opened(registration=replace(machine(), capabilities=can))
    register = read(rig.session.opened())
    assert isinstance(register, Register)
    assert register.capabilities == told


async def test_a_machine_is_heard_every_heartbeat_and_whenever_it_has_changed() -> None:
    rig = opened()
    rig.hear()
    assert rig.session.due_s() == 5.0
    assert await rig.after(4.9) == []
    assert await rig.after(0.1) == [Heartbeat(device_id=DEVICE)]
    rig.session.reading(
        Telemetry(at=T0, cpu_utilization=0.25, gpus=(GpuTelemetry(index=0, utilization=0.5, memory_used_bytes=0),))
    )
    (update,) = rig.hear()
    assert isinstance(update, ResourceUpdate)
    assert (update.changes["cpu_usage"], update.changes["gpu_usage"]) == (25, 50)
    rig.session.reading(Telemetry(at=T0, cpu_utilization=0.5))
    assert (rig.session.due_s(), rig.hear()) == (2.0, [])
    assert [type(each) for each in await rig.after(2.0)] == [ResourceUpdate]
    assert rig.session.due_s() == 5.0


def test_what_tasks_hold_is_told_as_taken() -> None:
    rig = opened()
    rig.begin(cpu=200, memory=4096)
    (update,) = rig.hear()
    assert isinstance(update, ResourceUpdate)
    assert (update.changes["cpu_available"], update.changes["memory_available"]) == (50, 4096)


# -- tasks ------------------------------------------------------------------------------------------------------------


def test_a_program_becomes_an_order_and_its_end_is_told_once() -> None:
    rig = opened()
    begin = rig.begin(cpu=150, memory=64, gpu=True)
    order = begin.order
    assert isinstance(order.payload, Program)
    assert begin.blobs == {order.payload.blob: b"print(1)", order.payload.stdin_blob: b"in"}
    assert (order.payload.args, order.payload.env, order.payload.archive) == (("a",), (("A", "é"),), False)
    assert (order.workload_id, order.owner, order.name) == (T1, "ana", "it")
    assert (order.demand.cpu_milli, order.demand.memory_bytes, order.demand.gpus) == (1500, 64 * MIB, 1)
    assert [share.index for share in order.allocation.gpus] == [0]
    rig.end(begin, result=Result(exit_code=0))
    (done,) = rig.ends()
    assert done == TaskComplete(device_id=DEVICE, task_id=T1, success=True, output="out", exit_code=0)
    assert rig.session.running == 0


def test_an_archive_and_a_stdin_that_is_no_text_are_decoded() -> None:
    sent = {"archive": b64encode(b"PK\xff").decode(), "entryPoint": "a.py", "stdin": b64encode(b"\xff").decode()}
    begin = opened().begin(data={"program": sent, "input": ""})
    assert isinstance(begin.order.payload, Program)
    assert (begin.order.payload.archive, begin.order.payload.entry_point) == (True, "a.py")
    assert list(begin.blobs.values()) == [b"PK\xff", b"\xff"]


def test_a_container_becomes_an_order_without_limits_that_nobody_asked_for() -> None:
    told = {"image": "busybox", "command": ["sh"], "args": ["-c", "ls"], "env": {"A": "b"}}
    begin = opened().begin(data={"container": told})
    assert begin.order.payload == Container(image="busybox", command=("sh",), args=("-c", "ls"), env=(("A", "b"),))
    assert (begin.blobs, begin.order.demand.cpu_milli, begin.order.demand.memory_bytes) == ({}, 0, 0)


def test_a_command_without_code_is_a_program_of_this_machine() -> None:
    rig = opened()
    begin = rig.begin(data={"command": "shout", "input": {"a": 1}})
    assert begin.order.payload == Container(image="busybox", args=("echo", '{"a":1}'))
    assert rig.assign(T2, {"command": "rm"}) == []
    (done,) = rig.ends()
    assert (done.task_id, done.success, done.error, done.refused) == (T2, False, "command: Unknown command: rm", False)


def test_a_failure_says_why_and_what_was_written() -> None:
    rig = opened()
    rig.end(rig.begin(), Phase.FAILED, "bad\n", message="exit code 3", result=Result(exit_code=3))
    (done,) = rig.ends()
    assert (done.success, done.error, done.output, done.exit_code) == (False, "exit code 3", "bad\n", 3)


def test_an_output_that_no_frame_takes_is_cut_and_says_so() -> None:
    rig = opened()
    rig.end(rig.begin(), output="\1" * (4 << 20))
    (frame,) = (frame for frame in rig.session.take() if "task_complete" in frame)
    assert len(frame) < 8 << 20
    done = read(frame)
    assert isinstance(done, TaskComplete)
    assert done.output.endswith("\n[cut: the output has 4194304 characters]\n")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"program": {}}, "task.data.program.source: is required"),
        ({"program": 1}, "task.data.program: must be an object"),
        ({"program": {"archive": "é"}}, "task.data.program.archive: is not Base64"),
        ({"program": {"source": "", "env": {"A=": "b"}}}, "task.data.program.env.A=: is no name of a variable"),
        ({"program": {"source": "", "env": {"A": 1}}}, "task.data.program.env.A: must be a string"),
        ({"program": {"source": "", "env": {"\ud800": ""}}}, "task.data.program.env: holds half of a surrogate pair"),
        ({"program": {"source": "", "env": {"\ud800=": ""}}}, "task.data.program.env: holds half of a surrogate pair"),
        ({"program": {"source": "", "args": [1]}}, "task.data.program.args.0: must be a string"),
        ({"container": {"image": ""}}, "task.data.container.image: must have 1"),
        ({"input": "\ud800", **CODE}, "task.data.input: holds half of a surrogate pair"),
    ],
)
def test_a_task_that_cannot_be_read_has_failed_by_name(data: Any, reason: str) -> None:
    rig = opened()
    assert rig.assign(data=data) == []
    (done,) = rig.ends()
    assert done.error.startswith(reason)
    assert (done.success, done.refused) == (False, False)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("1e999", "cannot be written as JSON"),
        ('{"a":"\\ud800"}', "cannot be written as JSON"),
        ('"\\ud800"', "holds half of a surrogate pair"),
    ],
)
def test_an_input_that_is_no_text_has_its_task_fail_and_harms_no_other(given: str, reason: str) -> None:
    rig = opened()
    data = f'{{"command":"shout","input":{given}}}'
    assert rig.session.received(f'{{"type":"task_assign","taskId":"{T1}","task":{{"data":{data}}}}}') == []
    (done,) = rig.ends()
    assert (done.task_id, done.error) == (T1, f"task.data.input: {reason}")
    rig.begin(T2)


@pytest.mark.parametrize(
    "frame",
    ["", "[]", b"\xff", '{"type":"task_assign"}', '{"type":"task_cancel","taskId":1}', '{"type":"device_joined"}'],
)
def test_what_is_of_no_task_changes_nothing(frame: str | bytes) -> None:
    rig = opened()
    assert rig.session.received(frame) == []
    assert rig.ends() == []


@pytest.mark.parametrize(
    ("requirements", "reason"),
    [
        ({"cpu": 301}, "cpu: 300 are free here"),
        ({"memory": 4097}, "memory: 4096 MB are free here"),
        ({"gpu": True}, "gpu: no GPU is free here"),
    ],
)
def test_what_does_not_fit_is_refused_so_that_it_goes_elsewhere(requirements: Any, reason: str) -> None:
    rig = opened()
    rig.begin(cpu=100, memory=4096, gpu=True)
    assert rig.assign(T2, **requirements) == []
    (done,) = rig.ends()
    assert (done.error, done.refused) == (reason, True)


def test_no_more_tasks_run_than_may() -> None:
    rig = opened(max_tasks=1)
    first = rig.begin()
    assert rig.assign(T2) == []
    assert [(done.task_id, done.refused) for done in rig.ends()] == [(T2, True)]
    rig.end(first)
    rig.begin("another")


def test_a_task_that_is_asked_to_end_gives_its_place_away_and_is_told() -> None:
    rig = opened(max_tasks=1)
    begin = rig.begin(gpu=True)
    (stop,) = rig.say("task_cancel", taskId=T1)
    assert stop == StopAttempt(workload_id=begin.order.workload_id, attempt=begin.order.attempt, grace_s=5.0)
    assert rig.say("task_cancel", taskId="unknown") == []
    rig.begin(T2, gpu=True)
    rig.end(begin, Phase.STOPPED, message="stopped on request")
    assert [(done.task_id, done.error) for done in rig.ends()] == [(T1, "stopped on request")]


def test_a_task_that_comes_twice_is_begun_once() -> None:
    rig = opened()
    begin = rig.begin()
    assert rig.assign() == []
    rig.end(begin)
    assert rig.assign() == []
    assert len(rig.ends()) == 1


def test_an_order_that_the_node_does_not_take_is_refused() -> None:
    rig = opened()
    rig.session.undelivered(rig.begin().order, UnavailableError("starting"))
    assert [(done.error, done.refused) for done in rig.ends()] == [("starting", True)]
    assert rig.session.running == 0


def test_a_server_that_asks_faster_than_it_listens_is_read_no_more() -> None:
    rig = opened()
    for number in range(1_000):
        assert not rig.session.congested
        rig.assign(f"task-{number}", {"command": "rm"})
    assert rig.session.congested
    assert len(rig.ends()) == 1_000
    assert not rig.session.congested


# -- connections that end ---------------------------------------------------------------------------------------------


def test_a_connection_that_ends_takes_its_tasks_along() -> None:
    rig = opened()
    begin = rig.begin()
    assert rig.session.abandoned() == []
    rig.session.closed()
    (stop,) = rig.session.abandoned()
    assert (stop.workload_id, stop.attempt) == (begin.order.workload_id, begin.order.attempt)
    rig.end(begin, Phase.STOPPED)
    rig.session.opened()
    rig.session.received(LISTED)
    assert rig.ends() == []
    again = rig.begin()  # under the same id, which is another task now
    assert again.order.workload_id == begin.order.workload_id
    assert again.order.attempt > begin.order.attempt


def test_a_machine_that_was_taken_for_gone_ends_what_was_given_up() -> None:
    rig = opened()
    begin = rig.begin(gpu=True)
    assert rig.say("device_left", deviceId="another") == []
    (stop,) = rig.say("device_left", deviceId=DEVICE)
    assert isinstance(stop, StopAttempt)
    assert stop.workload_id == begin.order.workload_id
    again = rig.begin(f"{T1}.2", gpu=True)
    rig.end(begin, Phase.STOPPED, message="stopped on request")
    rig.end(again)
    assert [(done.task_id, done.error) for done in rig.ends()] == [
        (T1, "its device was silent and taken for gone"),
        (f"{T1}.2", ""),
    ]


def test_a_later_attempt_is_another_piece_of_work_while_the_earlier_one_ends() -> None:
    rig = opened()
    first = rig.begin()
    second = rig.begin(f"{T1}.2")
    assert first.order.workload_id == T1
    assert second.order.workload_id not in (T1, f"{T1}.2")
    rig.end(first)
    rig.end(second)
    assert [done.task_id for done in rig.ends()] == [T1, f"{T1}.2"]
    assert rig.begin(f"{T1}.3").order.workload_id == T1


def test_what_an_earlier_agent_left_running_is_not_wanted() -> None:
    left = Running(workload_id=WorkloadId(T1), attempt=1)
    session = a_session(FakeClock())
    assert session.attach(machine(), (left,)) == (left,)
    assert session.attach(machine(), (left,)) == ()  # by now it is this agent's own


def test_a_machine_that_has_become_another_registers_again_once_nothing_runs() -> None:
    rig = opened()
    begin = rig.begin()
    rig.hear()
    rig.session.attach(replace(machine(), capabilities=DriverCapabilities(programs=True)), ())
    assert not any(isinstance(each, Register) for each in rig.hear())
    rig.end(begin)
    (*_, register) = rig.session.take() + rig.session.take()
    assert isinstance(read(register), Register)
    assert rig.session.registered
    assert rig.assign(T2) == []  # of the registration before, which the server has given up
    rig.session.received(LISTED)
    assert [type(each) for each in rig.hear()] == [ResourceUpdate]
    rig.begin(T2)


def test_a_machine_that_leaves_takes_nothing_and_says_nothing_of_what_it_ends() -> None:
    rig = opened()
    begin = rig.begin()
    assert not rig.session.left
    assert [stop.workload_id for stop in rig.session.leave()] == [T1]
    assert rig.assign(T2) == []
    assert not rig.session.left
    rig.end(begin, Phase.STOPPED)
    assert rig.ends() == []
    assert rig.session.left
