"""Orders to what a worker is sent, and the ids by which it answers.

The wire has a task's id and its bytes, and nothing else; what a worker sends back has the id that it was given. So the
id says which attempt it is: it is the task's own, unless a worker may have begun the task before. Then it has the
attempt's number at its end, and what comes late of the one before is about no task that there is.

A program that needs no more goes as it was uploaded, byte for byte. One that has arguments, variables, standard input
or an entry point of its own, because it came by another protocol, goes in an archive whose ``main.py`` arranges them
and then runs it: any worker can do that. What becomes of containers, ``containers`` says.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Final, assert_never

from arcray.core.errors import InvalidArgumentError, UnsupportedError
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.orders import StartWorkload
from arcray.core.workload import (
    ATTEMPTS_KEPT,
    AttemptRecord,
    Container,
    ModelServer,
    Payload,
    Program,
    WorkloadView,
)
from arcray.facades.hivemind.containers import files_of_container
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.tasks import FOREIGN_WORK, LATER_ATTEMPT, workload_id_of
from arcray.facades.hivemind.uploads import TASK_BYTES
from arcray.wire.archives import BROKEN, check_directory, entry_point_among

__all__ = ["attempt_of", "execution_of", "foreign_task_id", "latest_begun_on", "task_id_of", "workload_of"]

_TASK_ID: Final = "TASK_ID"
_SOURCE: Final = "main.py"
_MAIN: Final = """\
import json, os, subprocess, sys, zipfile

here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "arcray.json"), encoding="utf-8") as file:
    told = json.load(file)
work = os.path.join(here, "program")
with zipfile.ZipFile(os.path.join(here, "program.zip")) as bundle:
    bundle.extractall(work)
os.environ.update(told["env"])
os.environ.setdefault("ARCRAY_RESULT_DIR", os.path.join(here, "results"))
os.makedirs(os.environ["ARCRAY_RESULT_DIR"], exist_ok=True)
os.dup2(os.open(os.path.join(here, "stdin"), os.O_RDONLY), 0)
os.chdir(work)
command = [sys.executable, "-u", told["entry"], *told["args"]]
if os.name == "posix":  # the same process, so that whoever ends it ends the program
    os.execv(sys.executable, command)
