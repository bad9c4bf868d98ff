"""Budgets of gRPC and of HiveMind on it, on two cores, 64 calls in flight:

- a no-op method on our listener is called at least 0.9 times as often a second as on a bare ``grpc.aio`` server;
- ``PollTaskStatus`` of a task that waits comes to at least 0.4 of that bare no-op (goal 0.6): gateway, scheduler
  process and back;
- durable transfers have no budget; each is a commit of the ledger;
- 2,000 tasks of nothing come to at least 300/s from end to end: uploaded, stored, placed, run in the sandbox, reported,
  and seen completed by a client in another process. Plain Ray tasks, which nobody isolates or remembers, stand beside
  them. Each asks for a point of CPU, so that the node takes many at once.

    python -m pytest tests/bench/bench_hivemind.py -m bench -s

Five alternating pairs each; the median of their ratios counts. Gateway and scheduler are two processes without Ray
(``stack``), but for the tasks, which run on a whole embedded cluster. The client is this process, or for the tasks one
of its own, and has a core of its own where the server leaves it one.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import grpc.aio
import pytest

from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from tests.bench.bare_grpc import METHOD
from tests.bench.report import ROUNDS, alternate, check, in_turn, row
from tests.bench.stack import stack

if TYPE_CHECKING:
    from tests.embedded_cluster import Cluster

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]

BUDGET_NOOP: Final = 0.9
BUDGET_POLL: Final = 0.4
BUDGET_TASKS_PER_S: Final = 300.0
TASKS: Final = 2_000
IN_FLIGHT: Final = 64
CALLS: Final = 6_400
TRANSFERS: Final = 3_200
USERS: Final = 64
ROOT: Final = Path(__file__).parents[2]

POLL: Final = "/nodepool.MasterNodeService/PollTaskStatus"


class Client:
    """Calls one server."""

    def __init__(self, port: int) -> None:
        self._channel: Any = grpc.aio.insecure_channel(f"127.0.0.1:{port}")

    async def call(self, method: str, body: bytes) -> bytes:
        answer: bytes = await self._channel.unary_unary(method)(body, timeout=60)
        return answer

    async def per_s(self, method: str, bodies: Sequence[bytes], calls: int = CALLS) -> float:
        """Returns how many calls are answered a second, with ``IN_FLIGHT`` under way."""
        stub = self._channel.unary_unary(method)
        left = iter(range(calls))

        async def caller() -> None:
            for number in left:
                await stub(bodies[number % len(bodies)])

        began = perf_counter()
        await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
        return calls / (perf_counter() - began)

    async def close(self) -> None:
        await self._channel.close()


@contextmanager
def no_ops() -> Iterator[tuple[int, int]]:
    """Yields the port of a bare server, and that of our listener, in one process."""
    words = [sys.executable, "-m", "tests.bench.bare_grpc"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        bare, ours = map(int, process.stdout.readline().split())
        try:
            yield bare, ours
        finally:
            process.kill()


async def test_a_no_op_on_our_listener() -> None:
    with no_ops() as (bare_port, our_port):
        bare, ours = Client(bare_port), Client(our_port)
        for each in (bare, ours):
            await each.per_s(METHOD, [b"x"], 1_000)
        mine, alone = await in_turn(lambda: ours.per_s(METHOD, [b"x"]), lambda: bare.per_s(METHOD, [b"x"]))
        await ours.close()
        await bare.close()
    found = [each / other for each, other in zip(mine, alone, strict=True)]
    check([
        row("no-op gRPC method", mine, "calls/s", better="higher", bare=alone),
        row("no-op gRPC method / bare", found, "", better="higher", budget=BUDGET_NOOP),
    ])  # fmt: skip


async def test_polls_and_transfers() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="arcray-") as directory,
        no_ops() as (bare_port, _),
        stack(Path(directory)) as served,
    ):
        bare, ours = Client(bare_port), Client(served.grpc_port)
        upload = pool.UploadTaskRequest(task_id="t", task_data=b"print(1)", user_id="u")
        await ours.call("/nodepool.MasterNodeService/UploadTask", upload.SerializeToString())
        body = [pool.PollTaskStatusRequest(task_id="t").SerializeToString()]
        polled = pool.PollTaskStatusResponse.FromString(await ours.call(POLL, body[0]))
        assert (polled.success, polled.status) == (True, "PENDING")
        for client, method in ((bare, METHOD), (ours, POLL)):
            await client.per_s(method, body, 1_000)
        mine, alone = await in_turn(lambda: ours.per_s(POLL, body), lambda: bare.per_s(METHOD, body))
        transfers = await _transfers(ours)
        moved = [await ours.per_s("/nodepool.UserService/Transfer", transfers, TRANSFERS) for _ in range(ROUNDS)]
        await ours.close()
        await bare.close()
    found = [each / other for each, other in zip(mine, alone, strict=True)]
    check([
        row("PollTaskStatus", mine, "calls/s", better="higher", bare=alone),
        row("PollTaskStatus / bare no-op", found, "", better="higher", budget=BUDGET_POLL),
        row("durable transfers", moved, "calls/s", better="higher"),
    ])  # fmt: skip


def _nothing() -> None:
    """Does nothing."""


@pytest.mark.timeout(600)
def test_tasks_of_nothing_from_end_to_end(cluster: Cluster) -> None:
    ray: Any = pytest.importorskip("ray")

    nothing = ray.remote(_nothing)

    def plain() -> float:
        began = perf_counter()
        ray.get([nothing.remote() for _ in range(TASKS)])
        return TASKS / (perf_counter() - began)

    words = [sys.executable, "-m", "tests.bench.hivemind_tasks", str(cluster.settings.gateway.grpc_port)]
    with subprocess.Popen(
        [*words, str(TASKS), str(IN_FLIGHT)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:

        def ours() -> float:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write("\n")
            client.stdin.flush()
            return TASKS / float(client.stdout.readline())

        try:
            ours()
            plain()
            mine, alone = alternate(ours, plain)
        finally:
            client.kill()
    check([
        row("HiveMind tasks of nothing", mine, "tasks/s", better="higher", budget=BUDGET_TASKS_PER_S, bare=alone)
    ])  # fmt: skip


async def _transfers(client: Client) -> list[bytes]:
    """Registers users; returns a transfer of each to the next one, which they can make for ever."""
    requests = []
    for number in range(USERS):
        shown = pool.RegisterRequest(username=f"user-{number}", password="p").SerializeToString()
        await client.call("/nodepool.UserService/Register", shown)
        login = pool.LoginResponse.FromString(await client.call("/nodepool.UserService/Login", shown))
        assert login.success, login.message
        requests.append(
            pool.TransferRequest(token=login.token, receiver_username=f"user-{(number + 1) % USERS}", amount=1)
        )
    answers = [
        pool.TransferResponse.FromString(
            await client.call("/nodepool.UserService/Transfer", request.SerializeToString())
        )
        for request in requests
    ]
    assert all(answer.success for answer in answers)
    return [request.SerializeToString() for request in requests]
