"""Gateway and scheduler as two processes with a line between them, and no Ray: what a request passes, and nothing else.

    python -m tests.bench.stack scheduler DIRECTORY
    python -m tests.bench.stack gateway DIRECTORY HTTP_PORT GRPC_PORT

What Ray does in production is to start and to find them; here the directory tells where the line is. One process each,
so that a profiler can be attached to either.
"""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from arcray.config import Settings
from arcray.control.blobs import FsspecBlobs
from arcray.control.journal import Journal
from arcray.control.plane import Plane
from arcray.gateway.asgi import Probes, compose
from arcray.gateway.listeners import HttpListener
from arcray.gateway.rpc import RpcListener
from arcray.runtime.actors import tune_interpreter
from arcray.runtime.line import Line, LineAddress, LineServer, Receiver, dial
from arcray.runtime.policy import answer_s, policy_of
from arcray.runtime.remote_plane import RemotePlane
from arcray.runtime.switchboard import Switchboard
from arcray.wire.attachments import Attachments
from arcray.wire.event_hub import EventHub
from arcray.wire.facade import FacadeContext, load_facades
from arcray.wire.identity import Authenticator
from arcray.wire.system import RandomIds, SystemClock
from tests.ports import free_ports

__all__ = ["Stack", "stack"]

_HERE = "bench"
_ADDRESS = "line"
_PATIENCE_S = 30.0


class Stack:
    """Both processes."""

    def __init__(self, url: str, grpc_port: int, scheduler: int, gateway: int) -> None:
        self.url = url
        self.grpc_port = grpc_port
        self.scheduler = scheduler
        self.gateway = gateway

    def processor_s(self) -> tuple[float, float]:
        """Returns what scheduler and gateway have used so far, in seconds of processor."""
        return _processor_s(self.scheduler), _processor_s(self.gateway)


@contextmanager
def stack(directory: Path) -> Iterator[Stack]:
    """Runs both for the time of the block."""
    http, grpc = free_ports(2)
    started: list[subprocess.Popen[bytes]] = []
    try:
        for arguments in (["scheduler", str(directory)], ["gateway", str(directory), str(http), str(grpc)]):
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.bench.stack", *arguments], cwd=Path(__file__).parents[2]
            )
            started.append(process)
            _wait_for(directory / arguments[0], process)
        yield Stack(f"http://127.0.0.1:{http}", grpc, started[0].pid, started[1].pid)
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


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
    return Settings.model_validate({"state_dir": directory, "scheduler": scheduler})


def _blobs(settings: Settings) -> FsspecBlobs:
    return FsspecBlobs(settings.blob_place, max_blob_bytes=settings.blobs.max_blob_bytes)


async def _scheduler(directory: Path) -> None:
    settings = _settings(directory)
    plane = Plane(
        policy=policy_of(settings),
        journal=Journal(settings.sql_url),
        drivers={},
        blobs=_blobs(settings),
        clock=SystemClock(),
        settings=settings.scheduler,
        retention=settings.retention,
    )
    await plane.start()
    board = Switchboard()
    serving = asyncio.create_task(board.run(plane))
    await asyncio.sleep(0)
    address = await LineServer(board.accept).start("127.0.0.1", _HERE)
    (directory / _ADDRESS).write_bytes(pickle.dumps(address))
    tune_interpreter()
    (directory / "scheduler").touch()
    await serving


class _Dialer:
    def __init__(self, directory: Path) -> None:
        self._address: LineAddress = pickle.loads((directory / _ADDRESS).read_bytes())

    async def dial(self, receiver: Receiver) -> Line:
        return await dial(self._address, receiver, name="gateway.bench", ray_node_id=_HERE)


async def _gateway(directory: Path, http: int, grpc: int) -> None:
    settings = _settings(directory)
    clock = SystemClock()
    plane = RemotePlane(
        _Dialer(directory),
        _blobs(settings),
        clock,
        client="gateway.bench",
        give_up_s=settings.gateway.call_timeout_s,
        answer_s=answer_s(settings),
    )
    hub = EventHub(plane, clock)
    context = FacadeContext(
        plane=plane,
        settings=settings,
        clock=clock,
        ids=RandomIds(),
        authenticator=Authenticator(settings.auth, plane, hub, clock),
        events=hub,
        attachments=Attachments(),
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
        (directory / "gateway").touch()


async def _ready() -> None:
    """It is."""


async def _metrics(_: Request) -> Response:
    return PlainTextResponse()  # its processor is measured from outside


if __name__ == "__main__":
    role, where, *rest = sys.argv[1:]
    uvloop.run(_scheduler(Path(where)) if role == "scheduler" else _gateway(Path(where), *map(int, rest)))
