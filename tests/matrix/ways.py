"""The rows of the matrix: ways to submit work, each by the words of its protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import httpx
from websockets.sync.client import ClientConnection, connect

from arcray.client import WorkOptions
from examples.hivemind.pool import Pool
from tests.engine_fixtures import IMAGE
from tests.matrix.kinds import Offer
from tests.matrix.stage import MODEL, PROGRAM, SCRIPT, Stage

__all__ = ["WAYS", "Asked", "Handed", "Question", "Way"]

PATIENCE_S: Final = 60.0
_LIVE: Final = ("PENDING", "RUNNING")


class Handed(Protocol):
    """Work that was handed in, as who did it sees it."""

    def work_id(self) -> str | None:
        """Its id in the cluster; None while it is not there."""

    def output(self) -> str:
        """What it wrote, once it has ended well."""

    def refusal(self) -> str:
        """What is said of work that no node takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to submit work.

    Args:
        needs: what a node must offer for it.
        hand_in: hands work of a name in, for the time of a block.
    """

    facade: str
    name: str
    needs: Offer
    hand_in: Callable[[Stage, str], AbstractContextManager[Handed]]


class _Rest:
    def __init__(self, stage: Stage, work_id: str) -> None:
        self._stage = stage
        self._id = work_id

    def work_id(self) -> str:
        return self._id

    def output(self) -> str:
        done = self._stage.client.wait(self._id, timeout_s=PATIENCE_S)
        assert done.succeeded, done.message
        return self._stage.client.logs(self._id).strip()

    def refusal(self) -> str:
        return str(self._stage.client.explain(self._id)["sentence"])


@contextmanager
def _program(stage: Stage, name: str) -> Iterator[Handed]:
    work = stage.client.submit_program(PROGRAM, options=WorkOptions(name=name))
    try:
        yield _Rest(stage, work.id)
    finally:
        stage.client.stop(work.id)


@contextmanager
def _container(stage: Stage, name: str) -> Iterator[Handed]:
    options = WorkOptions(name=name)
    work = stage.client.submit_container(IMAGE, command=["sh", "-c"], args=[SCRIPT], options=options)
    try:
        yield _Rest(stage, work.id)
    finally:
        stage.client.stop(work.id)


class _Task:
    """A HiveMind task."""

    def __init__(self, stage: Stage, pool: Pool, task_id: str) -> None:
        self._stage = stage
        self._pool = pool
        self._id = task_id

    def work_id(self) -> str | None:
        return next((work.id for work in self._stage.client.workloads() if work.name == self._id), None)

    def output(self) -> str:
        def ended() -> Any:
            polled = self._poll()
            return polled if polled.status not in _LIVE else None

        polled = self._stage.cluster.until(ended, f"{self._id} has ended")
        assert polled.status == "COMPLETED", polled
        return "\n".join(polled.output)

    def refusal(self) -> str:
        def told() -> str | None:
            polled = self._poll()
            assert polled.status == "PENDING", polled
            return polled.message or None

        return self._stage.cluster.until(told, f"it is told why {self._id} waits")

    def _poll(self) -> Any:
        return self._pool.call("MasterNodeService", "PollTaskStatus", task_id=self._id)


@contextmanager
def _hivemind(stage: Stage, name: str) -> Iterator[Handed]:
    with Pool(f"127.0.0.1:{stage.cluster.settings.gateway.grpc_port}") as pool:
        user = pool.user("matrix")
        user.upload(name, PROGRAM.encode())
        task = _Task(stage, pool, name)
        try:
            yield task
        finally:
            stage.client.stop(stage.cluster.until(task.work_id, f"{name} is there"))


class _PoolTask:
    """A task of the Resource Pool."""

    def __init__(self, stage: Stage, socket: ClientConnection, command: str) -> None:
        self._stage = stage
        self._socket = socket
        self._command = command

    def work_id(self) -> str | None:
        live = (work for work in self._stage.client.workloads() if not work.phase.terminal)
        return next((work.id for work in live if work.name == self._command), None)

    def output(self) -> str:
        result = self._result()
        assert result["success"], result
        return str(result["result"])

    def refusal(self) -> str:
        result = self._result()
        assert not result["success"], result
        return str(result["error"])

    def _result(self) -> Any:
        while (message := json.loads(self._socket.recv(timeout=PATIENCE_S)))["type"] != "task_result":
            pass
        return message["result"]


def _pool(command: str) -> Callable[[Stage, str], AbstractContextManager[Handed]]:
    @contextmanager
    def hand_in(stage: Stage, name: str) -> Iterator[Handed]:
        task = {"id": name, "requirements": {"cpu": 10, "memory": 64}, "data": {"command": command, "input": ""}}
        with connect(f"{stage.cluster.url.replace('http', 'ws')}/ws") as socket:
            socket.send(json.dumps({"type": "task_submit", "task": task}))
            yield _PoolTask(stage, socket, command)

    return hand_in


class Asked(Protocol):
    """A model, as who asks it sees it."""

    def answer(self) -> tuple[str, int | None]:
        """Asks; returns the node that answered, and the process there."""

    def refusals(self) -> Sequence[Any]:
        """Returns why no node answers, as ``explain`` has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A way to have a model answer.

    Args:
        ask: makes ready to ask, under a name, for the time of a block.
        filter: what keeps it off nodes that load no models.
    """

    facade: str
    name: str
    ask: Callable[[Stage, str], AbstractContextManager[Asked]]
    filter: str
    needs: Offer = Offer.MODEL


class _RestModel:
    def __init__(self, stage: Stage, model: str) -> None:
        self._stage = stage
        self._model = model

    def answer(self) -> tuple[str, int | None]:
        self._stage.client.wait_model(self._model, timeout_s=PATIENCE_S)
        answer = self._stage.client.infer(self._model, {"x": [1, 2]})
        assert answer.output == {"x": [1, 2]}
        return answer.node_id, answer.pid

    def refusals(self) -> Sequence[Any]:
        (server,) = self._stage.client.model(self._model).raw["servers"]
        explained = self._stage.cluster.until(
            lambda: self._stage.client.explain(server["id"])["refusals"], "the copy is refused"
        )
        return list(explained)


@contextmanager
def _model(stage: Stage, name: str) -> Iterator[Asked]:
    stage.client.register_model(name, "python", source="cluster_models:echo")
    try:
        yield _RestModel(stage, name)
    finally:
        stage.client.remove_model(name)


class _Inference:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def answer(self) -> tuple[str, int | None]:
        body = self._post(200)
        assert (body["status"], body["output"]) == ("completed", {"x": [1, 2]})
        return body["targetNodeId"], body["servedBy"]["pid"]

    def refusals(self) -> Sequence[Any]:
        body = self._post(503)
        assert body["code"] == "NO_CANDIDATES"
        return list(body["explanation"]["refusals"])

    def _post(self, status: int) -> Any:
        body = {"modelId": MODEL, "input": {"x": [1, 2]}}
        answer = httpx.post(f"{self._stage.cluster.url}/api/v1/inference", json=body, timeout=PATIENCE_S)
        assert answer.status_code == status, answer.text
        return answer.json()


@contextmanager
def _arcnet(stage: Stage, _name: str) -> Iterator[Asked]:
    yield _Inference(stage)


WAYS: Final[Sequence[Way | Question]] = (
    Way(facade="rest", name="program", needs=Offer.PROGRAM, hand_in=_program),
    Way(facade="rest", name="container", needs=Offer.CONTAINER, hand_in=_container),
    Question(facade="rest", name="model", ask=_model, filter="features"),
    Question(facade="arcnet", name="inference", ask=_arcnet, filter="model"),
    Way(facade="hivemind", name="task", needs=Offer.PROGRAM, hand_in=_hivemind),
    Way(facade="pool", name="program", needs=Offer.PROGRAM, hand_in=_pool("matrix-program")),
    Way(facade="pool", name="image", needs=Offer.CONTAINER, hand_in=_pool("matrix-image")),
)
