"""Budgets of the Resource Pool, on two cores:

- 100 devices that each tell what they have every 2 s are 5,000 frames a second, which reach everybody within 50 ms
  (p99); the share of a core that the gateway and the scheduler use for it is told;
- per second of processor, at least 0.9 of the frames go out that a bare loop over the same server's sockets sends.

    python -m pytest tests/bench/bench_pool.py -m bench -s

Gateway, scheduler (``stack``) and devices (``pool_devices``) are processes of their own, without Ray. For the loop, 99
sockets listen while one sends: to the Resource Pool an update, which is read, merged, written and broadcast; to the
loop the same text. Both are served by the same listener of one process (``pool_server``), whose processor is compared.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.bench.report import ROUNDS, check, in_turn, row
from tests.bench.stack import stack
from tests.ports import free_ports

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]

BUDGET_LAG_MS: Final = 50.0
BUDGET_RATIO: Final = 0.9
DEVICES, EVERY_S = 100, 2.0
SECONDS: Final = 6.0
UPDATES, AT_ONCE = 2_000, 10
ROOT: Final = Path(__file__).parents[2]
UPDATE: Final = json.dumps(
    {
        "type": "resource_update",
        "deviceId": "device",
        "resources": {
            "cpuUsage": 45.5, "cpuAvailable": 54.5, "cpuCores": 8, "memoryUsage": 8192, "memoryAvailable": 8192,
            "memoryTotal": 16384, "storageUsage": 512000, "storageAvailable": 488000, "storageTotal": 1000000,
            "hasGPU": True, "gpuName": "NVIDIA RTX 3080", "gpuUsage": 30,
        },
    },
    separators=(",", ":"),
)  # fmt: skip


@contextmanager
def process(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-m", f"tests.bench.{module}", *arguments]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def told(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    line = started.stdout.readline()
    assert line, "the process has ended; its error is above"
    return line


def test_what_devices_tell_reaches_everybody_at_once() -> None:
    found: dict[str, list[float]] = {"p99": [], "median": [], "frames": []}
    gateway_cores: list[float] = []
    scheduler_cores: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="arcray-") as directory,
        stack(Path(directory)) as served,
        process("pool_devices", served.url.replace("http", "ws"), str(DEVICES), str(EVERY_S)) as devices,
    ):
        assert int(told(devices)) == DEVICES
        assert devices.stdin is not None
        for _ in range(ROUNDS):
            began_s, before = time.monotonic(), served.processor_s()
            devices.stdin.write(f"{SECONDS}\n")
            devices.stdin.flush()
            measured: dict[str, float] = json.loads(told(devices))
            passed_s, after = time.monotonic() - began_s, served.processor_s()
            scheduler_cores.append((after[0] - before[0]) / passed_s)
            gateway_cores.append((after[1] - before[1]) / passed_s)
            found["p99"].append(measured["p99"])
            found["median"].append(measured["median"])
            found["frames"].append(measured["frames"] / passed_s)
    check([
        row("pool: an update to everybody, p99", found["p99"], "ms", better="lower", budget=BUDGET_LAG_MS),
        row("  median", found["median"], "ms", better="lower"),
        row("  frames", found["frames"], "/s", better="higher"),
        row("  gateway, 100 devices every 2 s", gateway_cores, "core", better="lower"),
        row("  scheduler in that time", scheduler_cores, "core", better="lower"),
    ])  # fmt: skip


class Sockets:
    """One that sends, and those that listen."""

    def __init__(self, url: str, sender: ClientConnection, listeners: Sequence[ClientConnection]) -> None:
        self._url = url
        self._sender = sender
        self._listeners = listeners

    async def frames_per_processor_s(self) -> float:
        """Has all of them told of updates; returns how many frames a second of the server's processor sends."""
        before_s = await self._processor_s()
        listening = [asyncio.create_task(_hear(socket, UPDATES)) for socket in self._listeners]
        for _ in range(UPDATES // AT_ONCE):
            for _ in range(AT_ONCE):
                await self._sender.send(UPDATE)
            await _hear(self._sender, AT_ONCE)  # more than that waits nowhere
        await asyncio.gather(*listening)
        return UPDATES * (len(self._listeners) + 1) / (await self._processor_s() - before_s)

    async def _processor_s(self) -> float:
        async with httpx.AsyncClient() as client:
            return float((await client.get(f"http://{self._url}/processor")).text)


async def _hear(socket: ClientConnection, most: int) -> None:
    while most:
        most -= '"resource_update"' in str(await socket.recv())


@asynccontextmanager
async def sockets(url: str, path: str) -> AsyncIterator[Sockets]:
    """Opens as many sockets as there are devices, one after the other."""
    async with AsyncExitStack() as opened:

        async def opens() -> ClientConnection:
            return await opened.enter_async_context(connect(f"ws://{url}{path}", compression=None))

        listeners = [await opens() for _ in range(DEVICES - 1)]
        sender = await opens()
        register: dict[str, Any] = {"type": "register", "deviceId": "device", "deviceName": "d", "platform": "linux"}
        await sender.send(json.dumps(register))
        await sender.send(UPDATE)
        await asyncio.gather(*(_hear(socket, 1) for socket in (sender, *listeners)))
        yield Sockets(url, sender, listeners)


async def test_frames_go_out_as_by_a_bare_loop() -> None:
    (port,) = free_ports(1)
    url = f"127.0.0.1:{port}"
    with process("pool_server", str(port)) as server:
        assert told(server) == "serves\n"

        async def ours() -> float:
            async with sockets(url, "/ws") as open_ones:
                return await open_ones.frames_per_processor_s()

        async def bare() -> float:
            async with sockets(url, "/bare") as open_ones:
                return await open_ones.frames_per_processor_s()

        mine, alone = await in_turn(ours, bare)
    ratios = [a / b for a, b in zip(mine, alone, strict=True)]
    check([
        row("pool: frames per second of processor", mine, "/s", better="higher", bare=alone),
        row("  as a share of the bare loop", ratios, "", better="higher", budget=BUDGET_RATIO),
    ])  # fmt: skip
