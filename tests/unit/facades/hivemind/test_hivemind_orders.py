"""Orders to what a worker is sent. Some tests run what it would run, which takes 30 ms each."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcray.core.errors import ArcrayError, InvalidArgumentError, UnsupportedError
from arcray.core.orders import StartWorkload
from arcray.core.resources import NO_DEMAND, Allocation
from arcray.core.workload import AttemptRecord, Container, ModelServer, PortMapping, Program, VolumeMount
from arcray.facades.hivemind import orders, tasks
from arcray.facades.hivemind.uploads import TASK_BYTES, is_archive
from arcray.testing.builders import T0, a_model, a_workload, node_id

OF_TASK = (("TASK_ID", "task-001"),)
TASK = tasks.workload_id_of("task-001")


def an_order(payload: Program | Container | ModelServer, **fields: Any) -> StartWorkload:
    given: dict[str, Any] = {
        "workload_id": a_workload(1).id, "attempt": 1, "demand": NO_DEMAND, "allocation": Allocation(), "owner": "ana",
    }  # fmt: skip
    return StartWorkload(payload=payload, **(given | fields))


def an_end(attempt: int, **fields: Any) -> AttemptRecord:
    return AttemptRecord(attempt=attempt, node_id=node_id(1), placed_at=T0, started_at=None, ended_at=T0, **fields)


def a_zip(**files: str) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as bundle:
        for name, text in files.items():
            bundle.writestr(name.replace("__", "/") + ".py", text)
    return written.getvalue()


def ran(task_data: bytes, directory: Path) -> str:
    """What a worker does with an archive, without any help."""
    assert is_archive(task_data, unpacked_bytes=1 << 30)
    with zipfile.ZipFile(io.BytesIO(task_data)) as bundle:
        bundle.extractall(directory)
    told = subprocess.run(
        [sys.executable, "-u", "main.py"], cwd=directory, capture_output=True, check=True, stdin=subprocess.DEVNULL
    )
    return told.stdout.decode()


@pytest.mark.parametrize("code", [b"print('Hello, HiveMind!')", a_zip(main="print(1)")])
def test_a_task_goes_as_it_was_uploaded(code: bytes) -> None:
    request = orders.execution_of(
        an_order(Program(blob="b", archive=code[:2] == b"PK", env=OF_TASK), workload_id=TASK), code
    )
    assert (request.task_id, request.task_data) == ("task-001", code)


def test_a_program_of_another_protocol_goes_by_its_own_id() -> None:
    request = orders.execution_of(an_order(Program(blob="b")), b"print(1)")
    assert (request.task_id, request.task_data) == (f"arcray-{a_workload(1).id}", b"print(1)")


@pytest.mark.parametrize("claimed", ["task-001", "", f"arcray-{a_workload(2).id}", "n\0"])
def test_no_program_goes_under_the_name_of_anothers_task(claimed: str) -> None:
    program = Program(blob="b", env=(("TASK_ID", claimed),))
    request = orders.execution_of(an_order(program), b"print(1)")
    assert request.task_id == f"arcray-{a_workload(1).id}"
    assert request.task_data != b"print(1)"  # the variable is its own all the same


def test_arguments_variables_and_input_go_with_a_program(tmp_path: Path) -> None:
    source = b"""
