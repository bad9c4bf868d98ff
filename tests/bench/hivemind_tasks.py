"""A client of HiveMind that has tasks run, in a process of its own: how long until it sees the last one completed.

It asks for a task first when it has learnt that tasks may have ended, and then again after a quarter of that time, as
one does who knows that each question is work for the server.

    python -m tests.bench.hivemind_tasks PORT TASKS IN_FLIGHT

Reads a line, runs that many tasks, prints the seconds that they took, and so on until there are no more lines.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from time import perf_counter
from typing import Any, Final

import grpc.aio
import uvloop

from arcray.facades.hivemind.contract import nodepool_pb2 as pool

_UPLOAD: Final = "/nodepool.MasterNodeService/UploadTask"
_POLL: Final = "/nodepool.MasterNodeService/PollTaskStatus"
_SOURCE: Final = b"pass"
_FIRST_GUESS_S: Final = 0.2
_LEAST_LOOK_S: Final = 0.02
_SOONER, _LATER = 0.97, 1.02  # what the next first look is of this one, where that found the end, or did not
_PATIENCE_S: Final = 60.0


class Client:
    """Has tasks run, so many at once."""

    def __init__(self, port: int, in_flight: int) -> None:
        channel: Any = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._upload = channel.unary_unary(_UPLOAD)
        self._poll = channel.unary_unary(_POLL)
        self._in_flight = in_flight
        self._numbers = itertools.count()
        self._usual_s = _FIRST_GUESS_S

    async def seconds(self, tasks: int) -> float:
        """Returns how long so many tasks took."""
        left = iter(range(tasks))

        async def worker() -> None:
            for _ in left:
                await self._run(f"{os.getpid()}-{next(self._numbers)}")

        began = perf_counter()
        await asyncio.gather(*(worker() for _ in range(self._in_flight)))
        return perf_counter() - began

    async def _run(self, task_id: str) -> None:
        request = pool.UploadTaskRequest(task_id=task_id, task_data=_SOURCE, user_id="bench", cpu_score=1)
        answer = pool.UploadTaskResponse.FromString(await self._upload(request.SerializeToString(), timeout=60))
        assert answer.success, answer.message
        poll = pool.PollTaskStatusRequest(task_id=task_id).SerializeToString()
        began = perf_counter()
        look_s, looks = self._usual_s, 0
        while True:
            await asyncio.sleep(look_s)
            found = pool.PollTaskStatusResponse.FromString(await self._poll(poll, timeout=60))
            took_s = perf_counter() - began
            if found.status == "COMPLETED":
                self._usual_s = max(_LEAST_LOOK_S, self._usual_s * (_SOONER if looks == 0 else _LATER))
                return
            assert found.status in ("PENDING", "RUNNING"), found
            assert took_s < _PATIENCE_S, f"{task_id} is {found.status}"
            looks += 1
            look_s = max(_LEAST_LOOK_S, self._usual_s / 4)


async def _main(port: int, tasks: int, in_flight: int) -> None:
    client = Client(port, in_flight)
    for _ in sys.stdin:
        print(await client.seconds(tasks), flush=True)


if __name__ == "__main__":
    uvloop.run(_main(*map(int, sys.argv[1:])))
