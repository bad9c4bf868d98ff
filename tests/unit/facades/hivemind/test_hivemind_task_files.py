"""What is read of a task's files, and how often."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from arcray.core.blobkeys import foreign_log_key, log_key, result_key
from arcray.core.errors import NotFoundError, ResourceExhaustedError
from arcray.core.policy import ClusterPolicy
from arcray.core.queries import GetWorkload
from arcray.core.workload import Phase, Result, WorkloadView
from arcray.facades.hivemind.outputs import LOG_BYTES, OUTPUT_BYTES
from arcray.facades.hivemind.task_files import TaskFiles
from arcray.testing.builders import T0, a_workload
from arcray.testing.clock import FakeClock
from arcray.testing.world import World

ID = a_workload(1).id


class Blobs:
    """Blobs in memory, and the keys that were read."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.read: list[tuple[str, int]] = []

    async def size(self, key: str) -> int | None:
        return len(self.kept[key]) if key in self.kept else None

    async def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self.read.append((key, start))
        if key not in self.kept:
            raise NotFoundError
        return self.kept[key][start:end]


class Plane:
    def __init__(self) -> None:
        self.blobs = Blobs()


def a_view(phase: Phase, *keys: str) -> WorkloadView:
    world = World(ClusterPolicy())
    world.submit(a_workload(1))
    view = world.cluster.answer(GetWorkload(workload_id=ID), world.now)
    assert isinstance(view, WorkloadView)
    placed_at = None if phase is Phase.PENDING else T0
    return replace(view, phase=phase, placed_at=placed_at, result=Result(blobs=keys))


def files_of(plane: Plane, clock: FakeClock) -> TaskFiles:
    port: Any = plane
    return TaskFiles(port, clock)


async def test_nothing_is_read_of_a_task_that_nobody_began() -> None:
    plane = Plane()
    plane.blobs.kept[log_key(ID)] = b"x"
    assert await files_of(plane, FakeClock()).polled_output(a_view(Phase.PENDING)) == b""
    assert plane.blobs.read == []


async def test_only_the_end_of_an_output_is_read() -> None:
    plane = Plane()
    plane.blobs.kept[log_key(ID)] = b"a" * 10**6
    assert len(await files_of(plane, FakeClock()).polled_output(a_view(Phase.RUNNING))) == OUTPUT_BYTES
    assert plane.blobs.read == [(log_key(ID), 10**6 - OUTPUT_BYTES)]


async def test_what_runs_is_read_each_time_and_what_has_ended_once_a_second() -> None:
    plane, clock = Plane(), FakeClock()
    files = files_of(plane, clock)
    running, ended = a_view(Phase.RUNNING), a_view(Phase.SUCCEEDED)
    plane.blobs.kept[log_key(ID)] = b"1"
    assert [await files.polled_output(running) for _ in range(3)] == [b"1"] * 3
    assert [await files.polled_output(ended) for _ in range(3)] == [b"1"] * 3
    assert len(plane.blobs.read) == 4
    plane.blobs.kept[log_key(ID)] = b"12"
    assert await files.polled_output(ended) == b"1"
    await clock.advance(1)
    assert await files.polled_output(ended) == b"12"


@pytest.mark.parametrize("log_bytes", [0, 7])
async def test_where_its_end_says_how_much_a_task_wrote_nobody_is_asked(log_bytes: int) -> None:
    plane = Plane()
    plane.blobs.kept[log_key(ID)] = b"written, and more"
    view = replace(a_view(Phase.SUCCEEDED), result=Result(log_bytes=log_bytes))
    assert await files_of(plane, FakeClock()).polled_output(view) == b"written"[:log_bytes]
    assert plane.blobs.read == [(log_key(ID), 0)][:log_bytes]


async def test_what_is_remembered_is_bounded() -> None:
    plane = Plane()
    files, ended = files_of(plane, FakeClock()), a_view(Phase.SUCCEEDED)
    for number in range(300):
        spec = replace(ended.spec, id=a_workload(number + 1).id)
        await files.polled_output(replace(ended, spec=spec))
    assert len(files._ended) == 256


async def test_only_the_end_of_logs_is_read_and_a_broken_character_is_marked() -> None:
    plane = Plane()
    plane.blobs.kept[foreign_log_key(ID)] = "é".encode() * LOG_BYTES
    logs = await files_of(plane, FakeClock()).logs(a_view(Phase.RUNNING))
    assert len(logs) <= LOG_BYTES
    assert set(logs) <= {"é", "\ufffd"}


async def test_a_result_that_is_too_large_is_refused_before_it_is_read() -> None:
    plane, key = Plane(), result_key(ID, "a.bin")
    plane.blobs.kept[key] = bytes(101)
    with pytest.raises(ResourceExhaustedError, match="task_id: has more than 100 bytes of results"):
        await files_of(plane, FakeClock()).result(a_view(Phase.SUCCEEDED, key), 100)
    assert plane.blobs.read == []


async def test_a_result_that_is_too_large_as_a_zip_is_refused() -> None:
    plane, key = Plane(), result_key(ID, "a.bin")
    plane.blobs.kept[key] = b"1"
    with pytest.raises(ResourceExhaustedError):
        await files_of(plane, FakeClock()).result(a_view(Phase.SUCCEEDED, key), 10)


async def test_a_result_whose_file_is_gone_is_refused() -> None:
    with pytest.raises(NotFoundError, match="task_id: a file of its result is gone"):
        await files_of(Plane(), FakeClock()).result(a_view(Phase.SUCCEEDED, result_key(ID, "a.bin")))


async def test_a_result_that_came_after_the_end_is_given_out_where_the_end_names_none() -> None:
    plane = Plane()
    files = files_of(plane, FakeClock())
    plane.blobs.kept = {result_key(ID, "result_data"): b"late", result_key(ID, "a.txt"): b"1"}
    assert await files.result(replace(a_view(Phase.SUCCEEDED), attempt=1)) == b"late"
    assert await files.result(a_view(Phase.SUCCEEDED, result_key(ID, "a.txt"))) != b"late"


async def test_so_many_large_results_are_on_their_way_to_clients_at_a_time() -> None:
    plane, key = Plane(), result_key(ID, "a.txt")
    plane.blobs.kept[key] = b"x" * 200_000
    files, view = files_of(plane, FakeClock()), a_view(Phase.SUCCEEDED, key)
    async with AsyncExitStack() as sent, AsyncExitStack() as first:
        await files.result(view, until_sent=first)
        for _ in range(7):
            await files.result(view, until_sent=sent)
        waiting = asyncio.create_task(files.result(view, until_sent=sent))
        plane.blobs.kept[small := result_key(ID, "b.txt")] = b"x"
        await files.result(a_view(Phase.SUCCEEDED, small), until_sent=sent)
        assert not waiting.done()
        await first.aclose()
        assert await waiting
