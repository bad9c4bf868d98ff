"""Orders to what a worker is sent, and the ids by which it answers.

The wire has a task's id and its bytes, and nothing else. A program that needs no more goes as it was uploaded, byte for
byte. One that has arguments, variables, standard input or an entry point of its own, because it came by another
protocol, goes in an archive whose ``main.py`` arranges them and then runs it: any worker can do that. What becomes of
containers, ``containers`` says.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Final, assert_never

from arcray.core.errors import InvalidArgumentError, UnsupportedError
from arcray.core.ids import WorkloadId
from arcray.core.orders import StartWorkload
from arcray.core.workload import Container, ModelServer, Payload, Program
from arcray.facades.hivemind.containers import files_of_container
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.tasks import FOREIGN_WORK, workload_id_of
from arcray.facades.hivemind.uploads import TASK_BYTES
from arcray.wire.archives import entry_point_among

__all__ = ["execution_of", "task_id_of", "workload_of"]

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


def task_id_of(workload_id: WorkloadId, payload: Payload) -> str:
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
    return f"arcray-{workload_id}"


def workload_of(task_id: str) -> WorkloadId:
    """Returns the workload that a worker means by an id: a task, or work of another protocol.

    Whoever takes a worker's word must see that the workload runs on that worker, under that id: the id alone shows
    nothing.

    Raises:
        InvalidArgumentError: no task can be called that.
    """
    foreign = FOREIGN_WORK.fullmatch(task_id)
    return WorkloadId(foreign[1]) if foreign else workload_id_of(task_id)


def execution_of(order: StartWorkload, code: bytes, stdin: bytes = b"") -> pool.ExecuteTaskRequest:
    """Returns what a worker is asked to run.

    Args:
        code: of the program's blob.
        stdin: what it reads; only where its payload has some.

    Raises:
        InvalidArgumentError: it is an archive with no file to run.
        UnsupportedError: it is what the wire cannot say, or too large for it with what it needs.
    """
    payload = order.payload
    task_id = task_id_of(order.workload_id, payload)
    match payload:
        case Program():
            data = code if _goes_as_it_is(payload, task_id) else _packed(payload, code, stdin)
        case Container():
            data = _zipped(files_of_container(order, payload))
        case ModelServer():
            raise UnsupportedError("a worker loads no models", field="payload")
        case _:
            assert_never(payload)
    if len(data) > TASK_BYTES:
        raise UnsupportedError(f"has {len(data)} bytes with what it needs, at most {TASK_BYTES}", field="payload")
    return pool.ExecuteTaskRequest(task_id=task_id, task_data=data)


def _goes_as_it_is(payload: Program, task_id: str) -> bool:
    told = set(payload.env) - {(_TASK_ID, task_id)}  # a worker sets that by itself
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
        with zipfile.ZipFile(io.BytesIO(code)) as bundle:
            names = {name for name in bundle.namelist() if "/" not in name}
    except (zipfile.BadZipFile, ValueError) as error:
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
