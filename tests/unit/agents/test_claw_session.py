"""What a claw node says and does, frame by frame, without a socket."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from arcray import claw_proto as claw
from arcray.agents.claw_session import Action, ClawSession, Leave, SetLogLevel
from arcray.claw_proto import WorkloadState
from arcray.claw_proto.frames import (
    MAX_MESSAGE_BYTES,
    Dialect,
    Form,
    Frame,
    read_from_node,
    read_opening,
    write_to_node,
)
from arcray.core.commands import ReportEnd, ReportPhase, Running
from arcray.core.errors import UnavailableError
from arcray.core.ids import WorkloadId
from arcray.core.node import GpuTelemetry, NodeRegistration, Telemetry
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.quantity import CPU_MILLI, GIB, MIB
from arcray.core.workload import Container, Phase, PortMapping, VolumeMount
from arcray.node.gpu import GpuDetails
from arcray.testing.builders import T0, a_capacity, a_node
from arcray.testing.clock import FakeClock

NODE = claw.NodeId("550e8400-e29b-41d4-a716-446655440000")
W1 = claw.WorkloadId("00000000-0000-4000-8000-000000000001")
W2 = claw.WorkloadId("00000000-0000-4000-8000-000000000002")
AT = claw.Timestamp.of(T0)
S = WorkloadState


@dataclass
class Rig:
    """A session, and its gateway's side of the wire."""

    session: ClawSession
    clock: FakeClock
    form: Form

    def hear(self) -> list[Any]:
        """What the session has to say now, but for heartbeats."""
        said: list[Any] = []
        while frames := self.session.take():
            said += [read_from_node(frame, Dialect.DOCUMENT)[0] for frame in frames]
        return [message for message in said if not isinstance(message, claw.Heartbeat)]

    def told(self) -> list[tuple[str, WorkloadState, str | None]]:
        """The steps among it."""
        return [
            (each.workload_id[-1], each.state, each.message)
            for each in self.hear()
            if isinstance(each, claw.WorkloadUpdate)
        ]

    def say(self, message: claw.GatewayMessage) -> list[Action]:
        return self.session.received(write_to_node(message, self.form))

    def register(self) -> None:
        self.session.opened()
        self.say(claw.Registered(heartbeat_interval_secs=30, metrics_interval_secs=10))

    def deploy(self, workload_id: claw.WorkloadId = W1, gpu_ids: tuple[int, ...] = (), **spec: Any) -> list[Action]:
        workload = claw.Workload(
            id=workload_id,
            name="it",
            spec=claw.WorkloadSpec(image="busybox", **spec),
            status=claw.WorkloadStatus(gpu_ids=gpu_ids),
            created_at=AT,
            updated_at=AT,
        )
        return self.say(claw.DeployWorkload(workload=workload))

    def phase(self, phase: Phase, workload_id: claw.WorkloadId = W1, attempt: int = 1, **fields: Any) -> None:
        self.session.phase(ReportPhase(**self._of(workload_id, attempt), phase=phase, **fields))

    def end(self, phase: Phase, workload_id: claw.WorkloadId = W1, attempt: int = 1, **fields: Any) -> None:
        """The node's end of it, and that its log was told."""
        work = self.session.ended(ReportEnd(**self._of(workload_id, attempt), phase=phase, **fields))
        if work is not None:
            self.session.finish(work)

    def run(self, workload_id: claw.WorkloadId = W1, **spec: Any) -> None:
        """Has a workload run, which the gateway has heard."""
        assert len(self.deploy(workload_id, **spec)) == 1
        self.phase(Phase.STARTING, workload_id)
        self.phase(Phase.RUNNING, workload_id)
        self.heard()

    def heard(self) -> None:
        """Has all that was said be heard."""
        self.hear()
        self.say(claw.Ping(timestamp=AT))
        self.hear()
        for _ in range(20):
            self.say(claw.HeartbeatAck(timestamp=AT))

    @staticmethod
    def _of(workload_id: claw.WorkloadId, attempt: int) -> dict[str, Any]:
        return {"node_id": a_node().id, "epoch": 1, "workload_id": WorkloadId(workload_id), "attempt": attempt}


