"""Whose a device is, who is told of it, and what closes a socket; time is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from arcray.core.ids import AccountId
from arcray.core.quantity import MAX_QUANTITY
from arcray.facades.pool.session import (
    Action,
    Beat,
    Broadcast,
    Close,
    Done,
    Ignored,
    Join,
    Left,
    Limits,
    Moment,
    Refuse,
    Roster,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits(devices=3, silent_s=30.0)
ME, OTHER = AccountId("me"), AccountId("other")


def at(seconds: float) -> Moment:
    return Moment(START + timedelta(seconds=seconds), seconds)


class Rig:
    """A roster with sockets 1 and 2 of one account, and 9 of another."""

    def __init__(self, **limits: Any) -> None:
        numbers = iter(range(100))
        self.roster = Roster(replace(LIMITS, **limits), lambda: f"made-{next(numbers)}")
        for socket, account in ((1, ME), (2, ME), (9, OTHER)):
            self.roster.open(socket, address=f"10.0.0.{socket}", account=account)

    def say(self, socket: int, kind: str, after_s: float = 0.0, **values: Any) -> Sequence[Action]:
        return self.roster.receive(socket, json.dumps({"type": kind, **values}), at(after_s))

    def register(self, socket: int, device_id: str, after_s: float = 0.0, **values: Any) -> Sequence[Action]:
        return self.say(socket, "register", after_s, deviceId=device_id, **values)

    def listed(self) -> list[str]:
        return [member.device.id for member in self.roster.members]


def told(actions: Sequence[Action]) -> list[Any]:
    """Returns what everybody is told."""
    return [json.loads(action.frame) for action in actions if isinstance(action, Broadcast)]


def kinds(actions: Sequence[Action]) -> list[type]:
    return [type(action) for action in actions]


def test_a_device_that_registers_is_attached_and_announced() -> None:
    (join,) = Rig().register(1, "A", deviceName="n", platform="p")
    assert isinstance(join, Join)
    device = join.member.device
    assert (device.id, device.name, device.platform, device.ip_address) == ("A", "n", "p", "10.0.0.1")
    assert (join.listed, join.new, join.fresh) == (True, True, True)


def test_a_heartbeat_and_an_update_keep_a_device() -> None:
    rig = Rig()
    rig.register(1, "A")
    rig.register(2, "B")
    assert kinds(rig.say(1, "heartbeat", 29.0, deviceId="A")) == [Beat]
    assert kinds(rig.say(2, "resource_update", 29.0, deviceId="B", resources={"cpuUsage": 1})) == [Broadcast, Beat]
    assert rig.roster.sweep(at(59.0)) == []
    assert rig.listed() == ["A", "B"]


def test_a_silent_device_leaves_after_thirty_seconds_and_not_before() -> None:
    rig = Rig()
    rig.register(1, "A")
    assert rig.roster.sweep(at(30.0)) == []
    actions = rig.roster.sweep(at(30.1))
    assert told(actions) == [{"type": "device_left", "deviceId": "A"}]
    assert kinds(actions) == [Broadcast, Left]
    assert rig.roster.sweep(at(40.0)) == []
    assert rig.listed() == []


def test_the_end_of_a_silent_devices_socket_is_no_second_good_bye() -> None:
    rig = Rig()
    rig.register(1, "A")
    rig.roster.sweep(at(31.0))
    assert rig.roster.close(1) == []


@pytest.mark.parametrize("kind", ["heartbeat", "resource_update"])
def test_a_silent_device_comes_back_with_what_it_had(kind: str) -> None:
    rig = Rig()
    rig.register(1, "A")
    rig.say(1, "resource_update", deviceId="A", resources={"cpuCores": 8})
    rig.roster.sweep(at(31.0))
    join = rig.say(1, kind, 40.0, deviceId="A", resources={})[0]
    assert isinstance(join, Join)
    assert (join.new, join.listed, join.fresh) == (True, False, False)
    assert join.member.device.resources.cpu_cores == 8
    assert rig.roster.sweep(at(60.0)) == []


def test_a_silent_device_comes_back_by_no_other_socket() -> None:
    rig = Rig()
    rig.register(1, "A")
    rig.roster.sweep(at(31.0))
    assert rig.say(2, "heartbeat", 40.0, deviceId="A") == ()
    assert rig.listed() == []


def test_a_silent_device_that_registers_elsewhere_does_not_come_back_twice() -> None:
    rig = Rig()
    rig.register(1, "A")
    rig.roster.sweep(at(31.0))
    rig.register(2, "A", 32.0)
    assert kinds(rig.say(1, "heartbeat", 33.0, deviceId="A")) == [Beat]
    assert rig.roster.close(1) == []
    assert rig.listed() == ["A"]


def test_the_socket_of_a_silent_device_is_closed_where_that_is_wished() -> None:
    rig = Rig(close_silent=True)
    rig.register(1, "A")
    told, close, left = rig.roster.sweep(at(31.0))
    assert isinstance(close, Close)
    assert (close.socket, close.code) == (1, 1008)
    assert kinds([told, left]) == [Broadcast, Left]


def test_a_stale_socket_takes_nothing_along() -> None:
    rig = Rig()
    rig.register(1, "A")
    rig.register(2, "A")
    assert rig.roster.close(1) == []
    assert told(rig.roster.close(2)) == [{"type": "device_left", "deviceId": "A"}]


@pytest.mark.parametrize("leaves", [lambda roster: roster.close(1), lambda roster: roster.sweep(at(31.0))])
def test_all_that_leave_are_told_of_before_the_cluster_is(leaves: Callable[[Roster], Sequence[Action]]) -> None:
    """The cluster may take its time, and who is back by then must not be told of as gone."""
    rig = Rig()
    rig.register(1, "A")
    rig.register(1, "B")
    assert kinds(leaves(rig.roster)) == [Broadcast, Broadcast, Left, Left]


def test_a_device_keeps_its_place_when_it_registers_again() -> None:
    rig = Rig()
    rig.register(1, "A")
    rig.register(2, "B")
    rig.register(2, "A")
    assert rig.listed() == ["A", "B"]


def test_a_size_that_changes_is_told_to_the_cluster_and_other_changes_are_not() -> None:
    rig = Rig()
    rig.register(1, "A")
    first = rig.say(1, "resource_update", deviceId="A", resources={"cpuCores": 8, "cpuUsage": 5})
    again = rig.say(1, "resource_update", deviceId="A", resources={"cpuCores": 8, "cpuUsage": 50})
    assert kinds(first) == [Join, Broadcast, Beat]
    assert kinds(again) == [Broadcast, Beat]


def test_an_id_of_another_account_is_not_taken_over() -> None:
    rig = Rig()
    rig.register(1, "A")
    (close,) = rig.register(9, "A")
    assert isinstance(close, Close)
    assert close.code == 1008
    assert rig.say(9, "heartbeat", 29.0, deviceId="A") == ()
    assert rig.say(9, "resource_update", 29.0, deviceId="A", resources={"cpuUsage": 1}) == ()
    assert kinds(rig.roster.sweep(at(31.0))) == [Broadcast, Left]


def test_a_device_too_many_is_closed_and_who_is_there_may_register_again() -> None:
    rig = Rig()
    for name in "ABC":
        rig.register(1, name)
    (close,) = rig.register(2, "D")
    assert isinstance(close, Close)
    assert (close.socket, close.code) == (2, 1008)
    assert kinds(rig.register(2, "A")) == [Join]


def test_a_silent_device_finds_its_place_taken() -> None:
    rig = Rig(devices=1)
    rig.register(1, "A")
    rig.roster.sweep(at(31.0))
    rig.register(2, "B", 32.0)
    assert kinds(rig.say(1, "heartbeat", 33.0, deviceId="A")) == [Close]


def test_who_may_not_join_gives_its_place_back_to_whom_it_took_it_from() -> None:
    rig = Rig()
    rig.register(1, "A", deviceName="first")
    (join,) = rig.register(2, "A", deviceName="second")
    assert isinstance(join, Join)
    assert not rig.roster.refuse(join)
    assert [member.device.name for member in rig.roster.members] == ["first"]
    assert not rig.roster.refuse(join)  # the place is no more its own
    (join,) = rig.register(2, "B")
    assert isinstance(join, Join)
    assert rig.roster.refuse(join)
    assert rig.listed() == ["A"]


def test_who_may_not_join_gives_no_place_back_to_who_has_left() -> None:
    rig = Rig()
    rig.register(1, "A")
    (join,) = rig.register(2, "A")
    assert isinstance(join, Join)
    rig.roster.close(1)
    assert rig.roster.refuse(join)
    assert rig.listed() == []


def test_as_many_silent_devices_of_a_socket_are_remembered_as_there_may_be() -> None:
    rig = Rig(devices=1)
    for number in range(3):
        rig.register(1, str(number), number * 40.0)
        rig.roster.sweep(at(number * 40.0 + 31.0))
    assert rig.say(1, "heartbeat", 120.0, deviceId="1") == ()
    assert kinds(rig.say(1, "heartbeat", 120.0, deviceId="2")) == [Join]


def test_who_is_not_trusted_gets_no_work() -> None:
    rig = Rig()
    rig.roster.open(3, address="", account=ME, trusted=False)
    (join,) = rig.register(3, "A", capabilities=["task"])
    assert isinstance(join, Join)
    assert not join.member.runs


@pytest.mark.parametrize(
    ("result", "field"),
    [
        (None, "result: must be an object"),
        ({"success": "yes"}, "result.success: must be true or false"),
        ({"success": True, "exitCode": 0.5}, "result.exitCode: must be an integer"),
        ({"success": True, "files": {"": ""}}, "result.files.: must have 1"),
        ({"success": True, "files": {"a": "!"}}, "result.files.a: is not Base64"),
        ({"success": True, "files": {"\ud800": ""}}, "result.files.?: holds half of a surrogate pair"),
        ({"success": True, "result": "x" * (2**22 + 1)}, "result.result: must have"),
    ],
)
def test_an_end_that_cannot_be_read_is_a_failure(result: Any, field: str) -> None:
    rig = Rig()
    rig.register(1, "A")
    (done,) = rig.say(1, "task_complete", deviceId="A", taskId="t", result=result)
    assert isinstance(done, Done)
    assert (done.result.task_id, done.result.success) == ("t", False)
    assert f"its device tells no end that can be read: {field}" in done.result.error


@pytest.mark.parametrize(
    ("task", "refusal"),
    [
        ({"id": 5}, Refuse("", "task.id: must be a string")),
        ({"id": "\ud800", "data": "p"}, Refuse("", "task.id: holds half of a surrogate pair")),
        ({"id": "t", "data": "p"}, Refuse("t", "task.data: must be an object")),
        ({"id": "t", "data": {"command": 5}}, Refuse("t", "task.data.command: must be a string")),
        (
            {"id": "t", "requirements": {"cpu": "100"}},
            Refuse("t", f"task.requirements.cpu: must be a number from 0 to {MAX_QUANTITY}"),
        ),
        (
            {"id": "t", "data": {"input": "x" * (2**22 + 1)}},
            Refuse("t", f"task.data.input: must have 0 to {2**22} characters"),
        ),
    ],
)
def test_who_hands_in_a_task_that_cannot_be_read_is_told_why(task: Any, refusal: Refuse) -> None:
    assert Rig().say(1, "task_submit", task=task) == (refusal,)


def test_only_its_own_socket_ends_a_devices_tasks() -> None:
    rig = Rig()
    rig.register(1, "A")
    done: dict[str, Any] = {"taskId": "t", "result": {"success": True, "result": "x"}}
    assert kinds(rig.say(2, "task_complete", deviceId="A", **done)) == [Ignored]
    assert kinds(rig.say(1, "task_complete", deviceId="A", **done)) == [Done]
    assert kinds(rig.say(1, "task_complete", **done)) == [Done]  # it has one device


def test_what_is_malformed_is_passed_over() -> None:
    rig = Rig()
    for frame in ("no json", b"\xff", '{"type":"unknown"}', '{"type":"heartbeat"}'):
        assert kinds(rig.roster.receive(1, frame, at(0))) == [Ignored]


def test_a_strict_server_closes_for_malformed_text_the_fourth_time() -> None:
    rig = Rig(strict=True)
    found = [kinds(rig.roster.receive(1, "no json", at(0))) for _ in range(4)]
    assert found == [[Ignored]] * 3 + [[Ignored, Close]]
    assert kinds(rig.say(1, "heartbeat")) == [Ignored]  # which is JSON, and lacks a member
    close = rig.roster.receive(2, b"\xff", at(0))[-1]
    assert isinstance(close, Close)
    assert close.code == 1003
