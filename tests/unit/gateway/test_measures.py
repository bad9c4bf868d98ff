from __future__ import annotations

from typing import Any, cast

from arcray import metrics
from arcray.core.commands import SubmitWorkload
from arcray.core.errors import ArcrayError, ResourceExhaustedError, UnavailableError
from arcray.core.policy import ClusterPolicy
from arcray.core.ports import ControlPlane
from arcray.core.queries import GetQueues, Queues
from arcray.core.queues import Queue, QueueReading
from arcray.gateway.measures import Measures
from arcray.testing.builders import a_workload
from arcray.testing.plane import in_process_plane


class Scheduler:
    """Answers one query, or is away."""

    def __init__(self) -> None:
        self.answer: Queues | ArcrayError = Queues(
            readings=(QueueReading(queue=Queue.PENDING, length=3, limit=100_000),)
        )

    async def query(self, query: Any) -> Queues:
        assert query == GetQueues()
        if isinstance(self.answer, ArcrayError):
            raise self.answer
        return self.answer


def asks() -> tuple[QueueReading, ...]:
    return (QueueReading(queue=Queue.ASKS, length=2, limit=50_000),)


def floods() -> int:
    return 7


async def test_a_scrape_tells_of_this_process_and_of_the_scheduler() -> None:
    text = await Measures(cast("ControlPlane", Scheduler()), [asks], floods).text()
    assert text.splitlines() == [
        "# HELP arcray_queue_waiting_count What waits in a queue now; of several queues of a kind, in the longest one.",
        "# TYPE arcray_queue_waiting_count gauge",
        'arcray_queue_waiting_count{queue="asks"} 2',
        'arcray_queue_waiting_count{queue="pending"} 3',
        f"# HELP arcray_queue_allowed_count {metrics.QUEUE_ALLOWED.help}",
        "# TYPE arcray_queue_allowed_count gauge",
        'arcray_queue_allowed_count{queue="asks"} 50000',
        'arcray_queue_allowed_count{queue="pending"} 100000',
        "# HELP arcray_scheduler_reached_state 1 when the scheduler answered this scrape, else 0.",
        "# TYPE arcray_scheduler_reached_state gauge",
        "arcray_scheduler_reached_state 1",
        f"# HELP arcray_scheduler_writes_state {metrics.WRITES_TAKEN.help}",
        "# TYPE arcray_scheduler_writes_state gauge",
        "arcray_scheduler_writes_state 1",
        f"# HELP arcray_sockets_flooded_count {metrics.SOCKETS_FLOODED.help}",
        "# TYPE arcray_sockets_flooded_count gauge",
        "arcray_sockets_flooded_count 7",
    ]
    assert text.endswith("\n")


async def test_a_scrape_is_answered_while_the_scheduler_is_away() -> None:
    scheduler = Scheduler()
    scheduler.answer = UnavailableError("away")
    text = await Measures(cast("ControlPlane", scheduler), [asks], floods).text()
    assert 'arcray_queue_waiting_count{queue="asks"} 2' in text
    assert "arcray_scheduler_reached_state 0" in text
    assert "pending" not in text


async def test_a_scrape_tells_that_writes_are_refused() -> None:
    scheduler = Scheduler()
    scheduler.answer = Queues(readings=(), refusal="the disk is full")
    text = await Measures(cast("ControlPlane", scheduler), [asks], floods).text()
    assert "arcray_scheduler_reached_state 1" in text
    assert "arcray_scheduler_writes_state 0" in text


async def test_a_queue_at_its_bound_shows() -> None:
    async with in_process_plane(nodes=[], policy=ClusterPolicy(max_pending=2)) as cluster:
        submissions = [SubmitWorkload(spec=a_workload(number)) for number in (1, 2, 3)]
        replies = await cluster.plane.submit(submissions)
        assert isinstance(replies[2], ResourceExhaustedError)
        text = await Measures(cluster.plane, [], floods).text()
    assert 'arcray_queue_waiting_count{queue="pending"} 2\n' in text
    assert 'arcray_queue_allowed_count{queue="pending"} 2\n' in text
