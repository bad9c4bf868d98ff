"""The gateway that holds the sockets of a hundred claw nodes is killed while they work, by real processes.

The nodes connect to another one, say what they still have, and go on: nothing runs twice, nothing is lost. What they
have ended while nobody heard them has ended. The client of a node that hangs, whose socket stays open, is a process too.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from arcray import claw_proto as claw
from arcray.wire.system import SystemClock
from tests.bench.claw_nodes import Fleet, submitted
from tests.bench.stack import Stack, stack
from tests.rounds import LookedAt

NODES: Final = 100
WORKLOADS: Final = 50
PATIENCE_S: Final = 60
QUICK: Final = {"heartbeat_s": 1, "metrics_s": 1, "unhealthy_after_s": 3.0, "lost_after_s": 5.0}
HANGING: Final = """
import sys
from websocket import create_connection

socket = create_connection(sys.argv[1])
socket.send('{"type":"register","node_id":"550e8400-e29b-41d4-a716-446655440000","name":"hangs","capabilities":'
            '{"total_vram_mb":0,"gpu_count":0,"gpus":[],"max_concurrent_workloads":1,"supported_runtimes":[]},'
            '"protocol_version":1}')
print(socket.recv(), flush=True)
print(socket.recv(), flush=True)
sys.stdin.read()
"""


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    """Asks again and again, because nothing here tells of it."""
    async with asyncio.timeout(PATIENCE_S):
        while not await look():
            await SystemClock().sleep(0.05)


class Client:
    """Asks by REST, again where the gateway that was asked has just died."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def get(self, path: str) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    async with httpx.AsyncClient(base_url=self._url, timeout=30) as client:
                        answer = await client.get(path)
                except httpx.TransportError:
                    await SystemClock().sleep(0.05)
                    continue
                assert answer.status_code == 200, answer.text
                return answer.json()

    async def phases(self) -> dict[str, tuple[str, int]]:
        """Returns phase and attempt of every workload."""
        body = await self.get("/api/v1/workloads?limit=1000")
        return {work["id"]: (work["phase"], work["attempt"]) for work in body["workloads"]}

    async def all_are(self, phase: str) -> bool:
        return {found for found, _ in (await self.phases()).values()} == {phase}


async def kill_round(served: Stack, dice: random.Random) -> dict[str, int]:
    """Kills the gateway; returns how much was looked at."""
    client = Client(served.url)
    async with Fleet(f"{served.url.replace('http', 'ws')}/claw", NODES, every_s=1.0) as fleet:
        async with httpx.AsyncClient(base_url=served.url, timeout=30) as posting:
            for number in range(WORKLOADS):
                await submitted(posting, number)
        await until(lambda: client.all_are("running"))
        begun = {name: node for node in fleet.nodes for name in node.began}
        assert len(begun) == WORKLOADS
        await asyncio.to_thread(served.start_gateway)
        for node in fleet.nodes:
            node.registered.clear()
        os.kill(served.gateway, signal.SIGKILL)
        ended = dice.sample(sorted(begun), WORKLOADS // 5)
        for name in ended:  # while nobody hears of it
            begun[name].states[name] = claw.WorkloadState.COMPLETED
        await fleet.registered()
        for name in ended:

            async def has_ended(name: str = name) -> bool:
                return (await client.phases())[name][0] == "succeeded"

            await until(has_ended)
        for node in fleet.nodes:
            await node.finish()
        await until(lambda: client.all_are("succeeded"))
        assert {name: node.began[name] for name, node in begun.items()} == dict.fromkeys(begun, 1)
        assert sum(sum(node.began.values()) for node in fleet.nodes) == WORKLOADS
        assert {attempt for _, attempt in (await client.phases()).values()} == {1}
        assert min(node.connections for node in fleet.nodes) == 2
    return {"deaths_of_claw_gateways": 1, "claw_nodes_that_came_back": NODES, "workloads_that_went_on": WORKLOADS}


@pytest.mark.chaos
@pytest.mark.rounds(1, 20)
async def test_work_of_claw_nodes_survives_the_gateway(tmp_path: Path, seed: int, looked_at: LookedAt) -> None:
    """Takes about six seconds: three processes start, and a hundred nodes connect twice."""
    with stack(tmp_path) as served:
        looked_at(**await kill_round(served, random.Random(seed)))


async def test_a_node_that_hangs_with_its_socket_open_is_lost_by_its_lease(tmp_path: Path) -> None:
    """Takes about eight seconds: two processes start, a third one is stopped, and its lease runs out."""
    with stack(tmp_path, claw=QUICK) as served:
        words = [sys.executable, "-c", HANGING, f"{served.url.replace('http', 'ws')}/"]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert "registered" in await asyncio.to_thread(process.stdout.readline)
                client = Client(served.url)
                async with httpx.AsyncClient(base_url=served.url, timeout=30) as posting:
                    body = {"kind": "container", "image": "nginx", "restart": {"rule": "on-loss", "maxRestarts": 1}}
                    answer = await posting.post("/api/v1/workloads", json=body)
                    assert answer.status_code == 201, answer.text
                    work = answer.json()["id"]
                assert work in await asyncio.to_thread(process.stdout.readline)
                process.send_signal(signal.SIGSTOP)
                async with Fleet(f"{served.url.replace('http', 'ws')}/claw", 1, every_s=0.5) as fleet:
                    (node,) = fleet.nodes
                    async with asyncio.timeout(PATIENCE_S):
                        await node.told.wait()
                    assert (await client.phases())[work][1] == 2
            finally:
                process.kill()
