from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from arcray.client import Client, RetryPolicy, WorkOptions
from arcray.core.errors import (
    ConflictError,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    UnavailableError,
)
from arcray.core.resources import Demand
from arcray.core.workload import Phase, Priority, RestartPolicy, RestartRule, VolumeMount

Step = Callable[[httpx.Request], httpx.Response]
WORKLOAD = {"id": "w1", "kind": "program", "phase": "pending", "nodeId": None}


class Pool:
    """A client whose server is a function."""

    def __init__(self, step: Step) -> None:
        self.requests: list[httpx.Request] = []
        self.slept_s = 0.0
        self._step = step
        self.client = Client(
            "http://pool/", transport=httpx.MockTransport(self._answer), sleep=self._sleep, retry=RetryPolicy()
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._step(request)

    def _sleep(self, seconds: float) -> None:
        self.slept_s += seconds

    def sent(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.requests[-1].content)
        return body


def answering(body: object, status: int = 200) -> Pool:
    return Pool(lambda _request: httpx.Response(status, json=body))


def test_program_is_submitted_from_text() -> None:
    pool = answering(WORKLOAD, 201)
    workload = pool.client.submit_program("print(1)", args=["a"], stdin="in", env={"K": "v"})
    assert workload.phase is Phase.PENDING
    assert pool.sent() == {
        "kind": "program",
        "args": ["a"],
        "source": "print(1)",
        "stdin": "in",
        "env": {"K": "v"},
    }
    assert pool.requests[0].url.path == "/api/v1/workloads"


def test_program_is_submitted_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text("print('ü')", encoding="utf-8")
    pool = answering(WORKLOAD, 201)
    pool.client.submit_program(path)
    assert pool.sent()["source"] == "print('ü')"


def test_archive_is_submitted_as_base64(tmp_path: Path) -> None:
    path = tmp_path / "project.zip"
    path.write_bytes(b"PK\x03\x04\xff")
    pool = answering(WORKLOAD, 201)
    pool.client.submit_program(path, entry_point="run.py")
    assert base64.b64decode(pool.sent()["archive"]) == b"PK\x03\x04\xff"
    assert pool.sent()["entryPoint"] == "run.py"


def test_every_submission_has_its_own_key() -> None:
    pool = answering(WORKLOAD, 201)
    pool.client.submit_program("1")
    pool.client.submit_program("1")
    first, second = (request.headers["Idempotency-Key"] for request in pool.requests)
    assert first != second


def test_options_are_spelled_as_the_api_does() -> None:
    pool = answering({**WORKLOAD, "kind": "container"}, 201)
    options = WorkOptions(
        name="train",
        demand=Demand(cpu_milli=1500, memory_bytes=512 * 2**20, gpus=1, gpu_memory_bytes=2**30),
        priority=Priority.CRITICAL,
        node_id="n1",
        restart=RestartPolicy(rule=RestartRule.ON_FAILURE, max_restarts=2),
        selector={"zone": "a"},
        max_duration_s=60,
    )
    volume = VolumeMount(source="/data", target="/in", read_only=True)
    pool.client.submit_container(
        "busybox", command=["sh"], args=["-c", "true"], ports=[80], volumes=[volume], options=options
    )
    assert pool.sent() == {
        "kind": "container",
        "image": "busybox",
        "command": ["sh"],
        "args": ["-c", "true"],
        "ports": [{"containerPort": 80}],
        "volumes": [{"source": "/data", "target": "/in", "readOnly": True}],
        "name": "train",
        "demand": {"cpu": 1.5, "memoryMb": 512, "gpus": 1, "gpuMemoryMb": 1024},
        "priority": "critical",
        "nodeId": "n1",
        "restartPolicy": {"rule": "on_failure", "maxRestarts": 2},
        "selector": {"zone": "a"},
        "maxDurationS": 60,
    }


def test_wait_ends_with_the_workload() -> None:
    phases = iter(["pending", "running", "succeeded"])
    pool = Pool(lambda _request: httpx.Response(200, json={**WORKLOAD, "phase": next(phases), "exitCode": 0}))
    workload = pool.client.wait("w1")
    assert workload.succeeded
    assert workload.exit_code == 0
    assert len(pool.requests) == 3


def test_wait_gives_up_at_its_time() -> None:
    pool = answering(WORKLOAD)
    with pytest.raises(DeadlineExceededError, match="workload w1"):
        pool.client.wait("w1", timeout_s=10)
    assert 10 <= pool.slept_s < 12


def test_all_pages_are_read() -> None:
    def page(request: httpx.Request) -> httpx.Response:
        offset, limit = int(request.url.params["offset"]), int(request.url.params["limit"])
        ids = [f"n{number}" for number in range(250)][offset : offset + limit]
        return httpx.Response(200, json={"nodes": [{"id": one} for one in ids], "total": 250})

    pool = Pool(page)
    assert [node.id for node in pool.client.nodes()] == [f"n{number}" for number in range(250)]
    assert len(pool.requests) == 3


def some_of(total: int) -> Callable[[httpx.Request], httpx.Response]:
    """Answers with pages of this many workloads; a cursor is the number of those before it."""

    def page(request: httpx.Request) -> httpx.Response:
        first = int(request.url.params.get("cursor", "0"))
        last = min(total, first + int(request.url.params["limit"]))
        following = str(last) if last < total else None
        listed = [{**WORKLOAD, "id": f"w{number}"} for number in range(first, last)]
        return httpx.Response(200, json={"workloads": listed, "total": None, "nextCursor": following})

    return page


def test_listing_stops_at_its_limit() -> None:
    pool = Pool(some_of(1000))
    assert [work.id for work in pool.client.workloads(limit=150)] == [f"w{number}" for number in range(150)]
    assert len(pool.requests) == 2
    assert Pool(some_of(1000)).client.workloads(limit=0) == []


@pytest.mark.parametrize(("total", "requests"), [(0, 1), (99, 1), (100, 1), (101, 2), (250, 3)])
def test_each_workload_comes_once_by_cursor(total: int, requests: int) -> None:
    pool = Pool(some_of(total))
    assert [work.id for work in pool.client.each_workload()] == [f"w{number}" for number in range(total)]
    assert len(pool.requests) == requests


def test_pages_are_asked_for_as_they_are_read() -> None:
    pool = Pool(some_of(1000))
    work = pool.client.each_workload(page=10)
    assert [next(work).id for _ in range(10)][-1] == "w9"
    assert len(pool.requests) == 1


def test_ids_are_quoted_in_paths() -> None:
    pool = answering({"name": "a/b", "format": "onnx"})
    pool.client.model("a/b")
    assert pool.requests[0].url.raw_path == b"/api/v1/models/a%2Fb"


def test_result_files_are_listed_and_read() -> None:
    def results(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/results"):
            return httpx.Response(200, json={"results": [{"path": "out/model.onnx", "sizeBytes": 3}]})
        return httpx.Response(200, content=b"abc")

    pool = Pool(results)
    (file,) = pool.client.results("w1")
    assert pool.client.result("w1", file.path) == b"abc"
    assert pool.requests[-1].url.path == "/api/v1/workloads/w1/results/out/model.onnx"


def test_logs_are_followed_to_the_end() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"epoch 1\nepo"
        yield b"ch 2\n"

    pool = Pool(lambda _request: httpx.Response(200, content=chunks()))
    assert "".join(pool.client.follow_logs("w1")) == "epoch 1\nepoch 2\n"
    assert pool.requests[0].url.params["follow"] == "true"


def test_logs_go_on_at_the_byte_where_a_connection_was_lost() -> None:
    log = "epoch 1\nfünf\n".encode()

    def until(end: int, start: int) -> Iterator[bytes]:
        yield log[start:end]
        raise httpx.RemoteProtocolError("peer closed connection")

    def step(request: httpx.Request) -> httpx.Response:
        start = int(request.url.params["offset"])
        if not start:
            return httpx.Response(200, content=until(10, start))  # within the second character
        return httpx.Response(503) if len(pool.requests) < 4 else httpx.Response(200, content=log[start:])

    pool = Pool(step)
    assert "".join(pool.client.follow_logs("w1")).encode() == log
    assert [request.url.params["offset"] for request in pool.requests] == ["0", "10", "10", "10"]
    assert pool.slept_s > 0


def test_logs_that_stay_lost_are_an_error_after_some_tries() -> None:
    pool = Pool(lambda _request: httpx.Response(503))
    with pytest.raises(UnavailableError):
        list(pool.client.follow_logs("w1"))
    assert 1 < len(pool.requests) < 20


def test_model_is_registered_from_a_program() -> None:
    pool = answering({"name": "digits", "format": "onnx", "readyOn": []}, 201)
    model = pool.client.register_model("digits", "onnx", from_workload=("w1", "model.onnx"))
    assert model.ready_on == ()
    assert pool.sent() == {
        "name": "digits",
        "format": "onnx",
        "replicas": 1,
        "fromWorkload": {"id": "w1", "path": "model.onnx"},
    }


def test_processes_of_a_models_copies_are_told() -> None:
    servers = [{"id": "a", "pid": 7}, {"id": "b", "pid": None}]
    pool = answering({"name": "m", "format": "onnx", "readyOn": ["n1"], "servers": servers})
    assert pool.client.model("m").pids == (7,)


def test_model_is_awaited_until_a_node_answers_for_it() -> None:
    states: Iterator[list[str]] = iter([[], [], ["n1"]])
    pool = Pool(lambda _request: httpx.Response(200, json={"name": "m", "format": "onnx", "readyOn": next(states)}))
    assert pool.client.wait_model("m").ready_on == ("n1",)


def test_model_whose_copies_have_ended_is_awaited_no_longer() -> None:
    copies: Iterator[list[dict[str, str]]] = iter([[{"id": "w1"}], []])
    ended = {"id": "w1", "kind": "model", "phase": "failed", "message": "no module named m"}

    def step(request: httpx.Request) -> httpx.Response:
        if "/models/" in request.url.path:
            return httpx.Response(200, json={"name": "m", "format": "python", "readyOn": [], "servers": next(copies)})
        return httpx.Response(200, json=ended)

    with pytest.raises(ConflictError, match="m is not loaded: failed, no module named m"):
        Pool(step).client.wait_model("m")


def test_model_whose_copies_were_another_accounts_is_awaited_no_longer() -> None:
    copies: Iterator[list[dict[str, None]]] = iter([[{"id": None}], []])

    def step(request: httpx.Request) -> httpx.Response:
        assert "/models/" in request.url.path
        return httpx.Response(200, json={"name": "m", "format": "python", "readyOn": [], "servers": next(copies)})

    with pytest.raises(ConflictError, match="m is not loaded: its copies have ended"):
        Pool(step).client.wait_model("m")


def test_answer_names_the_process_that_gave_it() -> None:
    pool = answering(
        {
            "requestId": "r",
            "status": "completed",
            "targetNodeId": "n1",
            "modelId": "m",
            "latencyMs": 1.5,
            "output": [7],
            "servedBy": {"pid": 42},
        }
    )
    answer = pool.client.infer("m", [1, 2], priority=Priority.BACKGROUND)
    assert (answer.output, answer.node_id, answer.pid, answer.latency_ms) == ([7], "n1", 42, 1.5)
    assert pool.sent() == {"modelId": "m", "input": [1, 2], "priority": "background", "contextWindowTokens": 1}


ANSWER = {"requestId": "r", "status": "completed", "targetNodeId": "n1", "modelId": "m", "latencyMs": 1}


def test_request_sent_again_after_a_lost_connection_is_the_same_request() -> None:
    def step(request: httpx.Request) -> httpx.Response:
        if len(pool.requests) == 1:
            raise httpx.ReadError("lost", request=request)
        return httpx.Response(200, json=ANSWER)

    pool = Pool(step)
    pool.client.infer("m")
    first, second = (request.headers["Idempotency-Key"] for request in pool.requests)
    assert first == second


def test_rejected_request_is_asked_anew() -> None:
    keys: list[str] = []

    def step(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) == 1:
            return httpx.Response(503, json={"code": "NO_CANDIDATES", "error": "none"}, headers={"Retry-After": "1"})
        return httpx.Response(200, json=ANSWER)

    Pool(step).client.infer("m")
    assert len(set(keys)) == 2


def test_server_that_is_no_arcray_is_an_error() -> None:
    with pytest.raises(InternalError, match="not as arcray does"):
        Pool(lambda _request: httpx.Response(200, text="<html>")).client.nodes()


def test_source_that_is_no_text_is_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "latin.py").write_bytes(b'print("\xe9")')
    with pytest.raises(InvalidArgumentError, match="not UTF-8"):
        Pool(lambda _request: httpx.Response(500)).client.submit_program(tmp_path / "latin.py")
