"""Budget of recovery, on two cores: from the kill of the scheduler to the first acknowledged submission at most 3 s,
with 100,000 finished and 1,000 live workloads in the database.

The scheduler is the real actor on an embedded Ray cluster; the submission is asked of it all the time by a gateway's
client, as requests would be. Beside the whole its parts are measured: until Ray has started a process and that has
imported what it needs, until the scheduler has recovered and serves, of which reading the rows, and until a client has
found the new line and its submission is on disk. The bare thing is an actor of Ray's that does nothing: from its kill
to its first answer. What the new process has spent of a processor by then says the same whatever else the machine does.

    python -m pytest tests/bench/bench_recovery.py -m bench -s

Five rounds; the median counts.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import RayError

from arcray.config import Settings, load
from arcray.control.journal import Journal, Records
from arcray.control.recovery import load as load_rows
from arcray.control.rows import Row, event_row, node_row, workload_row
from arcray.core import events as ev
from arcray.core.commands import Submitted, SubmitWorkload
from arcray.core.ids import ModelId, WorkloadId
from arcray.core.node import Health, LeaseTerms, Node
from arcray.core.quantity import CPU_MILLI, GIB
from arcray.core.resources import Allocation
from arcray.core.workload import Phase, Result, Workload
from arcray.drivers.ray_actor import NAMESPACE
from arcray.runtime.bootstrap import up
from arcray.runtime.policy import policy_of
from arcray.runtime.remote_plane import RemotePlane
from arcray.runtime.scheduler_handle import SCHEDULER, SchedulerHandle
from arcray.testing.builders import a_node, a_workload, an_inference, node_id
from arcray.wire.system import RandomIds, SystemClock
from tests.bench.report import ROUNDS, row, table
from tests.ports import free_ports

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

BUDGET_S = 3.0
FINISHED = 100_000
LIVE = 1_000
NODES = 100
BATCH = 5_000
CLOCK, IDS = SystemClock(), RandomIds()
SILENT = LeaseTerms(unhealthy_after_s=3600.0, lost_after_s=36000.0)  # these machines are rows only


async def fill(settings: Settings) -> None:
    """Writes the database as a scheduler would have left it: by rows, past the control plane."""
    journal = Journal(settings.sql_url)
    await journal.open()
    try:
        await journal.append(Records(nodes=[node_row(each) for each in machines()]))
        for first in range(0, FINISHED, BATCH):
            finished = [a_finished_workload(number) for number in range(first, first + BATCH)]
            await journal.append(Records(events=[end_of(each) for each in finished], workloads=rows(finished)))
        await journal.append(Records(workloads=rows([a_live_workload(number) for number in range(LIVE)])))
    finally:
        await journal.close()


def copy_of(settings: Settings) -> Path:
    return settings.state_dir / "copy.db"


def machines() -> list[Node]:
    now = CLOCK.now()
    return [
        Node(
            registration=a_node(number, driver="ray", address=f"arcray-node-{number}", lease=SILENT),
            epoch=1,
            health=Health.HEALTHY,
            joined_at=now,
            last_seen=now,
        )
        for number in range(NODES)
    ]


def rows(workloads: Sequence[Workload]) -> list[Row]:
    return [workload_row(workload) for workload in workloads]


def a_finished_workload(number: int) -> Workload:
    """Every second one is an inference request."""
    payload = an_inference(model_id=ModelId("echo"), input=b'{"x": [1, 2, 3]}') if number % 2 else None
    began = CLOCK.now() - timedelta(days=1) + timedelta(milliseconds=500 * number)
    return Workload(
        spec=a_workload(number, payload, id=WorkloadId(IDS.new()), created_at=began, name="finished"),
        phase=Phase.SUCCEEDED,
        attempt=1,
        node_id=node_id(number % NODES),
        result=Result(exit_code=0, duration_ms=12.0),
        placed_at=began,
        started_at=began,
        finished_at=began + timedelta(seconds=1),
    )


def end_of(workload: Workload) -> Row:
    assert workload.finished_at is not None
    return event_row(
        ev.WorkloadFinished(
            workload_id=workload.id,
            attempt=1,
            phase=workload.phase,
            message="",
            result=workload.result,
            node_id=workload.node_id,
            placed_at=workload.placed_at,
            started_at=workload.started_at,
            at=workload.finished_at,
            spec=None,
        )
    )


def a_live_workload(number: int) -> Workload:
    """Eight run on each machine, and the rest waits for a label that none has."""
    running = number < 8 * NODES
    now = CLOCK.now()
    selector = () if running else (("rack", "none"),)
    workload = Workload(spec=a_workload(number, id=WorkloadId(IDS.new()), created_at=now, selector=selector))
    if running:
        workload.phase, workload.attempt, workload.node_id = Phase.RUNNING, 1, node_id(number % NODES)
        workload.allocation = Allocation(cpu_milli=CPU_MILLI, memory_bytes=GIB)
        workload.placed_at = workload.started_at = now
    return workload


@contextmanager
def a_cluster() -> Iterator[Settings]:
    """An arcray on an embedded Ray cluster that begins with the filled database; Ray's sockets need a short path."""
    directory = Path(tempfile.mkdtemp(prefix="arcray-", dir="/tmp"))
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    http, grpc, serve = free_ports(3)
    settings = load(
        None,
        state_dir=directory / "state",
        gateway={"http_ports": [http], "grpc_port": grpc, "serve_port": serve, "drain_s": 1.0},
        node={"containers": {"enabled": "never"}},
        log_level="WARNING",
    )
    options = {"num_cpus": 2, "object_store_memory": 10**8, "_temp_dir": str(directory / "ray")}
    try:
        asyncio.run(fill(settings))
        shutil.copy(settings.state_dir / "arcray.db", copy_of(settings))
        arcray = up(settings, dashboard=False, ray_options=options)
        try:
            yield settings
        finally:
            arcray.down()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def a_bare_actor() -> Any:
    class Bare:  # local, so that it goes by value and its process does not import this module
        def pid(self) -> int:
            return os.getpid()

    remote: Any = ray.remote
    made = remote(num_cpus=0)(Bare).options(name="bare", namespace=NAMESPACE, lifetime="detached", max_restarts=-1)
    handle = made.remote()
    ray.get(handle.pid.remote())
    return handle


