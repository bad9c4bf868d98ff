"""The gateway that holds the sockets of a hundred claw nodes is killed while they work, by real processes.

The nodes connect to another one, say what they still have, and go on: nothing runs twice, nothing is lost. What they
have ended while nobody heard them has ended. A node that hangs, whose socket stays open, is a process of its own too.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from arcray import claw_proto as claw
from arcray.core.ids import WorkloadId
from arcray.facades.claw.replies import wire_id
from arcray.wire.system import SystemClock
from tests.bench.claw_nodes import Fleet
from tests.bench.stack import Stack, stack
from tests.rounds import LookedAt

NODES: Final = 100
WORKLOADS: Final = 50
PATIENCE_S: Final = 60
QUICK: Final = {"heartbeat_s": 1, "metrics_s": 1, "unhealthy_after_s": 1.5, "lost_after_s": 2.0}
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

    async def phases(self) -> dict[str, str]:
        """Returns the phase of every workload."""
        body = await self._ask("GET", "/api/v1/workloads?limit=1000")
        return {work["id"]: work["phase"] for work in body["workloads"]}

    async def submit(self, number: int) -> str:
        """Submits a container, once; returns its id."""
        body = {"kind": "container", "image": "nginx", "restartPolicy": {"rule": "on_loss"}}
        found: str = (await self._ask("POST", "/api/v1/workloads", f"order {number}", json=body))["id"]
        return found

    async def _ask(self, method: str, path: str, key: str = "", **request: Any) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    async with httpx.AsyncClient(base_url=self._url, timeout=30) as client:
                        answer = await client.request(method, path, headers={"Idempotency-Key": key}, **request)
                except httpx.TransportError:
                    await SystemClock().sleep(0.05)
                    continue
                assert answer.is_success, answer.text
                return answer.json()


async def kill_round(served: Stack, dice: random.Random) -> dict[str, int]:
    """Kills the gateway once some of the work has begun, or all of it; returns how much was looked at."""
    client = Client(served.url)
    begun_first = dice.choice((dice.randint(0, WORKLOADS - 1), WORKLOADS))
    print("killed when so many have begun:", begun_first)
    async with Fleet(f"{served.url.replace('http', 'ws')}/claw", NODES, every_s=1.0) as fleet:
        await asyncio.to_thread(served.start_gateway)

        async def has_begun() -> bool:
            return sum(sum(node.began.values()) for node in fleet.nodes) >= begun_first

        submitting = asyncio.gather(*(client.submit(number) for number in range(WORKLOADS)))
        await until(has_begun)
        for node in fleet.nodes:
            node.registered.clear()
        os.kill(served.gateway, signal.SIGKILL)
        begun = {name: node for node in fleet.nodes for name in node.began}
        ended = dice.sample(sorted(begun), len(begun) // 5)
        for name in ended:  # while nobody hears of it
            begun[name].states[name] = claw.WorkloadState.COMPLETED
        await submitting
        await fleet.registered()

        async def all_have_ended() -> bool:
            for node in fleet.nodes:
                await node.finish()
            phases = await client.phases()
            return len(phases) == WORKLOADS and set(phases.values()) == {"succeeded"}

        await until(all_have_ended)
        began = sum((node.began for node in fleet.nodes), Counter[str]())
        assert (len(began), set(began.values())) == (WORKLOADS, {1})
        assert min(node.connections for node in fleet.nodes) == 2
    return {"deaths_of_claw_gateways": 1, "claw_nodes_that_came_back": NODES, "workloads_that_went_on": len(begun)}


@pytest.mark.chaos
@pytest.mark.rounds(1, 20)
async def test_work_of_claw_nodes_survives_the_gateway(tmp_path: Path, seed: int, looked_at: LookedAt) -> None:
    """Takes about six seconds: three processes start, and a hundred nodes connect twice."""
    with stack(tmp_path) as served:
        looked_at(**await kill_round(served, random.Random(seed)))


async def test_a_node_that_hangs_with_its_socket_open_is_lost_by_its_lease(tmp_path: Path) -> None:
    """Takes about six seconds: two processes start, a third one is stopped, and its lease runs out."""
    with stack(tmp_path, claw=QUICK) as served:
        words = [sys.executable, "-c", HANGING, f"{served.url.replace('http', 'ws')}/"]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe)
        try:
            assert process.stdout is not None
            assert b"registered" in await process.stdout.readline()
            work = await Client(served.url).submit(1)
            assert work.encode() in await process.stdout.readline()
            process.send_signal(signal.SIGSTOP)
            async with Fleet(f"{served.url.replace('http', 'ws')}/claw", 1, every_s=0.5) as fleet:
                (node,) = fleet.nodes
                async with asyncio.timeout(PATIENCE_S):
                    await node.told.wait()
                assert set(node.began) == {wire_id(WorkloadId(work), 2)}
        finally:
            process.kill()
            await process.wait()
