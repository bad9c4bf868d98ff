"""Lookups: what may repeat something forgotten waits its turn, and is handled in order or answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from arcray.config import SchedulerSettings
from arcray.control.journal import Records
from arcray.core.commands import Command, ReportEnd, StopWorkload, Submitted, SubmitWorkload
from arcray.core.errors import ConflictError, ResourceExhaustedError, UnavailableError
from arcray.core.ids import AccountId, WorkloadId
from arcray.core.policy import ClusterPolicy
from arcray.core.workload import Phase, Workload
from arcray.testing.builders import T0, a_workload
from arcray.testing.plane import InProcessPlane, in_process_plane

LATER = T0 + timedelta(hours=1)


def keyed(number: int, key: str, **fields: Any) -> SubmitWorkload:
    return SubmitWorkload(spec=a_workload(number, request_id=key, request_digest="d", created_at=LATER, **fields))


@pytest.fixture
async def cluster() -> AsyncIterator[InProcessPlane]:
    """A plane that has let go of workload 1, which came under the key "old"."""
    policy, settings = ClusterPolicy(keep_finished=0), SchedulerSettings(max_commands=4)
    async with in_process_plane(policy=policy, settings=settings) as made:
        spec = a_workload(1, request_id="old", request_digest="d")
        await made.ask(SubmitWorkload(spec=spec))
        await made.finished(spec.id)
        assert made.plane._writer.cluster.state.forgotten_until is not None
        yield made


class CountingReads:
    """The journal's lookups, held back until ``go``: before they read, or if ``at_once`` after that."""

    def __init__(self, cluster: InProcessPlane, *, at_once: bool = False) -> None:
        self.at_once = at_once
        self.asked: list[int] = []
        self.first, self.go = asyncio.Event(), asyncio.Event()
        self.error: UnavailableError | None = None
        self._earlier = cluster.plane._journal.earlier
        cluster.plane._lookups._journal = self  # type: ignore[assignment]  # the only method that is used there

    async def earlier(self, ids: set[WorkloadId], keys: dict[AccountId, set[str]]) -> list[Workload]:
        read = await self._earlier(ids, keys) if self.at_once else None
        self.asked.append(len(ids))
        self.first.set()
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return await self._earlier(ids, keys) if read is None else read


class HeldCommits:
    """The journal's commits, held back until ``go``."""

    def __init__(self, cluster: InProcessPlane) -> None:
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self._append = cluster.plane._journal.append
        cluster.plane._journal.append = self._held  # type: ignore[method-assign]  # nothing else of it is replaced

    async def _held(self, records: Records) -> None:
        self.begun.set()
        await self.go.wait()
        await self._append(records)


async def end(cluster: InProcessPlane, number: int, phase: Phase) -> None:
    (node,) = cluster.nodes
    report = ReportEnd(node_id=node.id, epoch=node.epoch, workload_id=a_workload(number).id, attempt=1, phase=phase)
    await cluster.plane.submit([report])
    await cluster.finished(a_workload(number).id)


async def begun(cluster: InProcessPlane, commands: Sequence[Command]) -> list[asyncio.Future[Any]]:
    replies = cluster.plane.begin(commands)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return replies


async def test_a_key_of_a_forgotten_workload_leads_to_it(cluster: InProcessPlane) -> None:
    old, new = await cluster.plane.submit([keyed(2, "old"), keyed(3, "new")])
    assert isinstance(old, Submitted)
    assert (old.workload_id, old.created) == (a_workload(1).id, False)
    assert isinstance(new, Submitted)
    assert (new.workload_id, new.created) == (a_workload(3).id, True)


async def test_what_comes_during_a_lookup_goes_with_the_next_one(cluster: InProcessPlane) -> None:
    reads = CountingReads(cluster)
    replies = [each for number in (2, 3, 4) for each in await begun(cluster, [keyed(number, f"key-{number}")])]
    assert reads.asked == [1]
    reads.go.set()
    assert [type(await reply) for reply in replies] == [Submitted] * 3
    assert reads.asked == [1, 2]