def a_session(clock: FakeClock, form: Form = Form.INTERNAL, **fields: Any) -> ClawSession:
    values: dict[str, Any] = {
        "node_id": NODE,
        "name": "gpu-1",
        "form": form,
        "max_workloads": 2,
        "details": {0: GpuDetails(compute_capability="9.0", driver_version="535.104.05")},
        "is_free": lambda port: port != 22,
    }
    return ClawSession(clock, **(values | fields))


def a_rig(form: Form = Form.INTERNAL, node: NodeRegistration | None = None, *, registered: bool = True) -> Rig:
    clock = FakeClock()
    session = a_session(clock, form)
    session.attach(node or a_node(capacity=a_capacity(gpus=2, gpu_memory_gib=80)), ())
    rig = Rig(session, clock, form)
    if registered:
        rig.register()
        rig.hear()
    return rig


@pytest.fixture
def rig() -> Rig:
    return a_rig()


def test_a_machine_registers_with_what_it_has() -> None:
    frame = a_rig(node=a_node(capacity=a_capacity(gpus=1, gpu_memory_gib=80))).session.opened()
    assert isinstance(frame, str)
    assert json.loads(frame) == {
        "type": "register",
        "node_id": NODE,
        "name": "gpu-1",
        "capabilities": {
            "total_vram_mb": 81920,
            "gpu_count": 1,
            "gpus": [
                {
                    "index": 0,
                    "name": "NVIDIA H200",
                    "vram_mb": 81920,
                    "compute_capability": "9.0",
                    "driver_version": "535.104.05",
                }
            ],
            "max_concurrent_workloads": 2,
            "supported_runtimes": ["docker"],
        },
        "protocol_version": 1,
    }


def test_binary_frames_are_the_documents_bytes() -> None:
    rig = a_rig(Form.BINARY, node=a_node(capacity=a_capacity()))
    opening = read_opening(rig.session.opened())
    assert opening.form is Form.BINARY
    rig.deploy()
    rig.phase(Phase.STARTING)
    (frame,) = rig.session.take()
    assert frame == bytes.fromhex("03000000" + "10" + "00" * 7 + W1.replace("-", "") + "02000000" + "00") + (
        b"\x14" + b"\0" * 7 + str(AT).encode()
    )


async def test_heartbeats_and_readings_come_as_often_as_was_agreed(rig: Rig) -> None:
    rig.session.reading(
        Telemetry(at=T0, gpus=(GpuTelemetry(index=0, utilization=0.754, memory_used_bytes=GIB, power_w=300.4),))
    )

    async def after(seconds: float) -> list[str]:
        await rig.clock.advance(seconds)
        return [type(read_from_node(frame, Dialect.DOCUMENT)[0]).__name__ for frame in rig.session.take()]

    assert [await after(seconds) for seconds in (9.0, 1.0, 10.0, 10.0)] == [
        [],
        ["Metrics"],
        ["Metrics"],
        ["Heartbeat", "Metrics"],
    ]
    assert rig.session.due_s() == 10.0
    rig.say(claw.UpdateConfig(config=claw.NodeConfig(heartbeat_interval_secs=5)))
    assert rig.session.due_s() == 5.0
    rig.say(claw.UpdateConfig(config=claw.NodeConfig(heartbeat_interval_secs=0)))
    assert rig.session.due_s() == 5.0


def test_a_ping_is_answered_at_once(rig: Rig) -> None:
    rig.say(claw.Ping(timestamp=AT))
    assert rig.session.due_s() == 0.0
    (frame,) = rig.session.take()
    assert isinstance(frame, str)
    assert json.loads(frame) == {"type": "heartbeat", "node_id": NODE, "timestamp": "2026-01-01T00:00:00Z"}


