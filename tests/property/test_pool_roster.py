"""Whatever sockets say, and in whatever order: who listens knows who is listed, and nobody is told twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from arcray.core.ids import AccountId
from arcray.facades.pool.session import Action, Broadcast, Close, Join, Limits, Moment, Roster

START = datetime(2026, 1, 1, tzinfo=UTC)
SOCKETS, DEVICES = (1, 2, 3), ("A", "B", "C", "D")
MOST = 3

sockets = st.sampled_from(SOCKETS)
devices = st.sampled_from(DEVICES)
steps = st.one_of(
    st.tuples(st.just("register"), sockets, devices),
    st.tuples(st.just("heartbeat"), sockets, devices),
    st.tuples(st.just("resource_update"), sockets, devices),
    st.tuples(st.just("close"), sockets, devices),
    st.tuples(st.just("wait"), st.integers(1, 40), devices),
)


class Listener:
    """Follows a roster as a client does."""

    def __init__(self, *, close_silent: bool) -> None:
        numbers = iter(range(10**6))
        limits = Limits(devices=MOST, silent_s=30.0, close_silent=close_silent)
        self.roster = Roster(limits, lambda: f"made-{next(numbers)}")
        self.open: set[int] = set()
        self.knows: set[str] = set()
        self.now_s = 0.0

    def step(self, kind: str, number: int, device_id: str) -> None:
        if kind == "wait":
            self.now_s += number
            self.take(self.roster.sweep(self.now()))
        elif kind == "close":
            if number in self.open:
                self.end(number)
        else:
            if number not in self.open:
                self.open.add(number)
                self.roster.open(number, address="10.0.0.1", account=AccountId(f"account-{number % 2}"))
            message = {"type": kind, "deviceId": device_id, "resources": {"cpuCores": int(self.now_s)}}
            self.take(self.roster.receive(number, json.dumps(message), self.now()))

    def end(self, socket: int) -> None:
        self.open.discard(socket)
        self.take(self.roster.close(socket))

    def take(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Join(new=True):
                    self.knows.add(action.member.device.id)
                case Broadcast():
                    told: Any = json.loads(action.frame)
                    if told["type"] == "device_left":
                        assert told["deviceId"] in self.knows, "it is told once"
                        self.knows.discard(told["deviceId"])
                case Close():
                    if action.socket in self.open:
                        self.end(action.socket)
                case _:
                    pass

    def now(self) -> Moment:
        return Moment(START + timedelta(seconds=self.now_s), self.now_s)

    def check(self) -> None:
        members = self.roster.members
        assert self.knows == {member.device.id for member in members}
        assert {member.socket for member in members} <= self.open
        assert len(members) <= MOST


@given(st.lists(steps, max_size=40), st.booleans())
def test_who_listens_knows_who_is_listed(taken: list[tuple[str, int, str]], close_silent: bool) -> None:
    listener = Listener(close_silent=close_silent)
    for kind, number, device_id in taken:
        listener.step(kind, number, device_id)
        listener.check()
    for socket in SOCKETS:
        listener.end(socket)
    assert listener.knows == set()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KINDS = (
    "register",
    "heartbeat",
    "resource_update",
    "resource_request",
    "resource_release",
    "task_submit",
    "task_complete",
)
MEMBERS = (
    "deviceId",
    "deviceName",
    "platform",
    "capabilities",
    "resources",
    "requirements",
    "task",
    "result",
    "taskId",
)
messages = st.builds(
    lambda kind, values: json.dumps({**values, "type": kind}),
    st.sampled_from(KINDS),
    st.dictionaries(st.sampled_from(MEMBERS), json_values, max_size=6),
)


@given(st.one_of(messages, st.text(), st.binary()))
def test_no_frame_is_a_fault_of_ours(frame: str | bytes) -> None:
    listener = Listener(close_silent=False)
    listener.step("heartbeat", 1, "A")
    listener.roster.receive(1, frame, listener.now())