sys.exit(subprocess.call(command))
"""


def task_id_of(work: WorkloadView, attempt: int) -> str:
    """Returns the id by which a worker knows an attempt; no other attempt that a worker may have begun has the same."""
    return _attempt_id(_own_id(work.spec.id, work.spec.payload), attempt, work.attempts)


def foreign_task_id(workload_id: WorkloadId, attempt: int) -> str:
    """Returns the id of an attempt of which nothing else is known any more."""
    return _attempt_id(_foreign_id(workload_id), attempt, ())


def attempt_of(task_id: str) -> tuple[str, int]:
    """Returns the id of the work that a worker means, and the number of its attempt; 1 where the id names none."""
    later = LATER_ATTEMPT.fullmatch(task_id)
    return (later[1], int(later[2])) if later else (task_id, 1)


def latest_begun_on(work: WorkloadView, node_id: NodeId, before: int) -> int | None:
    """Returns the newest attempt before this one that a node may still be at, as far as its history goes back."""
    begun = (
        each.attempt for each in _earlier(work.attempts, before) if each.node_id == node_id and _may_have_begun(each)
    )
    return max(begun, default=None)


def workload_of(task_id: str) -> WorkloadId:
    """Returns the workload that a worker means by an id: a task, or work of another protocol, whichever the attempt.

    Whoever takes a worker's word must see that the workload runs on that worker, under that id: the id alone shows
    nothing.

    Raises:
        InvalidArgumentError: no task can be called that.
    """
    own_id, _ = attempt_of(task_id)
    foreign = FOREIGN_WORK.fullmatch(own_id)
    return WorkloadId(foreign[1]) if foreign else workload_id_of(own_id)


def _own_id(workload_id: WorkloadId, payload: Payload) -> str:
    """Returns the id by which a worker knows a piece of work.

    A task has its own, which its program finds in its environment. A program of another protocol may have any
    variables: only an id that leads to this very workload is its own, so no work goes under the name of another's task.
    """
    env = payload.env if isinstance(payload, Program) else ()
    claimed = dict(env).get(_TASK_ID)
    if claimed is not None:
        try:
            if workload_id_of(claimed) == workload_id:
                return claimed
        except InvalidArgumentError:
            pass  # no task is called that
    return _foreign_id(workload_id)


def _foreign_id(workload_id: WorkloadId) -> str:
    return f"arcray-{workload_id}"


def _attempt_id(own_id: str, attempt: int, history: Sequence[AttemptRecord]) -> str:
    """Returns the id of an attempt: its work's own, where certainly no worker has begun it under that before.

    Beyond the attempts whose records are kept nothing is certain.
    """
    earlier = _earlier(history, attempt)
    known = attempt <= ATTEMPTS_KEPT and len(earlier) == attempt - 1
    return own_id if known and not any(map(_may_have_begun, earlier)) else f"{own_id}.arcray-{attempt}"


def _earlier(history: Sequence[AttemptRecord], attempt: int) -> Sequence[AttemptRecord]:
    return [each for each in history if each.attempt < attempt]


def _may_have_begun(record: AttemptRecord) -> bool:
    return record.begun or not record.refused


def execution_of(
    order: StartWorkload, code: bytes, stdin: bytes = b"", *, history: Sequence[AttemptRecord] = ()
) -> pool.ExecuteTaskRequest:
    """Returns what a worker is asked to run.

    Args:
        code: of the program's blob.
        stdin: what it reads; only where its payload has some.
        history: of the attempts before.

    Raises:
        InvalidArgumentError: it is an archive with no file to run.
        UnsupportedError: it is what the wire cannot say, or too large for it with what it needs.
    """
    payload = order.payload
    own_id = _own_id(order.workload_id, payload)
    match payload:
        case Program():
            data = code if _goes_as_it_is(payload, own_id) else _packed(payload, code, stdin)
        case Container():
            data = _zipped(files_of_container(order, payload))
        case ModelServer():
            raise UnsupportedError("a worker loads no models", field="payload")
        case _:
            assert_never(payload)
    if len(data) > TASK_BYTES:
        raise UnsupportedError(f"has {len(data)} bytes with what it needs, at most {TASK_BYTES}", field="payload")
    return pool.ExecuteTaskRequest(task_id=_attempt_id(own_id, order.attempt, history), task_data=data)


def _goes_as_it_is(payload: Program, own_id: str) -> bool:
    told = set(payload.env) - {(_TASK_ID, own_id)}  # a worker sets that by itself
    return not (payload.args or payload.entry_point or payload.stdin_blob or told)


def _packed(payload: Program, code: bytes, stdin: bytes) -> bytes:
    told = {"entry": _entry(payload, code), "args": payload.args, "env": dict(payload.env)}
    return _zipped({
        _SOURCE: _MAIN.encode(),
        "arcray.json": json.dumps(told).encode(),
        "stdin": stdin,
        "program.zip": code if payload.archive else _zipped({_SOURCE: code}),
    })  # fmt: skip


def _entry(payload: Program, code: bytes) -> str:
    if payload.entry_point or not payload.archive:
        return payload.entry_point or _SOURCE
    try:
        check_directory(io.BytesIO(code))
        with zipfile.ZipFile(io.BytesIO(code)) as bundle:
            names = {name for name in bundle.namelist() if "/" not in name}
    except (*BROKEN, OSError) as error:
        raise InvalidArgumentError(f"is not a readable zip: {error}", field="archive") from error
    found = entry_point_among(names)
    if found is None:
        raise InvalidArgumentError("has no *.py at its top; name the file to run", field="archive")
    return found


def _zipped(files: Mapping[str, bytes]) -> bytes:
    # Stored, because what is large in it is compressed already; without a date, so that an order is the same again.
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as bundle:
        for name, data in files.items():
            bundle.writestr(zipfile.ZipInfo(name), data)
    return written.getvalue()
