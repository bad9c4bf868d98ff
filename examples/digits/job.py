"""The main job's four parts, each done through the public client, each checked for what it promises."""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psutil

from arcray.client import Answer, Client, WorkOptions
from arcray.core.resources import Demand
from examples.digits import container
from examples.digits.listener import Listener
from examples.digits.promises import require
from examples.digits.report import Report, Row, percentiles, show_log

__all__ = ["MODEL", "Job", "Training"]

MODEL: Final = "digits"
"""What is trained and loaded."""

_TRAIN: Final = Path(__file__).with_name("train.py")
_MIN_REQUESTS: Final = 500
_MIN_ACCURACY: Final = 0.9
_IN_FLIGHT: Final = 16
_EVENTS_S: Final = 15.0  # what events may take to arrive after the last answer
_GREETING: Final = "hello from a container"


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What the program left.

    Args:
        pixels: the digits that it has never seen, 64 values each.
        labels: what they are.
        accuracy: what it measured on them itself.
    """

    workload_id: str
    pixels: list[list[float]]
    labels: list[int]
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timed:
    answer: Answer
    ms: float


class Job:
    """The main job on one arcray."""

    def __init__(self, client: Client, report: Report) -> None:
        self._client = client
        self._report = report
        self._names = {node.id: node.name for node in client.nodes()}

    def train(self) -> Training:
        """Trains a classifier as a program and fetches what it left."""
        options = WorkOptions(name=_TRAIN.name, demand=Demand(cpu_milli=1000, memory_bytes=2**30))
        work = self._client.submit_program(_TRAIN, options=options)
        show_log(self._client.follow_logs(work.id))
        work = self._client.wait(work.id, timeout_s=300)
        require(work.succeeded, f"training {work.phase}: {work.message}\n{self._client.logs(work.id)}")
        files = {file.path: self._client.result(work.id, file.path) for file in self._client.results(work.id)}
        heldout, metrics = json.loads(files["heldout.json"]), json.loads(files["metrics.json"])
        self._report.rows.append(
            Row(
                work=work.name,
                kind="program",
                node=self._node(work.node_id),
                pid=work.pid,
                result=f"{metrics['trained_on']} digits learnt; {', '.join(sorted(files))}",
                ms=work.duration_ms,
            )
        )
        return Training(
            workload_id=work.id, pixels=heldout["pixels"], labels=heldout["labels"], accuracy=metrics["accuracy"]
        )

    def load(self, training: Training) -> None:
        """Registers what was trained as a model and waits until a node answers for it."""
        began = time.perf_counter()
        self._client.register_model(
            MODEL,
            "onnx",
            from_workload=(training.workload_id, "model.onnx"),
            demand=Demand(cpu_milli=500, memory_bytes=2**28),
        )
        model = self._client.wait_model(MODEL, timeout_s=120)
        ms = (time.perf_counter() - began) * 1000
        self._report.rows.append(
            Row(
                work=MODEL,
                kind="model",
                node=self._node(model.ready_on[0]),
                pid=next(iter(model.pids), None),
                result="loaded, answers",
                ms=ms,
            )
        )

    def infer(self, training: Training) -> None:
        """Asks the model about every held-out digit while a WebSocket listens, and prints what came of it."""
        with Listener(self._client.url) as listener, ThreadPoolExecutor(_IN_FLIGHT) as pool:
            asked = list(pool.map(self._ask, training.pixels))
            unheard = listener.await_completed({one.answer.request_id for one in asked}, _EVENTS_S)
            events = listener.events()

        right = sum(_label(one.answer) == label for one, label in zip(asked, training.labels, strict=True))
        accuracy = right / len(asked)
        print(f"\naccuracy: {accuracy:.2f}")
        print(f"    {right} of {len(asked)} are right; the trainer itself measured {training.accuracy:.4f}")
        print(f"latency: {percentiles([one.ms for one in asked])} at the client with {_IN_FLIGHT} in flight,")
        print(f"    {percentiles([one.answer.latency_ms for one in asked])} at the gateway")
        self._check_servers(asked)
        print(f"events seen: {', '.join(f'{count} {kind}' for kind, count in events.items())}\n")

        require(len(asked) >= _MIN_REQUESTS, f"only {len(asked)} requests were routed")
        require(accuracy > _MIN_ACCURACY, f"accuracy {accuracy:.4f} is not above {_MIN_ACCURACY}")
        require(not unheard, f"the completion of {len(unheard)} requests was not heard on the WebSocket")

    def contain(self) -> None:
        """Runs a container if there is an engine, and shows what it printed."""
        missing = container.build()
        if missing:
            self._report.rows.append(Row(work="hello", kind="container", result=f"not run: {missing}"))
            return
        script = f"echo {_GREETING}; head -n 1 /proc/meminfo; ls -l /bin"
        work = self._client.submit_container(
            container.IMAGE,
            command=["/bin/busybox"],
            args=["sh", "-c", script],
            options=WorkOptions(name="hello", demand=Demand(cpu_milli=100, memory_bytes=64 * 2**20)),
        )
        work = self._client.wait(work.id, timeout_s=120)
        log = self._client.logs(work.id)
        show_log([log])
        require(work.succeeded, f"the container {work.phase}: {work.message}")
        require(_GREETING in log, "the container's log lacks what it printed")
        self._report.rows.append(
            Row(
                work=work.name,
                kind="container",
                node=self._node(work.node_id),
                pid=work.pid,
                result=f"exit code {work.exit_code}, {len(log.splitlines())} lines",
                ms=work.duration_ms,
            )
        )

    def _ask(self, pixels: list[float]) -> _Timed:
        began = time.perf_counter()
        answer = self._client.infer(MODEL, {"pixels": [pixels]})
        return _Timed(answer=answer, ms=(time.perf_counter() - began) * 1000)

    def _check_servers(self, asked: list[_Timed]) -> None:
        """Reports which processes answered, and that none of them is the gateway."""
        by_server: defaultdict[tuple[str, int | None], list[float]] = defaultdict(list)
        for one in asked:
            by_server[one.answer.node_id, one.answer.pid].append(one.ms)
        gateway = _listening_on(urlsplit(self._client.url).port)
        for (node_id, pid), times_ms in by_server.items():
            print(f"answered by: node {self._node(node_id)}, process {pid}")
            require(node_id in self._names, f"an answer names node {node_id}, which is not in the pool")
            require(pid is not None, "an answer does not name the process that gave it")
            require(pid not in gateway, f"the gateway, process {pid}, answered by itself")
            self._report.rows.append(
                Row(
                    work=MODEL,
                    kind="inference",
                    node=self._node(node_id),
                    pid=pid,
                    result=f"{len(times_ms)} answers, {_IN_FLIGHT} in flight",
                    ms=statistics.median(times_ms),
                )
            )
        print(f"gateway: process {', '.join(map(str, sorted(gateway))) or 'unknown, on another machine'}")

    def _node(self, node_id: str | None) -> str:
        return f"{self._names.get(node_id, '?')} {node_id[:8]}" if node_id else ""


def _label(answer: Answer) -> int:
    return int(answer.output["label"][0])


def _listening_on(port: int | None) -> set[int]:
    """Returns the processes of this machine that listen on a port: the kernel's word, not the gateway's."""
    return {
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
        and connection.laddr
        and connection.laddr.port == port
        and connection.pid
    }