async def test_a_key_that_comes_twice_in_one_lookup_is_one_workload(cluster: InProcessPlane) -> None:
    first, second = await cluster.plane.submit([keyed(2, "new"), keyed(3, "new")])
    assert isinstance(first, Submitted)
    assert isinstance(second, Submitted)
    assert (second.workload_id, second.created) == (first.workload_id, False)


async def test_what_memory_lets_go_of_during_a_lookup_is_looked_up_too(cluster: InProcessPlane) -> None:
    """Found by rounds of kills: a stop of work that ended in that moment was told that there is none."""
    (node,) = cluster.nodes
    node.deaf = True
    await cluster.plane.submit([keyed(7, "ends meanwhile")])
    reads = CountingReads(cluster)
    stop = StopWorkload(workload_id=a_workload(7).id)
    replies = await begun(cluster, [keyed(2, "new"), stop, keyed(8, "ends meanwhile")])
    assert reads.asked == [1]
    await end(cluster, 7, Phase.SUCCEEDED)
    reads.go.set()
    _, stopped, again = [await reply for reply in replies]
    assert stopped is None
    assert isinstance(again, Submitted)
    assert (again.workload_id, again.created) == (a_workload(7).id, False)


async def test_what_lived_when_it_was_read_and_was_let_go_of_since_is_looked_up_again(cluster: InProcessPlane) -> None:
    (node,) = cluster.nodes
    node.deaf = True
    await cluster.plane.submit([keyed(5, "fails")])
    await end(cluster, 5, Phase.FAILED)
    await cluster.plane.submit([keyed(7, "replay", replay_of=a_workload(5).id)])
    reads = CountingReads(cluster, at_once=True)
    replies = await begun(cluster, [keyed(8, "replay", replay_of=a_workload(5).id)])
    await reads.first.wait()
    await end(cluster, 7, Phase.SUCCEEDED)
    reads.go.set()
    again = await replies[0]
    assert isinstance(again, Submitted), again
    assert (again.workload_id, again.created) == (a_workload(7).id, False)


async def test_a_letter_that_was_dealt_with_after_it_was_read_is_read_again(cluster: InProcessPlane) -> None:
    (node,) = cluster.nodes
    node.deaf = True
    await cluster.plane.submit([keyed(5, "fails")])
    await end(cluster, 5, Phase.FAILED)
    commits = HeldCommits(cluster)
    first = await begun(cluster, [keyed(7, "one", replay_of=a_workload(5).id)])
    await commits.begun.wait()
    reads = CountingReads(cluster, at_once=True)
    second = await begun(cluster, [keyed(8, "another", replay_of=a_workload(5).id)])
    await reads.first.wait()
    commits.go.set()
    assert isinstance(await first[0], Submitted)
    reads.go.set()
    assert isinstance(await second[0], ConflictError)


async def test_more_than_may_wait_are_refused(cluster: InProcessPlane) -> None:
    reads = CountingReads(cluster)
    taken = await begun(cluster, [keyed(number, f"key-{number}") for number in range(2, 6)])
    (refused,) = await begun(cluster, [keyed(6, "key-6")])
    assert isinstance(await refused, ResourceExhaustedError)
    reads.go.set()
    assert [type(await reply) for reply in taken] == [Submitted] * 4


async def test_rows_that_cannot_be_read_refuse_what_waits_for_them(cluster: InProcessPlane) -> None:
    reads = CountingReads(cluster)
    reads.error = UnavailableError("the disk is gone")
    reads.go.set()
    (reply,) = await cluster.plane.submit([keyed(2, "new")])
    assert reply is reads.error


async def test_a_plane_that_stops_answers_what_waits_for_a_lookup(cluster: InProcessPlane) -> None:
    CountingReads(cluster)
    (reply,) = await begun(cluster, [keyed(2, "new")])
    await cluster.plane.stop()
    assert isinstance(await reply, UnavailableError)
