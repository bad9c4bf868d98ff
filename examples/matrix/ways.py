"""Ways to submit work, each by the words of its protocol; what came of it as a few words for people.

A machine that cannot run something never will, so a ``RefusedError`` says why, as ``explain`` does, and is no fault.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from websockets.sync.client import connect

from arcray.client import Client, RetryPolicy, WorkloadInfo, WorkOptions
from arcray.core.errors import NoCandidatesError
from arcray.core.resources import Demand
from examples.digits import container
from examples.digits.promises import require
from examples.hivemind.pool import User

__all__ = ["LINES", "LINES_COMMAND", "WAYS", "Cast", "RefusedError", "Way"]

_PRIMES: Final = """
sieve = bytearray([1]) * 10_000
for number in range(2, 100):
    sieve[number * number :: number] = bytes(len(range(number * number, 10_000, number)))
print(sum(sieve[2:]), "primes")
"""
LINES_COMMAND: Final = "count-lines"
"""Name of the program of the Resource Pool that is an image."""

LINES: Final = "busybox seq 1000 | busybox wc -l | busybox sed 's/$/ lines/'"
_SMALL: Final = Demand(cpu_milli=100, memory_bytes=64 * 2**20)
_ONCE: Final = RetryPolicy(attempts=1)  # where no machine answers, none will a second later
_LONGEST_S: Final = 60.0
_LOOK_S: Final = 0.1
_FOR_EVER: Final = "features"  # the filter that no other time or place would change


class RefusedError(Exception):
    """No machine that takes new work can run this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """Who submits, and what is there.

    Args:
        model: that is loaded where models can be.
        trained_by: the program whose file it is.
        digit: what to ask it about.
    """

    client: Client
    user: User
    model: str
    trained_by: str
    digit: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to submit work.

    Args:
        submit: does so, waits, and returns the node and what came of it; raises ``RefusedError``.
        missing: what this machine lacks for it; "" where nothing is.
    """

    protocol: str
    work: str
    submit: Callable[[Cast], tuple[str, str]]
    missing: Callable[[], str] = str


def _program(cast: Cast) -> tuple[str, str]:
    work = cast.client.submit_program(_PRIMES, options=WorkOptions(name="primes", demand=_SMALL))
    return _ended(cast, work.id)


def _container(cast: Cast) -> tuple[str, str]:
    options = WorkOptions(name="lines", demand=_SMALL)
    command = ["/bin/busybox", "sh", "-c"]
    work = cast.client.submit_container(container.IMAGE, command=command, args=[LINES], options=options)
    return _ended(cast, work.id)


def _model(cast: Cast) -> tuple[str, str]:
    name = f"{cast.model}-{secrets.token_hex(3)}"
    client = cast.client
    client.register_model(name, "onnx", from_workload=(cast.trained_by, "model.onnx"), demand=_SMALL)
    try:
        (copy,) = client.model(name).raw["servers"]
        deadline = time.monotonic() + _LONGEST_S
        while not (model := client.model(name)).ready_on:
            _raise_if_refused(cast, client.get(copy["id"]))
            require(time.monotonic() < deadline, f"{name} is not loaded in {_LONGEST_S:g} s")
            time.sleep(_LOOK_S)
        return model.ready_on[0], "loaded"
    finally:
        client.remove_model(name)


def _inference(cast: Cast) -> tuple[str, str]:
    try:
        with Client(cast.client.url, retry=_ONCE) as client:
            answer = client.infer(cast.model, {"pixels": [cast.digit]})
    except NoCandidatesError as error:
        raise RefusedError(_reason(error.details["explanation"]["refusals"])) from error
    return answer.node_id, f"a {answer.output['label'][0]}"


def _task(cast: Cast) -> tuple[str, str]:
    task_id = f"{cast.user.name}/{secrets.token_hex(3)}"
    cast.user.upload(task_id, _PRIMES.encode(), cpu_score=10)
    (work,) = [work for work in cast.client.workloads() if work.name == task_id]
    node_id, _ = _ended(cast, work.id)
    status, lines = cast.user.poll(task_id)
    require(status == "COMPLETED", f"{task_id} is {status}")
    return node_id, " ".join(lines)


def _pool_task(command: str, text: str, shown: Callable[[str], str]) -> Callable[[Cast], tuple[str, str]]:
    def submit(cast: Cast) -> tuple[str, str]:
        task = {
            "id": secrets.token_hex(8),
            "type": "compute",
            "requirements": {"cpu": 10, "memory": 64},
            "data": {"command": command, "input": text},
        }
        with connect(f"{cast.client.url.replace('http', 'ws', 1)}/ws", proxy=None) as socket:
            socket.send(json.dumps({"type": "task_submit", "task": task}))
            while (message := json.loads(socket.recv(timeout=_LONGEST_S)))["type"] != "task_result":
                pass
        result: dict[str, Any] = message["result"]
        if not result["success"]:
            raise RefusedError(result["error"])
        newest = next(work for work in cast.client.workloads() if work.name == command)
        return newest.node_id or "", shown(result["result"])

    return submit


def _ended(cast: Cast, work_id: str) -> tuple[str, str]:
    """Returns where work ran and what it wrote, once it has ended well."""
    deadline = time.monotonic() + _LONGEST_S
    while True:
        work = cast.client.get(work_id)
        if work.phase.terminal:
            break
        _raise_if_refused(cast, work)
        require(time.monotonic() < deadline, f"{work.name} is {work.phase} after {_LONGEST_S:g} s: {work.message}")
        time.sleep(_LOOK_S)
    require(work.succeeded, f"{work.name} {work.phase}: {work.message}")
    return work.node_id or "", cast.client.logs(work_id).strip()


def _raise_if_refused(cast: Cast, work: WorkloadInfo) -> None:
    refusals = cast.client.explain(work.id)["refusals"] if work.phase == "pending" else ()
    if any(refusal["filter"] == _FOR_EVER for refusal in refusals):
        cast.client.stop(work.id)
        raise RefusedError(_reason(refusals))


def _reason(refusals: Sequence[Any]) -> str:
    """Returns what keeps work off the machine that takes any; the others are cordoned."""
    return "; ".join(refusal["reason"] for refusal in refusals if refusal["filter"] not in {"attached", "schedulable"})


def _sum(result: str) -> str:
    return f"sum {json.loads(result)['sum']}"


WAYS: Final[Sequence[Way]] = (
    Way(protocol="REST", work="program", submit=_program),
    Way(protocol="REST", work="container", submit=_container, missing=container.build),
    Way(protocol="REST", work="model", submit=_model),
    Way(protocol="ArcNet", work="inference", submit=_inference),
    Way(protocol="HiveMind", work="task", submit=_task),
    Way(protocol="Resource Pool", work="task", submit=_pool_task("process-data", "19 and 23", _sum)),
    Way(
        protocol="Resource Pool", work="image", submit=_pool_task(LINES_COMMAND, "", str.strip), missing=container.build
    ),
)