import os, sys
print(sys.argv, os.environ["GREETING"], sys.stdin.read(), __name__, os.path.isdir(os.environ["ARCRAY_RESULT_DIR"]))
"""
    program = Program(blob="b", args=("a b", "--c"), env=(("GREETING", "h\u00e9"),), stdin_blob="s")
    request = orders.execution_of(an_order(program), source, b"read me")
    assert ran(request.task_data, tmp_path) == "['main.py', 'a b', '--c'] h\u00e9 read me __main__ True\n"


def test_an_archive_runs_the_file_that_was_asked_for(tmp_path: Path) -> None:
    code = a_zip(main="print('wrong')", other="import helper; print(helper.NAME)", helper="NAME = 'right'")
    program = Program(blob="b", archive=True, entry_point="other.py")
    assert ran(orders.execution_of(an_order(program), code).task_data, tmp_path) == "right\n"


def test_an_archive_without_an_entry_point_runs_its_usual_one(tmp_path: Path) -> None:
    program = Program(blob="b", archive=True, args=("x",))
    code = a_zip(zeta="print('wrong')", run="import sys; print(sys.argv)")
    assert ran(orders.execution_of(an_order(program), code).task_data, tmp_path) == "['run.py', 'x']\n"


def test_the_same_order_is_the_same_bytes() -> None:
    order = an_order(Program(blob="b", args=("x",)))
    assert orders.execution_of(order, b"1") == orders.execution_of(order, b"1")


def test_what_the_wire_cannot_say_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="payload: a worker loads no models"):
        orders.execution_of(an_order(ModelServer(model=a_model())), b"")
    with pytest.raises(UnsupportedError, match="ports: "):
        orders.execution_of(an_order(Container(image="busybox", ports=(PortMapping(container_port=80),))), b"")
    with pytest.raises(UnsupportedError, match="volumes: "):
        orders.execution_of(an_order(Container(image="busybox", volumes=(VolumeMount(source="/", target="/"),))), b"")
    with pytest.raises(UnsupportedError, match="at most 104857600"):
        orders.execution_of(an_order(Program(blob="b", args=("x",))), b"#" * TASK_BYTES)
    for broken in (b"PK\3\4", a_zip(pkg__main="1")):
        with pytest.raises(InvalidArgumentError):
            orders.execution_of(an_order(Program(blob="b", archive=True, args=("x",))), broken)


ARCHIVE = a_zip(main="print(1)", other="print(2)")


@given(st.integers(0, len(ARCHIVE) - 1), st.integers(0, 255), st.integers(0, len(ARCHIVE)))
def test_a_damaged_archive_is_packed_or_refused(at: int, byte: int, cut: int) -> None:
    damaged = bytearray(ARCHIVE)
    damaged[at] = byte
    for data in (bytes(damaged), ARCHIVE[:cut], ARCHIVE[cut:]):
        with suppress(ArcrayError):
            orders.execution_of(an_order(Program(blob="b", archive=True, args=("x",))), data)


def test_an_attempt_goes_under_its_works_own_id_until_a_worker_may_have_begun_it() -> None:
    program = Program(blob="b", env=OF_TASK)
    refused, given_back = an_end(1, refused=True), an_end(2, refused=True, begun=True)
    for history, attempt, expected in (
        ((), 1, "task-001"),
        ((refused,), 2, "task-001"),
        ((refused, given_back), 3, "task-001.arcray-3"),
        ((an_end(1),), 2, "task-001.arcray-2"),
        ((), 2, "task-001.arcray-2"),  # a record is missing
        (tuple(an_end(each, refused=True) for each in range(1, 11)), 11, "task-001.arcray-11"),  # records end there
    ):
        order = an_order(program, workload_id=TASK, attempt=attempt)
        request = orders.execution_of(order, b"print(1)", history=history)
        assert (request.task_id, request.task_data) == (expected, b"print(1)")
        assert orders.workload_of(request.task_id) == TASK


def test_an_id_of_a_later_attempt_is_no_tasks_own() -> None:
    assert orders.attempt_of("task-001") == ("task-001", 1)
    assert orders.attempt_of("task-001.arcray-12") == ("task-001", 12)
    assert orders.attempt_of("a.arcray-2.arcray-3") == ("a.arcray-2", 3)
    assert orders.attempt_of("task-001.arcray-") == ("task-001.arcray-", 1)
    of_rest = a_workload(1).id
    assert orders.foreign_task_id(of_rest, 3) == f"arcray-{of_rest}.arcray-3"
    assert orders.workload_of(f"arcray-{of_rest}.arcray-3") == of_rest
    for task_id in ("task-001.arcray-2", "task-001.arcray-1", f"arcray-{of_rest}.arcray-2"):
        with pytest.raises(InvalidArgumentError, match="task_id: is what arcray calls a later attempt of a task"):
            tasks.workload_id_of(task_id)
    with pytest.raises(InvalidArgumentError):
        orders.workload_of("a.arcray-2.arcray-3")


def test_a_worker_means_a_task_or_other_work_and_never_both() -> None:
    assert orders.workload_of("task-001") == TASK
    of_rest = a_workload(1).id
    assert orders.workload_of(f"arcray-{of_rest}") == of_rest
    assert orders.workload_of(of_rest) == tasks.workload_id_of(of_rest) != of_rest
    with pytest.raises(InvalidArgumentError):
        tasks.workload_id_of(f"arcray-{of_rest}")
    with pytest.raises(InvalidArgumentError):
        orders.workload_of("")