def test_what_is_deployed_is_an_order_with_all_that_was_asked(rig: Rig) -> None:
    (order,) = rig.deploy(
        command=("sh", "-c"),
        args=("true",),
        env=(("A", "1"),),
        gpu_count=1,
        gpu_memory_mb=1024,
        cpu_millicores=500,
        memory_mb=64,
        ports=(80, 22),
        volumes=(claw.VolumeMount(source="/data", target="/in", read_only=True),),
        gpu_ids=(1,),
    )
    assert isinstance(order, StartWorkload)
    assert order.payload == Container(
        image="busybox",
        command=("sh", "-c"),
        args=("true",),
        env=(("A", "1"),),
        ports=(PortMapping(container_port=80, host_port=80), PortMapping(container_port=22)),
        volumes=(VolumeMount(source="/data", target="/in", read_only=True),),
    )
    assert (order.workload_id, order.attempt, order.name) == (WorkloadId(W1), 1, "it")
    assert (order.demand.cpu_milli, order.demand.memory_bytes, order.demand.gpu_memory_bytes) == (500, 64 * MIB, GIB)
    assert [(share.index, share.memory_bytes, share.whole) for share in order.allocation.gpus] == [(1, GIB, False)]
    assert rig.deploy() == []  # it comes again


def test_steps_are_told_in_the_order_of_the_table(rig: Rig) -> None:
    rig.deploy()
    for phase in (Phase.PULLING, Phase.STARTING):
        rig.phase(phase)
    rig.phase(Phase.RUNNING, ports=(PortMapping(container_port=80, host_port=32768),))
    rig.end(Phase.FAILED, message="exit code 3")
    assert rig.told() == [
        ("1", S.PULLING, None),
        ("1", S.STARTING, None),
        ("1", S.RUNNING, "published 80 at 32768"),
        ("1", S.FAILED, "exit code 3"),
    ]


def test_starting_is_told_before_running_also_where_the_node_skips_it(rig: Rig) -> None:
    rig.deploy()
    rig.phase(Phase.RUNNING)
    rig.phase(Phase.STARTING)  # too late
    rig.end(Phase.SUCCEEDED)
    assert [state for _, state, _ in rig.told()] == [S.STARTING, S.RUNNING, S.COMPLETED]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"gpu_count": 3}, "gpu_count: GPU allocation failed: 2 are free"),
        ({"gpu_count": 1, "gpu_ids": (7,)}, "gpu_ids: must name 1 GPUs of this node"),
        ({"cpu_millicores": 9 * CPU_MILLI}, "cpu_millicores: 8000 are free on this node"),
        ({"memory_mb": 1 << 20}, "memory_mb: 32768 are free on this node"),
        ({"ports": (0,)}, "ports: must each be between 1 and 65535, got 0"),
        (
            {"volumes": (claw.VolumeMount(source="v", target="/v", mount_type=claw.MountType.VOLUME),)},
            "volumes.0.mount_type: must be bind: only what the host has is mounted",
        ),
    ],
)
def test_what_cannot_run_here_fails_from_pending_and_says_why(rig: Rig, spec: dict[str, Any], reason: str) -> None:
    assert rig.deploy(**spec) == []
    assert rig.told() == [("1", S.FAILED, reason)]


def test_a_full_node_says_so_until_something_ends(rig: Rig) -> None:
    rig.say(claw.UpdateConfig(config=claw.NodeConfig(max_concurrent_workloads=1)))
    rig.run()
    assert rig.deploy(W2) == []
    assert rig.told() == [("2", S.FAILED, "this node is full: 1 workloads run")]
    rig.end(Phase.SUCCEEDED)
    assert len(rig.deploy(claw.WorkloadId.new())) == 1


