"""What a device is given, once, and what it says of it."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest

from arcray.core.commands import Running
from arcray.core.errors import UnsupportedError
from arcray.core.ids import WorkloadId
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.resources import Allocation, Demand
from arcray.core.workload import Container, Phase, PortMapping, Program, VolumeMount
from arcray.facades.pool.assignments import Assignments, Files
from arcray.facades.pool.messages import TaskComplete

ID = WorkloadId("00000000-0000-4000-8000-000000000001")
PROGRAM = Program(blob="code", args=("a",), env=(("K", "v"),), entry_point="x.py")


def order(payload: Any = PROGRAM, attempt: int = 1) -> StartWorkload:
    return StartWorkload(
        workload_id=ID,
        attempt=attempt,
        payload=payload,
        demand=Demand(cpu_milli=1500, memory_bytes=2**20, disk_bytes=10**6, gpus=1),
        allocation=Allocation(),
        owner="me",
        name="process-data",
    )


def complete(task_id: str = ID, *, success: bool = True) -> TaskComplete:
    return TaskComplete(device_id="A", task_id=task_id, success=success, output="out", error="" if success else "no")


def test_a_program_goes_with_all_that_it_needs() -> None:
    found = json.loads(Assignments().assign(order(), Files(code=b"print(1)", stdin=b"in")))
    assert found == {
        "type": "task_assign",
        "taskId": ID,
        "task": {
            "id": ID,
            "type": "compute",
            "submitterId": "me",
            "requirements": {"cpu": 150, "memory": 1, "storage": 1, "gpu": True},
            "data": {
                "command": "process-data",
                "input": "in",
                "program": {"entryPoint": "x.py", "args": ["a"], "env": {"K": "v"}, "source": "print(1)"},
            },
        },
    }


def test_an_archive_and_input_that_is_no_text_go_in_base64() -> None:
    files = Files(code=b"PK\x00\xff", stdin=b"\xff")
    data = json.loads(Assignments().assign(order(Program(blob="b", archive=True)), files))["task"]["data"]
    assert data["input"] == ""
    assert data["program"]["archive"] == b64encode(b"PK\x00\xff").decode()
    assert data["program"]["stdin"] == b64encode(b"\xff").decode()


def test_an_image_goes_with_its_arguments() -> None:
    image = Container(image="busybox", command=("sh",), args=("-c", "true"), env=(("K", "v"),))
    data = json.loads(Assignments().assign(order(image), None))["task"]["data"]
    assert data["container"] == {"image": "busybox", "command": ["sh"], "args": ["-c", "true"], "env": {"K": "v"}}


@pytest.mark.parametrize(
    "payload",
    [
        Container(image="i", ports=(PortMapping(container_port=80),)),
        Container(image="i", volumes=(VolumeMount(source="/a", target="/b"),)),
    ],
)
def test_what_the_wire_cannot_tell_is_refused(payload: Container) -> None:
    with pytest.raises(UnsupportedError):
        Assignments().assign(order(payload), None)


def test_an_order_that_comes_twice_is_taken_once() -> None:
    has = Assignments()
    assert has.take(order())
    assert not has.take(order())
    assert has.take(order(attempt=2))
    assert has.inventory() == (Running(workload_id=ID, attempt=1), Running(workload_id=ID, attempt=2))
    assert json.loads(has.assign(order(attempt=2), Files(code=b"")))["taskId"] == f"{ID}.2"


def test_an_end_is_taken_once() -> None:
    has = Assignments()
    has.take(order())
    ended = has.done(complete())
    assert ended is not None
    assert (ended.phase, ended.output, ended.work.attempt) == (Phase.SUCCEEDED, "out", 1)
    assert has.done(complete()) is None
    assert has.inventory() == ()


def test_a_failure_after_a_stop_is_the_stop() -> None:
    has = Assignments()
    has.take(order())
    stop = StopAttempt(workload_id=ID, attempt=1, grace_s=1.0)
    assert json.loads(has.stop(stop) or "") == {"type": "task_cancel", "taskId": ID}
    assert not has.has(order())
    ended = has.done(complete(success=False))
    assert ended is not None
    assert (ended.phase, ended.message) == (Phase.STOPPED, "no")
    assert has.stop(stop) is None


def test_a_failure_is_one_where_nobody_stopped_it() -> None:
    has = Assignments()
    has.take(order())
    ended = has.done(complete(success=False))
    assert ended is not None
    assert ended.phase is Phase.FAILED


def test_a_message_is_kept_as_far_as_it_can_be() -> None:
    has = Assignments()
    has.take(order())
    ended = has.done(TaskComplete(device_id="A", task_id=ID, success=False, error="a\0b" + "c" * 5_000))
    assert ended is not None
    assert ended.message.startswith("a\N{REPLACEMENT CHARACTER}bc")
    assert len(ended.message) == 4_096
