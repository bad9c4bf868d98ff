"""Gateway and scheduler as two processes with a line between them, and no Ray: what a request passes, and nothing else.

    python -m tests.bench.stack scheduler DIRECTORY
    python -m tests.bench.stack gateway DIRECTORY HTTP_PORT GRPC_PORT NAME

What Ray does in production is to start and to find them; here the directory tells where the line is. One process each,
so that a profiler can be attached to either. More gateways may be started, which share the ports, and killed.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from arcray.config import Settings
from arcray.control.blobs import FsspecBlobs
from arcray.control.journal import Journal
from arcray.control.plane import Plane
from arcray.drivers.line import LineDriver
from arcray.gateway.asgi import Probes, compose
from arcray.gateway.listeners import HttpListener
from arcray.gateway.rpc import RpcListener
from arcray.runtime.actors import tune_interpreter
from arcray.runtime.line import Line, LineAddress, LineServer, Receiver, dial
from arcray.runtime.policy import answer_s, policy_of
from arcray.runtime.remote_plane import RemotePlane
from arcray.runtime.switchboard import Switchboard
from arcray.wire.attachments import DRIVER, Attachments
from arcray.wire.event_hub import EventHub
from arcray.wire.facade import FacadeContext, load_facades
from arcray.wire.identity import Authenticator
from arcray.wire.system import RandomIds, SystemClock
from tests.ports import free_ports

__all__ = ["Stack", "stack"]

_HERE = "bench"
_ADDRESS = "line"
_SETTINGS = "settings.json"
_PATIENCE_S = 30.0


class Stack:
    """The processes.

    Attributes:
        scheduler, gateway: process ids; of the first gateway.
    """

    def __init__(self, directory: Path) -> None:
        http, self.grpc_port = free_ports(2)
        self.url = f"http://127.0.0.1:{http}"
        self._directory = directory
        self._arguments = [str(http), str(self.grpc_port)]
        self._started: list[subprocess.Popen[bytes]] = []
        self.scheduler = self.gateway = 0

    def start(self) -> None:
        """Starts a scheduler and a gateway."""
        self.scheduler = self._start("scheduler", "scheduler").pid
        self.gateway = self.start_gateway().pid

    def start_gateway(self) -> subprocess.Popen[bytes]:
        """Starts another gateway, and waits until it listens at the same ports."""
        name = f"gateway-{len(self._started)}"
        return self._start(name, "gateway", *self._arguments, name)

    def _start(self, sign: str, role: str, *arguments: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "tests.bench.stack", role, str(self._directory), *arguments]
        process = subprocess.Popen(words, cwd=Path(__file__).parents[2])
        self._started.append(process)
        _wait_for(self._directory / sign, process)
        return process

    def kill(self) -> None:
        """Ends what lives."""
        for process in reversed(self._started):
            process.kill()
            process.wait()

    def processor_s(self) -> tuple[float, float]:
        """Returns what scheduler and gateway have used so far, in seconds of processor."""
        return _processor_s(self.scheduler), _processor_s(self.gateway)


@contextmanager
def stack(directory: Path, **settings: Any) -> Iterator[Stack]:
    """Runs both for the time of the block.

    Args:
        settings: sections, beside what benches need.
    """
    (directory / _SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    made = Stack(directory)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def _wait_for(sign: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not sign.exists():
        assert process.poll() is None, f"the {sign.name} ended"
        assert time.monotonic() < deadline, f"the {sign.name} did not start"
        time.sleep(0.02)


def _processor_s(pid: int) -> float:
    """Returns what a process has used, by the kernel's count in hundredths of a second."""
    user, system = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / 100


def _settings(directory: Path) -> Settings:
    # Nothing runs what is submitted, and the default of 100,000 that may wait is reached within a run.
    scheduler = {"max_pending": 10_000_000}
    given = json.loads((directory / _SETTINGS).read_text(encoding="utf-8"))
    return Settings.model_validate({"state_dir": directory, "scheduler": scheduler, **given})


def _blobs(settings: Settings) -> FsspecBlobs:
    return FsspecBlobs(settings.blob_place, max_blob_bytes=settings.blobs.max_blob_bytes)


async def _scheduler(directory: Path) -> None:
    settings = _settings(directory)
    board = Switchboard()
    plane = Plane(
        policy=policy_of(settings),
        journal=Journal(settings.sql_url),
        drivers={DRIVER: LineDriver(board)},
        blobs=_blobs(settings),
        clock=SystemClock(),
        settings=settings.scheduler,
        retention=settings.retention,
    )
    await plane.start()
    serving = asyncio.create_task(board.run(plane))
    await asyncio.sleep(0)
    address = await LineServer(board.accept).start("127.0.0.1", _HERE)
    (directory / _ADDRESS).write_bytes(pickle.dumps(address))
    tune_interpreter()
    (directory / "scheduler").touch()
    await serving


class _Dialer:
    def __init__(self, directory: Path, name: str) -> None:
        self._address: LineAddress = pickle.loads((directory / _ADDRESS).read_bytes())
        self._name = name

    async def dial(self, receiver: Receiver) -> Line:
        return await dial(self._address, receiver, name=self._name, ray_node_id=_HERE)


async def _gateway(directory: Path, http: int, grpc: int, name: str) -> None:
    settings = _settings(directory)
    clock, attachments = SystemClock(), Attachments(name)
    plane = RemotePlane(
        _Dialer(directory, name),
        _blobs(settings),
        clock,
        client=name,
        give_up_s=settings.gateway.call_timeout_s,
        answer_s=answer_s(settings),
        orders=attachments.take,
    )
    hub = EventHub(plane, clock)
    context = FacadeContext(
        plane=plane,
        settings=settings,
        clock=clock,
        ids=RandomIds(),
        authenticator=Authenticator(settings.auth, plane, hub, clock),
        events=hub,
        attachments=attachments,
    )
    facades = load_facades(settings.facades)
    endpoints = [facade.open(context) for facade in facades]
    app = compose(
        facades,
        endpoints,
        Probes(version="bench", ready=_ready, metrics=_metrics),
        max_body_bytes=settings.gateway.max_body_bytes,
    )
    listeners: list[HttpListener | RpcListener] = [
        HttpListener(app, settings.gateway, http),
        RpcListener([each.grpc for each in endpoints if each.grpc is not None], settings.gateway, grpc),
    ]
    background = [
        plane.run,
        hub.run,
        context.authenticator.run,
        *(each.run for each in endpoints if each.run is not None),
    ]
    async with asyncio.TaskGroup() as group:
        for part in background:
            group.create_task(part())
        for listener in listeners:
            await listener.start()
        tune_interpreter()
        (directory / name).touch()


async def _ready() -> None:
    """It is."""


async def _metrics(_: Request) -> Response:
    return PlainTextResponse()  # its processor is measured from outside


if __name__ == "__main__":
    match sys.argv[1:]:
        case "scheduler", where:
            uvloop.run(_scheduler(Path(where)))
        case "gateway", where, http, grpc, name:
            uvloop.run(_gateway(Path(where), int(http), int(grpc), name))
        case _:
            sys.exit("which process?")