def test_a_machine_that_registers_again_takes_as_much_as_it_offers(rig: Rig) -> None:
    rig.say(claw.UpdateConfig(config=claw.NodeConfig(max_concurrent_workloads=0)))
    assert rig.deploy(W1) == []
    rig.session.closed()
    rig.register()
    assert len(rig.deploy(W2)) == 1


def test_gpus_are_shared_by_memory_and_otherwise_held_whole(rig: Rig) -> None:
    ids = [claw.WorkloadId(f"00000000-0000-4000-8000-00000000001{number}") for number in range(4)]
    rig.say(claw.UpdateConfig(config=claw.NodeConfig(max_concurrent_workloads=9)))

    def given(number: int, **spec: Any) -> list[int]:
        orders = rig.deploy(ids[number], **spec)
        return [share.index for order in orders if isinstance(order, StartWorkload) for share in order.allocation.gpus]

    assert given(0, gpu_count=1, gpu_memory_mb=50 * 1024) == [0]
    assert given(1, gpu_count=1, gpu_memory_mb=30 * 1024) == [0]
    assert given(2, gpu_count=1) == [1]
    assert given(3, gpu_count=1, gpu_memory_mb=1) == []


def test_a_stop_is_polite_unless_it_is_forced(rig: Rig) -> None:
    rig.run()
    rig.run(W2)
    (polite,) = rig.say(claw.StopWorkload(workload_id=W1, force=False))
    (forced,) = rig.say(claw.StopWorkload(workload_id=W2, force=True))
    assert isinstance(polite, StopAttempt)
    assert isinstance(forced, StopAttempt)
    assert (polite.grace_s, forced.grace_s) == (30.0, 0.0)
    rig.end(Phase.STOPPED, message="stopped on request")
    rig.end(Phase.SUCCEEDED, W2)  # by itself, meanwhile
    assert [(name, state) for name, state, _ in rig.told()] == [("1", S.STOPPED), ("2", S.STOPPED)]


def test_what_was_asked_to_end_before_it_began_has_stopped(rig: Rig) -> None:
    rig.deploy()
    rig.say(claw.StopWorkload(workload_id=W1, force=False))
    rig.phase(Phase.STARTING)
    rig.end(Phase.STOPPED)
    assert [state for _, state, _ in rig.told()] == [S.STOPPED]


def test_a_question_is_answered_for_what_runs_and_for_what_has_ended(rig: Rig) -> None:
    rig.run()
    rig.say(claw.GetWorkloadStatus(workload_id=W1))
    assert rig.told() == [("1", S.RUNNING, None)]
    rig.say(claw.StopWorkload(workload_id=W1, force=False))
    rig.say(claw.GetWorkloadStatus(workload_id=W1))
    assert rig.told() == [("1", S.STOPPING, None)]
    rig.end(Phase.STOPPED, message="stopped on request")
    rig.heard()
    rig.say(claw.GetWorkloadStatus(workload_id=W1))
    assert rig.told() == [("1", S.STOPPED, "stopped on request")]
    rig.say(claw.GetWorkloadStatus(workload_id=W2))  # never here
    assert rig.told() == []


def test_what_was_to_end_and_is_not_here_has_stopped_and_is_not_begun_later(rig: Rig) -> None:
    assert rig.say(claw.StopWorkload(workload_id=W1, force=True)) == []
    assert rig.deploy() == []
    assert [state for _, state, _ in rig.told()] == [S.STOPPED, S.STOPPED]


def test_steps_that_were_not_heard_are_told_again_in_order(rig: Rig) -> None:
    rig.deploy()
    rig.phase(Phase.STARTING)
    rig.hear()  # it is sent, and nobody says that it was heard
    rig.session.closed()
    rig.phase(Phase.RUNNING)
    rig.end(Phase.SUCCEEDED)
    assert rig.session.take() == []
    rig.register()
    assert [state for _, state, _ in rig.told()] == [S.STARTING, S.RUNNING, S.COMPLETED]


