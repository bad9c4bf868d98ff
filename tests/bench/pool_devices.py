"""Devices of the Resource Pool in a process of their own, so that the gateway's processor is the gateway's alone.

    python -m tests.bench.pool_devices URL DEVICES EVERY_S

Each registers and tells what it has every so many seconds, spread evenly. For every line of standard input, a number of
seconds, it prints as JSON how many frames came in that time and how long they took from the sender's send to each
receiver's receipt, in milliseconds: median, p99 and longest. The time of sending is told as ``storageUsage``.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import sys
import time
from contextlib import suppress
from typing import Final

import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

SENT: Final = re.compile(r'"storageUsage":(\d+)')
BEGIN: Final = '{"type":"resource_update"'


class Devices:
    """All of them, and what they have received."""

    def __init__(self, number: int, every_s: float) -> None:
        self._number = number
        self._every_s = every_s
        self.lags_ms: list[float] = []

    async def run(self, url: str, ready: asyncio.Event) -> None:
        """Connects them, one after the other, and has them live."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._number):
                socket = await connect(f"{url}/ws", max_size=None, compression=None)
                name = {"deviceId": f"device-{number}", "deviceName": f"Device {number}", "platform": "linux"}
                await socket.send(json.dumps({"type": "register", **name}))
                group.create_task(self._hear(socket))
                group.create_task(self._tell(socket, number))
            ready.set()

    async def _hear(self, socket: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                frame = await socket.recv()
                assert isinstance(frame, str)
                if frame.startswith(BEGIN):
                    sent = SENT.search(frame)
                    assert sent is not None
                    self.lags_ms.append(time.monotonic() * 1e3 - int(sent.group(1)) / 1e3)

    async def _tell(self, socket: ClientConnection, number: int) -> None:
        await asyncio.sleep(self._every_s * number / self._number)
        due_s = time.monotonic()
        while True:
            resources = {
                "cpuUsage": 45.5, "cpuAvailable": 54.5, "cpuCores": 8, "memoryUsage": 8192, "memoryAvailable": 8192,
                "memoryTotal": 16384, "storageUsage": round(time.monotonic() * 1e6), "storageAvailable": 488000,
                "storageTotal": 1000000, "hasGPU": True, "gpuName": "NVIDIA RTX 3080", "gpuUsage": 30.0,
            }  # fmt: skip
            update = {"type": "resource_update", "deviceId": f"device-{number}", "resources": resources}
            await socket.send(json.dumps(update))
            due_s += self._every_s
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))


async def _main(url: str, number: int, every_s: float) -> None:
    devices, ready = Devices(number, every_s), asyncio.Event()
    living = asyncio.create_task(devices.run(url, ready))
    await asyncio.wait({living, asyncio.create_task(ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if living.done():
        living.result()
    print(number, flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        devices.lags_ms.clear()
        await asyncio.sleep(float(line))
        lags_ms = sorted(devices.lags_ms)
        found = {
            "frames": len(lags_ms),
            "median": statistics.median(lags_ms),
            "p99": lags_ms[len(lags_ms) * 99 // 100],
            "longest": lags_ms[-1],
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