async def a_bare_round(handle: Any) -> tuple[float, float]:
    """Kills an actor that does nothing; returns the seconds until it answers, and those of a processor."""
    began = perf_counter()
    os.kill(await handle.pid.remote(), signal.SIGKILL)
    while True:
        try:
            pid = await handle.pid.remote()
        except RayError:
            await CLOCK.sleep(0.01)
        else:
            return perf_counter() - began, processor_s(pid)


def processor_s(pid: int) -> float:
    """Returns what a process has spent of a processor, in seconds."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


async def a_round(plane: RemotePlane) -> dict[str, float]:
    """Kills the scheduler and returns the seconds from then to each thing that follows."""
    handle: Any = await asyncio.to_thread(ray.get_actor, SCHEDULER, NAMESPACE)
    before = await handle.status.remote()
    assert before["ready"]
    killed_at = CLOCK.now()
    began = perf_counter()
    os.kill(before["pid"], signal.SIGKILL)
    (reply,) = await plane.submit([SubmitWorkload(spec=a_workload(id=IDS.new(), created_at=CLOCK.now()))])
    acknowledged = perf_counter() - began
    assert isinstance(reply, Submitted), reply
    after = await handle.status.remote()
    assert after["pid"] != before["pid"]
    started = (datetime.fromisoformat(after["began_at"]) - killed_at).total_seconds()
    recovered = after["recovery_s"]
    return {
        "started": started,
        "recovered": recovered,
        "found": acknowledged - started - recovered,
        "acknowledged": acknowledged,
        "processor": processor_s(after["pid"]),
    }


async def rounds(settings: Settings) -> list[dict[str, float]]:
    scheduler = SchedulerHandle(client="bench")
    plane = RemotePlane(scheduler, None, CLOCK, client="bench", give_up_s=60.0, answer_s=60.0)  # type: ignore[arg-type]  # no bytes are moved
    carrying = asyncio.create_task(plane.run())
    try:
        bare = await asyncio.to_thread(a_bare_actor)
        found = []
        for _ in range(ROUNDS):
            found.append(await a_round(plane))
            found[-1]["rows"] = await reading(settings)
            found[-1]["bare"], found[-1]["bare processor"] = await a_bare_round(bare)
        await asyncio.to_thread(ray.kill, bare)
        return found
    finally:
        carrying.cancel()


async def reading(settings: Settings) -> float:
    """Returns the seconds that a memory takes to be made of the rows, in this process."""
    # Of a copy, because opening the database would fence its scheduler off.
    journal = Journal(f"sqlite:///{copy_of(settings)}")
    await journal.open()
    began = perf_counter()
    cluster = await load_rows(journal, policy_of(settings), CLOCK.now())
    took = perf_counter() - began
    await journal.close()
    assert len(cluster.state.workloads) >= LIVE
    return took


def test_a_killed_scheduler_is_ready_again_soon() -> None:
    with a_cluster() as settings:
        found = asyncio.run(rounds(settings))
    parts = {
        "kill to a process that has imported (Ray)": "started",
        "recovery until it serves": "recovered",
        "  of which reading rows, alone": "rows",
        "clients find it, first submission on disk": "found",
    }
    report = [row(name, [each[key] for each in found], "s", better="lower") for name, key in parts.items()]
    whole = [each["acknowledged"] for each in found]
    spent, bare = [each["processor"] for each in found], [each["bare processor"] for each in found]
    report.append(row("processor of the new process until then", spent, "s", better="lower", bare=bare))
    bare = [each["bare"] for each in found]
    report.append(row("kill to first acknowledgement", whole, "s", better="lower", budget=BUDGET_S, bare=bare))
    print()
    print(table(report))
    assert all(each.met for each in report)