def test_an_end_is_told_until_it_is_heard_and_for_a_while_after_that() -> None:
    rig = a_rig()
    rig.run()
    rig.end(Phase.SUCCEEDED)
    rig.hear()
    for _ in range(2):
        rig.session.closed()
        rig.register()
        assert rig.told() == [("1", S.COMPLETED, None)]
    rig.heard()
    assert rig.session.changes() == {W1: None}
    rig.session.closed()
    rig.register()
    assert rig.told() == [("1", S.COMPLETED, None)]


def test_what_runs_is_told_after_each_registration(rig: Rig) -> None:
    rig.run()
    rig.session.closed()
    rig.register()
    assert rig.told() == [("1", S.RUNNING, None)]


def test_a_receipt_is_asked_for_while_something_is_unheard(rig: Rig) -> None:
    rig.deploy()
    rig.phase(Phase.STARTING)
    rig.session.take()
    assert rig.session.due_s() == 1.0
    rig.heard()
    assert rig.session.due_s() == 10.0


def test_logs_that_were_not_heard_are_told_again_and_so_is_the_end_after_them() -> None:
    rig = a_rig()
    rig.run()
    (work,) = rig.session.logged()
    assert rig.session.log(work, b"one\ntw", last=False, full=False) == 4
    rig.heard()
    assert rig.session.log(work, b"two\n\xffend", last=True, full=False) == 8
    rig.end(Phase.SUCCEEDED)
    (logs, end) = rig.hear()
    assert (logs.lines, logs.is_stderr, end.state) == (("two", "\N{REPLACEMENT CHARACTER}end"), False, S.COMPLETED)
    rig.session.closed()
    assert (work.log_sent, work.state) == (4, S.RUNNING)
    rig.register()
    assert [state for _, state, _ in rig.told()] == [S.RUNNING]
    rig.session.log(work, b"two\n\xffend", last=True, full=False)
    rig.session.finish(work)
    assert [type(each).__name__ for each in rig.hear()] == ["WorkloadLogs", "WorkloadUpdate"]


def test_logs_keep_the_limits_of_a_message(rig: Rig) -> None:
    rig.run()
    (work,) = rig.session.logged()
    assert rig.session.log(work, b"\n" * 30_000, last=False, full=True) == 30_000
    assert [len(each.lines) for each in rig.hear()] == [10_000, 10_000, 10_000]
    assert rig.session.log(work, b"\1" * 65_536, last=False, full=True) == 65_536  # no end of a line in sight
    (frame,) = rig.session.take()
    assert len(frame) < MAX_MESSAGE_BYTES
    for _ in range(8):
        rig.session.log(work, b"x\n", last=False, full=False)
    assert rig.session.logged() == ()  # until they are sent
    rig.hear()
    assert rig.session.logged() == (work,)


@pytest.mark.parametrize(
    ("policy", "phase", "times"),
    [
        (claw.No(), Phase.FAILED, 0),
        (claw.OnFailure(max_retries=2), Phase.FAILED, 2),
        (claw.OnFailure(max_retries=2), Phase.SUCCEEDED, 0),
        (claw.OnFailure(max_retries=0), Phase.FAILED, 5),
        (claw.Always(), Phase.SUCCEEDED, 5),
        (claw.UnlessStopped(), Phase.FAILED, 5),
    ],
)
async def test_what_ends_is_started_again_by_its_own_policy(
    rig: Rig, policy: claw.RestartPolicy, phase: Phase, times: int
) -> None:
    rig.run(restart_policy=policy)
    for again in range(times):
        rig.end(phase, attempt=again + 1, message="exit code 3" if phase is Phase.FAILED else "")
        assert rig.session.restarts() == []
        await rig.clock.advance(2.0**again)
        (order,) = rig.session.restarts()
        assert (order.workload_id, order.attempt) == (WorkloadId(W1), again + 2)
        rig.phase(Phase.STARTING, attempt=again + 2)
        rig.phase(Phase.RUNNING, attempt=again + 2)
    assert {state for _, state, _ in rig.told()} <= {S.RUNNING}
    if times < 5:
        rig.end(phase, attempt=times + 1)
        assert [state for _, state, _ in rig.told()] == [S.FAILED if phase is Phase.FAILED else S.COMPLETED]


