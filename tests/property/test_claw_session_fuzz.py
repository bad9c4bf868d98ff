"""Whatever a node sends, a session answers: nothing is raised, what it keeps is bounded, and the connection goes on."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcray import claw_proto as claw
from arcray.claw_proto import original
from arcray.claw_proto.frames import Dialect, Form, Frame, write_to_gateway
from arcray.core.commands import Running
from arcray.core.orders import StartWorkload
from arcray.core.resources import Allocation, Demand
from arcray.core.workload import Container, Phase
from arcray.facades.claw.session import Action, ClawSession, Close, Join, Refused, Terms
from arcray.testing.builders import a_workload
from tests.claw_values import values_of
from tests.conformance.claw.claw_rig import registration
from tests.rounds import LookedAt, rounds

NOW: Final = datetime(2026, 2, 3, 12, 34, 56, tzinfo=UTC)
FRAMES: Final = rounds(10_000, 200_000)
STATES: Final = list(claw.WorkloadState)


def a_session(dialect: Dialect, form: Form) -> ClawSession:
    """Returns a session whose node has registered and has work, some of which it is asked for."""
    session = ClawSession(Terms(heartbeat_s=30, metrics_s=10))
    (join,) = session.receive(write_to_gateway(registration(dialect), form), NOW)
    assert isinstance(join, Join)
    session.welcome()
    for number in range(1, 4):
        session.deliver(
            StartWorkload(
                workload_id=a_workload(number).id,
                attempt=1,
                payload=Container(image="i"),
                demand=Demand(),
                allocation=Allocation(),
                owner="o",
            ),
            NOW,
        )
    session.recall([(Running(workload_id=a_workload(4).id, attempt=2), Phase.RUNNING)])
    return session


def drawn_frame(dice: random.Random, known: list[Frame]) -> Frame:
    frame = dice.choice(known)
    match dice.randrange(4):
        case 0:
            return frame
        case 1 if isinstance(frame, bytes):
            return frame[: dice.randrange(len(frame) + 1)] + dice.randbytes(dice.randrange(4))
        case 2:
            return dice.randbytes(dice.randrange(40))
        case _:
            text = frame if isinstance(frame, str) else frame.decode("latin-1")
            at = dice.randrange(len(text) + 1)
            return text[:at] + chr(dice.randrange(0x110000 - 0x900)) + text[at + dice.randrange(2) :]


@pytest.mark.chaos
@pytest.mark.rounds(2, 10)
def test_any_frame_is_answered(seed: int, looked_at: LookedAt) -> None:
    dice = random.Random(seed)
    pairs = [(Dialect.DOCUMENT, form) for form in Form] + [(Dialect.ORIGINAL, Form.INTERNAL)]
    for dialect, form in pairs:
        session = a_session(dialect, form)
        known = [write_to_gateway(message, form) for message in messages(dialect)]
        for _ in range(FRAMES // (len(pairs) * rounds(1, 10))):
            actions = session.receive(drawn_frame(dice, known), NOW)
            assert not any(isinstance(action, Close) for action in actions) or is_of_version(actions)
        assert len(session) <= 4
    looked_at(claw_frames_taken=FRAMES)


def is_of_version(actions: Any) -> bool:
    """A node that registers again by another version is closed."""
    return any(isinstance(action, Refused) and action.error.field == "protocol_version" for action in actions)


def messages(dialect: Dialect) -> list[Any]:
    names = [claw.WorkloadId(a_workload(number).id) for number in range(1, 6)]
    at = claw.Timestamp.of(NOW)
    node_id = claw.NodeId("550e8400-e29b-41d4-a716-446655440000")
    updates = [(name, state) for name in names for state in STATES]
    common: list[Any] = [
        registration(dialect),
        claw.Heartbeat(node_id=node_id, timestamp=at),
        *(claw.WorkloadLogs(workload_id=name, lines=("a",), is_stderr=False) for name in names),
    ]
    if dialect is Dialect.ORIGINAL:
        words = [(name, original.WorkloadState(state)) for name, state in updates if state.value != "pulling"]
        return common + [original.WorkloadUpdate(workload_id=n, state=s, timestamp=at) for n, s in words]
    return common + [claw.WorkloadUpdate(workload_id=n, state=s, timestamp=at) for n, s in updates]


@settings(max_examples=300, deadline=None)
@given(st.lists(values_of(claw.NodeMessage), max_size=5), st.sampled_from(list(Form)))
def test_any_message_of_the_document_is_answered(said: list[Any], form: Form) -> None:
    session = a_session(Dialect.DOCUMENT, form)
    for message in said:
        actions: list[Action] = list(session.receive(write_to_gateway(message, form), NOW))
        assert all(not isinstance(action, Close) for action in actions) or is_of_version(actions)
