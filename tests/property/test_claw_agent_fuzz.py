"""What a claw node says, whatever its gateway and its containers do: every word is a step of the table of states.

The gateway here keeps the state of each workload as the table has it. What it hears first of a workload over a new
connection is where that stands; after that every word has to be a step, or to say again what it knows.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from arcray import claw_proto as claw
from arcray.agents.claw_session import ClawSession
from arcray.claw_proto import WorkloadState
from arcray.claw_proto.frames import Dialect, Form, read_from_node, write_to_node
from arcray.claw_proto.lifecycle import TRANSITIONS
from arcray.core.commands import ReportEnd, ReportPhase
from arcray.core.ids import WorkloadId
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.workload import Phase
from arcray.testing.builders import T0, a_capacity, a_node
from arcray.testing.clock import FakeClock
from tests.claw_values import values_of

AT = claw.Timestamp.of(T0)
NODE = claw.NodeId("550e8400-e29b-41d4-a716-446655440000")
IDS = [claw.WorkloadId(f"00000000-0000-4000-8000-00000000000{number}") for number in range(3)]
POLICIES = [claw.No(), claw.Always(), claw.OnFailure(max_retries=1), claw.UnlessStopped()]
LIVE = [Phase.PULLING, Phase.STARTING, Phase.RUNNING]
ENDS = [Phase.SUCCEEDED, Phase.FAILED, Phase.STOPPED]

NUMBERS = st.integers(0, len(IDS) - 1)
DOINGS = st.one_of(
    st.tuples(st.just("deploy"), NUMBERS, st.sampled_from(POLICIES)),
    st.tuples(st.just("stop"), NUMBERS, st.booleans()),
    st.tuples(st.just("ask"), NUMBERS, st.none()),
    st.tuples(st.just("phase"), NUMBERS, st.sampled_from(LIVE)),
    st.tuples(st.just("end"), NUMBERS, st.sampled_from(ENDS)),
    st.tuples(st.just("log"), NUMBERS, st.binary(max_size=40)),
    st.tuples(st.sampled_from(["reconnect", "acknowledge", "wait", "restart"]), st.just(0), st.none()),
)


class World:
    """A session, the node below it and the gateway above it."""

    def __init__(self, form: Form) -> None:
        self.clock = FakeClock()
        self.form = form
        self.session = a_session(self.clock, form)
        self.known: dict[claw.WorkloadId, WorkloadState] = {}
        self.attempts: dict[claw.WorkloadId, int] = {}  # that the node runs
        self.begun: list[tuple[str, int]] = []
        self.register()

    def register(self) -> None:
        self.session.opened()
        self.known = {}
        self.say(claw.Registered(heartbeat_interval_secs=30, metrics_interval_secs=10))
        self.hear()

    def say(self, message: claw.GatewayMessage) -> None:
        self.order(self.session.received(write_to_node(message, self.form)))

    def order(self, actions: Any) -> None:
        for action in actions:
            if isinstance(action, StartWorkload):
                self.begun.append((action.workload_id, action.attempt))
                self.attempts[claw.WorkloadId(action.workload_id)] = action.attempt
            else:
                assert isinstance(action, StopAttempt)

    def hear(self) -> None:
        """Has the gateway hear what is said, and judge it."""
        while frames := self.session.take():
            for frame in frames:
                message, _ = read_from_node(frame, Dialect.DOCUMENT)
                if isinstance(message, claw.WorkloadUpdate):
                    self.judge(message.workload_id, message.state)

    def judge(self, name: claw.WorkloadId, state: WorkloadState) -> None:
        before = self.known.get(name)
        legal = before is None or state is before or state in TRANSITIONS[before]
        assert legal, f"{before} does not lead to {state}"
        self.known[name] = state

    def do(self, what: str, number: int, how: Any) -> None:  # noqa: C901, PLR0912  one arm per doing
        name = IDS[number]
        about: dict[str, Any] = {
            "node_id": a_node().id,
            "epoch": 1,
            "workload_id": WorkloadId(name),
            "attempt": self.attempts.get(name, 1),
        }
        match what:
            case "deploy":
                self.known.setdefault(name, WorkloadState.PENDING)
                spec = claw.WorkloadSpec(image="busybox", restart_policy=how)
                self.say(claw.DeployWorkload(workload=claw.Workload(id=name, spec=spec)))
            case "stop":
                before = self.known.get(name)
                if before is not None and WorkloadState.STOPPING in TRANSITIONS[before]:
                    self.known[name] = WorkloadState.STOPPING
                self.say(claw.StopWorkload(workload_id=name, force=how))
            case "ask":
                self.say(claw.GetWorkloadStatus(workload_id=name))
            case "phase" if name in self.attempts:
                self.session.phase(ReportPhase(**about, phase=how))
            case "end" if name in self.attempts:
                del self.attempts[name]
                self.session.ended(ReportEnd(**about, phase=how))
            case "log":
                for work in self.session.logged():
                    if work.id == name:
                        self.session.log(work, how, last=work.finish is not None, full=False)
            case "reconnect":
                self.session.closed()
                self.register()
            case "acknowledge":
                self.say(claw.HeartbeatAck(timestamp=AT))
            case "wait":
                asyncio.run(self.clock.advance(2.0))
            case "restart":
                self.order(self.session.restarts())
        for work in self.session.logged():
            if work.finish is not None:
                self.session.finish(work)
        self.hear()


def a_session(clock: FakeClock, form: Form) -> ClawSession:
    session = ClawSession(clock, node_id=NODE, name="n", form=form, max_workloads=2, details={}, is_free=bool)
    session.attach(a_node(capacity=a_capacity()), ())
    return session


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(Form)), st.lists(DOINGS, max_size=40))
def test_every_word_is_a_step_of_the_table(form: Form, doings: list[tuple[str, int, Any]]) -> None:
    world = World(form)
    for doing in doings:
        world.do(*doing)
    assert len(set(world.begun)) == len(world.begun)  # no attempt is begun twice


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(Form)), st.lists(values_of(claw.GatewayMessage) | st.binary(max_size=60), max_size=20))
def test_whatever_a_gateway_says_is_taken_or_refused(form: Form, said: list[Any]) -> None:
    clock = FakeClock()
    session = a_session(clock, form)
    session.opened()
    session.received(write_to_node(claw.Registered(heartbeat_interval_secs=30, metrics_interval_secs=10), form))
    for each in said:
        session.received(each if isinstance(each, bytes) else write_to_node(each, form))
        session.take()
        session.changes()
    assert session.due_s() is not None