def test_what_waits_to_be_started_again_stops_at_once(rig: Rig) -> None:
    rig.run(restart_policy=claw.Always())
    rig.end(Phase.SUCCEEDED)
    assert rig.say(claw.StopWorkload(workload_id=W1, force=False)) == []
    (work,) = rig.session.logged()
    rig.session.finish(work)
    states = [state for _, state, _ in rig.told()]
    assert states[0] is S.RUNNING
    assert states[-1] is S.STOPPED


def test_the_next_agent_goes_on_with_what_the_one_before_has_left() -> None:
    rig = a_rig()
    rig.deploy(gpu_count=1, restart_policy=claw.OnFailure(max_retries=1))
    rig.deploy(W2)
    rig.phase(Phase.STARTING)
    records = [record for record in rig.session.changes().values() if record is not None]
    assert len(records) == 2

    later = a_session(rig.clock, max_workloads=3)
    later.restore([*records, b"{}", b"\xff"])
    stranger = Running(workload_id=WorkloadId("w"), attempt=1)
    found = Running(workload_id=WorkloadId(W1), attempt=1)
    unwanted = later.attach(a_node(capacity=a_capacity(gpus=1)), [found])
    assert unwanted == ()
    next_rig = Rig(later, rig.clock, rig.form)
    next_rig.register()
    for work in later.logged():
        later.finish(work)
    assert next_rig.told() == [
        ("1", S.RUNNING, None),
        ("2", S.PENDING, None),
        ("2", S.FAILED, "it ended while its node's agent was away"),
    ]
    assert next_rig.deploy(claw.WorkloadId.new(), gpu_count=1) == []  # the GPU is held
    next_rig.end(Phase.FAILED)
    assert [state for _, state, _ in next_rig.told()][-1] is S.RUNNING  # for it is started again

    third = a_session(rig.clock)
    assert third.attach(a_node(), [stranger]) == (stranger,)


def the_next(rig: Rig, *found: Running) -> Rig:
    """The next agent, which has the records of the one before and finds these."""
    later = a_session(rig.clock)
    later.restore([record for record in rig.session.changes().values() if record is not None])
    assert later.attach(a_node(), found) == ()
    following = Rig(later, rig.clock, rig.form)
    following.register()
    return following


async def test_the_next_agent_starts_again_what_ended_while_none_was_there() -> None:
    rig = a_rig()
    rig.run(restart_policy=claw.OnFailure(max_retries=2))
    rig = the_next(rig)
    assert rig.told()[-1] == ("1", S.RUNNING, "it ended while its node's agent was away; started again in 1 s, time 1")
    await rig.clock.advance(1.0)
    assert [order.attempt for order in rig.session.restarts()] == [2]
    rig = the_next(rig, Running(workload_id=WorkloadId(W1), attempt=2))
    rig.end(Phase.FAILED, attempt=2)
    assert rig.told()[-1] == ("1", S.RUNNING, "it ended; started again in 1 s, time 2")
    await rig.clock.advance(1.0)
    rig.session.restarts()
    rig.phase(Phase.RUNNING, attempt=3)
    rig = the_next(rig)
    for work in rig.session.logged():
        rig.session.finish(work)
    assert rig.told()[-1] == ("1", S.FAILED, "it ended while its node's agent was away")


async def test_the_next_agent_starts_again_what_waited_for_that() -> None:
    rig = a_rig()
    rig.run(restart_policy=claw.OnFailure(max_retries=1))
    rig.end(Phase.FAILED)
    rig = the_next(rig)
    assert [order.attempt for order in rig.session.restarts()] == [2]


