"""A client of HiveMind that has tasks run, in a process of its own: how long until it has seen each of them completed.

It does what ``ray.get([nothing.remote() for _ in range(n)])`` does: hands in all of them, so many calls at once, and
then waits for each in turn, asking again after a pause for one that has not ended.

    python -m tests.bench.hivemind_tasks PORT TASKS IN_FLIGHT

Reads a line, runs that many tasks, prints the seconds that they took, and so on until there are no more lines.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any, Final

import grpc.aio
import uvloop

from arcray.facades.hivemind.contract import nodepool_pb2 as pool

_UPLOAD: Final = "/nodepool.MasterNodeService/UploadTask"
_POLL: Final = "/nodepool.MasterNodeService/PollTaskStatus"
_SOURCE: Final = b"pass"
_CPU_SCORE: Final = 10  # of 100 a core: twenty at once on two cores
_WAITERS: Final = 8  # tasks end about in their order, so more of them would only ask more often
_PAUSE_S: Final = 0.05
_PATIENCE_S: Final = 60.0


class Client:
    """Has tasks run."""

    def __init__(self, port: int, in_flight: int) -> None:
        channel: Any = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._upload = channel.unary_unary(_UPLOAD)
        self._poll = channel.unary_unary(_POLL)
        self._in_flight = in_flight
        self._rounds = itertools.count()

    async def seconds(self, tasks: int) -> float:
        """Returns how long so many tasks took."""
        name = f"{os.getpid()}-{next(self._rounds)}"
        task_ids = [f"{name}-{number}" for number in range(tasks)]
        began = perf_counter()
        await _each(task_ids, self._hand_in, at_once=self._in_flight)
        await _each(task_ids, self._wait_for, at_once=_WAITERS)
        return perf_counter() - began

    async def _hand_in(self, task_id: str) -> None:
        request = pool.UploadTaskRequest(task_id=task_id, task_data=_SOURCE, user_id="bench", cpu_score=_CPU_SCORE)
        answer = pool.UploadTaskResponse.FromString(await self._upload(request.SerializeToString(), timeout=60))
        assert answer.success, answer.message

    async def _wait_for(self, task_id: str) -> None:
        poll = pool.PollTaskStatusRequest(task_id=task_id).SerializeToString()
        began = perf_counter()
        while True:
            found = pool.PollTaskStatusResponse.FromString(await self._poll(poll, timeout=60))
            if found.status == "COMPLETED":
                return
            assert found.status in ("PENDING", "RUNNING"), found
            assert perf_counter() - began < _PATIENCE_S, f"{task_id} is {found.status}"
            await asyncio.sleep(_PAUSE_S)


async def _each(task_ids: Sequence[str], do: Callable[[str], Awaitable[None]], *, at_once: int) -> None:
    left = iter(task_ids)

    async def worker() -> None:
        for task_id in left:
            await do(task_id)

    await asyncio.gather(*(worker() for _ in range(at_once)))


async def _main(port: int, tasks: int, in_flight: int) -> None:
    client = Client(port, in_flight)
    for _ in sys.stdin:
        print(await client.seconds(tasks), flush=True)


if __name__ == "__main__":
    uvloop.run(_main(*map(int, sys.argv[1:])))
