"""Budgets of the gateway and of the path behind it, on two cores:

- a no-op route on our listener, whole stack, answers at least 0.9 of the requests per second of bare FastAPI on bare
  uvicorn with an equal route;
- ``POST /api/v1/inference`` with an instant model, 64 in flight, comes to at least 0.5 of that no-op route (goal 0.7):
  gateway, scheduler actor with its commit, node actor, model process and back;
- one such request in flight takes at most 4 ms more than the no-op route at the median;
- durable submissions by ``POST /api/v1/workloads``, 64 in flight, come at 2,000/s, with a p99 of at most 50 ms;
- ``up`` to ready takes at most 4 s more than bare ``ray.init`` and ``serve.run`` of an empty application.

    python -m pytest tests/bench/bench_gateway.py -m bench -s

Five alternating pairs each; the median counts. The load generator is wrk (``load.py``).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import pytest

from arcray.client import Client
from arcray.config import Settings, load
from arcray.runtime.bootstrap import up
from tests.bench.load import Measured, measure
from tests.bench.report import ROUNDS, check, row
from tests.ports import free_ports

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

BUDGET_NOOP = 0.9
BUDGET_INFERENCE = 0.5
BUDGET_ONE_MS = 4.0
BUDGET_SUBMISSIONS = 2_000
BUDGET_P99_MS = 50.0
BUDGET_UP_S = 4.0
IN_FLIGHT = 64
SECONDS = 3.0
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REQUEST = json.dumps({"modelId": "echo", "input": {"pixels": [0, 1, 2, 3, 4, 5, 6, 7]}})
# Nothing here runs containers, so that they wait: what is measured is what an acknowledgement costs.
SUBMISSION = json.dumps({"kind": "container", "image": "busybox", "command": ["true"]})

_ECHO = "def echo(value):\n    return value\n"

# Both print how long it took from the start of the process, imports included, and then end what they started.
_BARE_UP = """
import time; began = time.perf_counter()
import sys, ray
from ray import serve

class Empty:
    async def __call__(self): return "empty"

ray.init(address="local", include_dashboard=True, num_cpus=2, object_store_memory=10**8, _temp_dir=sys.argv[1])
serve.start(proxy_location="HeadOnly", http_options={"port": int(sys.argv[2])})
serve.run(serve.deployment(Empty, ray_actor_options={"num_cpus": 0}).bind())
print("took", time.perf_counter() - began, flush=True)
serve.shutdown(); ray.shutdown()
"""

_OUR_UP = """
import time; began = time.perf_counter()
import json, sys
from arcray.config import Settings
from arcray.runtime.bootstrap import up