def test_an_end_that_was_not_heard_is_told_by_the_next_agent() -> None:
    rig = a_rig()
    rig.run()
    rig.end(Phase.FAILED, message="exit code 3")
    (record,) = rig.session.changes().values()
    assert record is not None
    later = a_session(rig.clock)
    later.restore([record])
    later.attach(a_node(), ())
    next_rig = Rig(later, rig.clock, rig.form)
    next_rig.register()
    assert next_rig.told() == [("1", S.FAILED, "exit code 3")]


def test_a_log_that_was_not_heard_is_told_by_the_next_agent_before_the_end() -> None:
    rig = a_rig()
    rig.run()
    work = rig.session.ended(ReportEnd(**rig._of(W1, 1), phase=Phase.SUCCEEDED))
    assert work is not None
    rig.session.log(work, b"hello\n", last=True, full=False)
    rig.session.finish(work)
    rig.hear()
    (record,) = rig.session.changes().values()
    assert record is not None
    later = a_session(rig.clock)
    later.restore([record])
    later.attach(a_node(), ())
    next_rig = Rig(later, rig.clock, rig.form)
    next_rig.register()
    (again,) = later.logged()
    assert again.log_sent == 0
    later.log(again, b"hello\n", last=True, full=False)
    later.finish(again)
    _, log, end = next_rig.hear()
    assert (log.lines, end.state) == (("hello",), S.COMPLETED)


def test_a_machine_that_leaves_takes_nothing_and_is_gone_once_all_is_heard(rig: Rig) -> None:
    rig.run()
    assert rig.say(claw.Shutdown(reason="enough", graceful=True)) == [Leave(reason="enough", graceful=True)]
    assert rig.session.leave("enough", stop=False) == []
    rig.deploy(W2)
    assert rig.told() == [("2", S.FAILED, "this node is leaving: enough")]
    (order,) = rig.session.leave("enough", stop=True)
    assert order.workload_id == WorkloadId(W1)
    rig.end(Phase.STOPPED)
    assert rig.told() == [("1", S.FAILED, "its node leaves: enough")]
    assert not rig.session.left
    rig.heard()
    assert rig.session.left


def test_what_the_node_does_not_take_has_failed(rig: Rig) -> None:
    (order,) = rig.deploy()
    assert isinstance(order, StartWorkload)
    rig.session.undelivered(order, UnavailableError("too much to do"))
    assert rig.told() == [("1", S.FAILED, "too much to do")]


def test_the_level_of_the_log_is_the_gateways_to_say(rig: Rig) -> None:
    assert rig.say(claw.UpdateConfig(config=claw.NodeConfig(log_level="debug"))) == [SetLogLevel(level="debug")]


@pytest.mark.parametrize("frame", ["", "{}", '{"type":"nope"}', b"\xff", b"", '{"type":"error","code":1,"message":""}'])
def test_what_cannot_be_read_changes_nothing(rig: Rig, frame: Frame) -> None:
    assert rig.session.received(frame) == []
    assert rig.session.take() == []


def test_nothing_is_taken_before_the_gateway_takes_the_machine() -> None:
    rig = a_rig(registered=False)
    assert rig.deploy() == []
    assert rig.session.due_s() is None
    rig.register()
    assert len(rig.deploy()) == 1


def test_a_gateway_that_asks_faster_than_it_listens_is_read_more_slowly(rig: Rig) -> None:
    rig.run()
    for _ in range(1_000):
        rig.say(claw.GetWorkloadStatus(workload_id=W1))
    assert rig.session.congested
    rig.hear()
    assert not rig.session.congested


def test_a_gateway_that_acknowledges_nothing_costs_no_memory_without_end(rig: Rig) -> None:
    """Takes half a second: ten thousand pieces of a log."""
    rig.run()
    (work,) = rig.session.logged()
    for _ in range(11_000):
        rig.session.log(work, b"x\n", last=False, full=False)
        rig.session.take()
    assert work.log_sent == 22_000
    assert work.log_heard >= 2_000