settings = Settings.model_validate_json(sys.argv[2])
arcray = up(settings, ray_options={"num_cpus": 2, "object_store_memory": 10**8, "_temp_dir": sys.argv[1]})
print("took", time.perf_counter() - began, flush=True)
arcray.down()
"""


def settings_in(directory: Path) -> Settings:
    http, grpc, serve = free_ports(3)
    return load(
        None,
        state_dir=directory / "state",
        gateway={"http_ports": [http], "grpc_port": grpc, "serve_port": serve, "drain_s": 1.0},
        node={"models": {"python_path": [directory], "max_concurrency": 256}, "containers": {"enabled": "never"}},
        scheduler={"max_pending": 10_000_000},  # submissions wait here, more than the default lets wait
        log_level="WARNING",
    )


@contextmanager
def a_directory() -> Iterator[Path]:
    """A directory whose path is short enough for Ray's sockets."""
    directory = Path(tempfile.mkdtemp(prefix="arcray-", dir="/tmp"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def bare_server() -> Iterator[str]:
    """Bare FastAPI on bare uvicorn; yields its URL."""
    (port,) = free_ports(1)
    process = subprocess.Popen([sys.executable, HERE / "bare_http.py", str(port)])
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@contextmanager
def our_server(directory: Path) -> Iterator[str]:
    """A whole arcray with the instant model loaded; yields its URL."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    (directory / "bench_models.py").write_text(_ECHO)
    options = {"num_cpus": 2, "object_store_memory": 10**8, "_temp_dir": str(directory / "ray")}
    arcray = up(settings_in(directory), dashboard=False, ray_options=options)
    try:
        with Client(arcray.url) as client:
            client.register_model("echo", "python", source="bench_models:echo")
            client.wait_model("echo")
        yield arcray.url
    finally:
        arcray.down()


def test_the_stack_and_the_path_cost_little() -> None:
    bare: list[float] = []
    noop: list[float] = []
    inference: list[float] = []
    noop_ratio: list[float] = []
    inference_ratio: list[float] = []
    more_ms: list[float] = []
    loads: dict[str | None, list[Measured]] = {SUBMISSION: [], None: []}
    with a_directory() as directory, bare_server() as theirs, our_server(directory) as ours:
        route = f"{ours}/api/v1/inference"
        for url in (f"{theirs}/healthz", f"{ours}/healthz"):
            measure(url, connections=IN_FLIGHT, seconds=1.0)
        measure(route, connections=IN_FLIGHT, seconds=2.0, body=REQUEST)
        for pair in range(ROUNDS):
            order = [f"{theirs}/healthz", f"{ours}/healthz"]
            if pair % 2:
                order.reverse()
            found = {url: measure(url, connections=IN_FLIGHT, seconds=SECONDS) for url in order}
            asked = measure(route, connections=IN_FLIGHT, seconds=SECONDS, body=REQUEST)
            alone = measure(f"{ours}/healthz", connections=1, seconds=1.0)
            one = measure(route, connections=1, seconds=1.0, body=REQUEST)
            bare.append(found[f"{theirs}/healthz"].per_s)
            noop.append(found[f"{ours}/healthz"].per_s)
            inference.append(asked.per_s)
            noop_ratio.append(noop[-1] / bare[-1])
            inference_ratio.append(asked.per_s / noop[-1])
            more_ms.append(one.p50_ms - alone.p50_ms)
        # After the requests, because what is submitted here stays and waits.
        for pair in range(ROUNDS):
            bodies = [SUBMISSION, None]
            if pair % 2:
                bodies.reverse()
            for body in bodies:
                url = f"{ours}/healthz" if body is None else f"{ours}/api/v1/workloads"
                loads[body].append(measure(url, connections=IN_FLIGHT, seconds=SECONDS, body=body))
    check(
        [
            row("no-op on our listener, 64 in flight", noop, "/s", better="higher", bare=bare),
            row("  of bare FastAPI on uvicorn", noop_ratio, "x", better="higher", budget=BUDGET_NOOP),
            row("inference, instant model, 64 in flight", inference, "/s", better="higher", bare=noop),
            row("  of our no-op (goal 0.7)", inference_ratio, "x", better="higher", budget=BUDGET_INFERENCE),
            row("  one in flight, more than a no-op", more_ms, "ms", better="lower", budget=BUDGET_ONE_MS),
            row(
                "durable submission, 64 in flight",
                [each.per_s for each in loads[SUBMISSION]],
                "/s",
                better="higher",
                budget=BUDGET_SUBMISSIONS,
                bare=[each.per_s for each in loads[None]],
            ),
            row(
                "  p99, beside the no-op route's",
                [each.p99_ms for each in loads[SUBMISSION]],
                "ms",
                better="lower",
                budget=BUDGET_P99_MS,
                bare=[each.p99_ms for each in loads[None]],
            ),
        ]
    )


def test_up_takes_little_more_than_ray_and_serve_alone() -> None:
    bare: list[float] = []
    ours: list[float] = []
    for pair in range(ROUNDS):
        runs = [(bare, _start_bare), (ours, _start_ours)]
        if pair % 2:
            runs.reverse()
        for values, start in runs:
            with a_directory() as directory:
                values.append(start(directory))
    more = [mine - theirs for mine, theirs in zip(ours, bare, strict=True)]
    check(
        [
            row("up to ready", ours, "s", better="lower", bare=bare),
            row("  more than bare Ray and Serve", more, "s", better="lower", budget=BUDGET_UP_S),
        ]
    )


def _start_bare(directory: Path) -> float:
    return _timed([_BARE_UP, str(directory / "ray"), str(free_ports(1)[0])])


def _start_ours(directory: Path) -> float:
    return _timed([_OUR_UP, str(directory / "ray"), settings_in(directory).model_dump_json()])


def _timed(program: list[str]) -> float:
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    began = perf_counter()
    ran = subprocess.run(
        [sys.executable, "-c", *program], check=False, capture_output=True, text=True, timeout=180, env=environment
    )
    took = [line.removeprefix("took ") for line in ran.stdout.splitlines() if line.startswith("took ")]
    assert took, f"nothing started in {perf_counter() - began:.0f} s: {ran.stderr[-2000:]}"
    return float(took[0])
