from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from arcray.control.dispatch import Dispatcher
from arcray.core.commands import ReportEnd, ReportUndelivered
from arcray.core.errors import InvalidArgumentError, StaleReportError, UnavailableError
from arcray.core.ids import NodeId
from arcray.core.node import Health, Node
from arcray.core.orders import NodeOrder, Order, RunInference, StartWorkload, StopAttempt
from arcray.core.resources import Allocation, Demand
from arcray.core.workload import Phase
from arcray.testing.builders import T0, a_container, a_model, a_node, a_workload, node_id
from arcray.testing.clock import FakeClock

N1, N2 = node_id(1), node_id(2)


def a_start(number: int) -> StartWorkload:
    return StartWorkload(
        workload_id=a_workload(number).id,
        attempt=1,
        payload=a_container(),
        demand=Demand(),
        allocation=Allocation(),
        owner="local",
    )


def a_stop(number: int) -> StopAttempt:
    return StopAttempt(workload_id=a_workload(number).id, attempt=1, grace_s=1.0)


def a_request(number: int) -> RunInference:
    return RunInference(
        workload_id=a_workload(number).id,
        attempt=1,
        model_id=a_model().id,
        input=None,
        context_window_tokens=1,
        timeout_s=1.0,
    )


class ScriptedDriver:
    """Takes orders, waits for ``gate``, and fails as told."""

    def __init__(self) -> None:
        self.calls: list[tuple[NodeId, int, tuple[Order, ...]]] = []
        self.taken: list[Order] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fail: Callable[[Sequence[Order]], Exception | None] = lambda _: None

    async def deliver(self, node_id: NodeId, address: str, epoch: int, orders: Sequence[Order]) -> None:
        assert address == f"address of {node_id}"
        self.calls.append((node_id, epoch, tuple(orders)))
        await self.gate.wait()
        error = self.fail(orders)
        if error is not None:
            raise error
        self.taken += orders


class Harness:
    def __init__(self, limit: int) -> None:
        self.driver = ScriptedDriver()
        self.clock = FakeClock()
        self.reports: list[ReportEnd | ReportUndelivered] = []
        self.nodes: dict[NodeId, Node] = {}
        self.dispatcher = Dispatcher(
            {"scripted": self.driver},
            node=self.nodes.get,
            report=self.reports.append,
            clock=self.clock,
            limit=limit,
        )
        self.attach(N1)
        self.attach(N2)

    def attach(self, node: NodeId, epoch: int = 1, driver: str = "scripted") -> None:
        registration = a_node(id=node, driver=driver, address=f"address of {node}")
        self.nodes[node] = Node(
            registration=registration, epoch=epoch, health=Health.HEALTHY, joined_at=T0, last_seen=T0
        )

    def put(self, *orders: Order, node: NodeId = N1, epoch: int = 1) -> None:
        for order in orders:
            self.dispatcher.put(NodeOrder(node_id=node, epoch=epoch, order=order))

    async def settle(self) -> None:
        await self.clock.advance(0)


@pytest.fixture
def limit() -> int:
    return 100


@pytest.fixture
async def harness(limit: int) -> AsyncIterator[Harness]:
    harness = Harness(limit)
    stop = asyncio.Event()

    async def serve() -> None:
        async with asyncio.TaskGroup() as group:
            harness.dispatcher.start(group)
            await stop.wait()
            for node in (N1, N2):
                harness.dispatcher.forget(node)

    serving = asyncio.create_task(serve())
    await harness.settle()
    yield harness
    stop.set()
    harness.driver.gate.set()
    await serving


async def test_what_comes_while_a_delivery_is_under_way_goes_with_the_next(harness: Harness) -> None:
    harness.driver.gate.clear()
    harness.put(a_start(1))
    await harness.settle()
    harness.put(a_start(2), a_start(3))
    harness.driver.gate.set()
    await harness.settle()
    assert [orders for _, _, orders in harness.driver.calls] == [(a_start(1),), (a_start(2), a_start(3))]
    assert harness.dispatcher.waiting(N1) == 0


async def test_a_slow_node_delays_no_other(harness: Harness) -> None:
    harness.driver.gate.clear()
    harness.put(a_start(1), node=N1)
    harness.put(a_start(2), node=N2)
    await harness.settle()
    assert [node for node, _, _ in harness.driver.calls] == [N1, N2]


async def test_a_batch_is_bounded(harness: Harness) -> None:
    many = [a_request(number) for number in range(50)]
    for _ in range(2):
        harness.put(*many)
    await harness.settle()
    assert harness.driver.taken == many * 2
    assert max(len(orders) for _, _, orders in harness.driver.calls) <= 256


async def test_an_unreachable_node_is_tried_again_with_back_off_and_in_order(harness: Harness) -> None:
    harness.driver.fail = lambda _: UnavailableError()
    harness.put(a_start(1))
    await harness.settle()
    await harness.clock.advance(0.05)
    await harness.clock.advance(0.05)
    assert len(harness.driver.calls) == 2
    harness.put(a_stop(1))
    harness.driver.fail = lambda _: None
    await harness.clock.advance(0.05)
    assert harness.driver.taken == [a_start(1), a_stop(1)]


async def test_an_unreachable_node_is_tried_as_long_as_it_is_attached(harness: Harness) -> None:
    harness.driver.fail = lambda _: UnavailableError()
    harness.put(a_start(1))
    await harness.clock.advance(60)
    assert harness.dispatcher.waiting(N1) == 1
    harness.nodes[N1].health = Health.LOST
    await harness.clock.advance(2)
    assert harness.dispatcher.waiting(N1) == 0


async def test_orders_of_an_epoch_that_has_passed_are_void(harness: Harness) -> None:
    harness.driver.fail = lambda _: StaleReportError()
    harness.put(a_start(1), a_start(2))
    await harness.clock.advance(5)
    assert (len(harness.driver.calls), harness.dispatcher.waiting(N1)) == (1, 0)


async def test_a_new_attachment_does_not_get_what_waited_for_the_one_before(harness: Harness) -> None:
    harness.driver.fail = lambda orders: UnavailableError() if a_start(1) in orders else None
    harness.put(a_start(1))
    await harness.settle()
    harness.attach(N1, epoch=2)
    harness.put(a_start(2), epoch=2)
    await harness.clock.advance(5)
    assert harness.driver.taken == [a_start(2)]


@pytest.mark.parametrize("epoch", [1, 3])
async def test_an_order_of_another_epoch_than_the_present_one_is_dropped(harness: Harness, epoch: int) -> None:
    harness.attach(N1, epoch=2)
    harness.put(a_start(1), epoch=epoch)
    await harness.settle()
    assert harness.driver.calls == []


async def test_a_node_of_an_unknown_driver_gets_nothing(harness: Harness) -> None:
    harness.attach(N1, driver="carrier pigeon")
    harness.put(a_start(1))
    await harness.settle()
    assert harness.driver.calls == []


async def test_what_waits_for_a_lost_node_is_dropped(harness: Harness) -> None:
    harness.driver.gate.clear()
    harness.put(a_start(1), a_start(2))
    await harness.settle()
    harness.dispatcher.forget_detached(N1)
    assert harness.dispatcher.waiting(N1) == 2
    harness.nodes[N1].health = Health.GONE
    harness.dispatcher.forget_detached(N1)
    harness.driver.gate.set()
    await harness.settle()
    assert (harness.dispatcher.waiting(N1), harness.driver.taken) == (0, [])


async def test_orders_about_work_that_is_no_longer_known_are_dropped(harness: Harness) -> None:
    harness.driver.gate.clear()
    harness.put(a_start(1))
    await harness.settle()
    harness.put(a_start(2), a_start(3))
    harness.dispatcher.keep_only(lambda workload_id: workload_id == a_workload(3).id)
    harness.driver.gate.set()
    await harness.settle()
    assert harness.driver.taken == [a_start(1), a_start(3)]


class TestAFullLane:
    @pytest.fixture
    def limit(self) -> int:
        return 1

    @pytest.fixture
    async def full(self, harness: Harness) -> Harness:
        harness.driver.gate.clear()
        harness.put(a_start(1))
        await harness.settle()
        return harness

    async def test_refuses_a_start_so_that_it_is_placed_elsewhere(self, full: Harness) -> None:
        full.put(a_start(2))
        await full.settle()
        (report,) = full.reports
        assert (report.workload_id, report.attempt, report.epoch) == (a_start(2).workload_id, 1, 1)
        assert isinstance(report, ReportEnd)
        assert report.refused
        assert "1 orders wait" in report.message

    async def test_fails_a_request(self, full: Harness) -> None:
        full.put(a_request(2))
        await full.settle()
        (report,) = full.reports
        assert isinstance(report, ReportEnd)
        assert not report.refused

    async def test_takes_what_its_node_may_have_got_from_an_earlier_scheduler(self, full: Harness) -> None:
        full.dispatcher.put(NodeOrder(node_id=N1, epoch=1, order=a_start(2)), again=True)
        full.driver.gate.set()
        await full.settle()
        assert (full.driver.taken, full.reports) == ([a_start(1), a_start(2)], [])

    async def test_takes_a_stop_all_the_same(self, full: Harness) -> None:
        full.put(a_stop(1))
        full.driver.gate.set()
        await full.settle()
        assert full.driver.taken == [a_start(1), a_stop(1)]


async def test_an_order_that_cannot_be_handed_over_does_not_block_the_others(harness: Harness) -> None:
    harness.driver.fail = lambda orders: InvalidArgumentError("too large") if a_start(2) in orders else None
    harness.put(a_start(1), a_start(2), a_start(3))
    await harness.clock.advance(10)
    assert harness.driver.taken == [a_start(1), a_start(3)]
    (report,) = harness.reports
    assert isinstance(report, ReportUndelivered)  # the node may run it, so what it was given is not free yet
    assert (report.node_id, report.workload_id, report.attempt) == (N1, a_start(2).workload_id, 1)
    assert "too large" in report.message


async def test_a_bug_of_a_driver_is_treated_as_such_an_order(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.driver.fail = lambda orders: ZeroDivisionError() if a_start(1) in orders else None
    harness.put(a_start(1), a_start(2))
    await harness.clock.advance(10)
    assert harness.driver.taken == [a_start(2)]
    assert "ZeroDivisionError" in caplog.text


async def test_a_request_that_cannot_be_handed_over_fails(harness: Harness) -> None:
    harness.driver.fail = lambda _: InvalidArgumentError("no")
    harness.put(a_request(1))
    await harness.clock.advance(10)
    (report,) = harness.reports
    assert isinstance(report, ReportEnd)
    assert report.phase is Phase.FAILED
    assert harness.dispatcher.waiting(N1) == 0


async def test_a_stop_that_cannot_be_handed_over_is_tried_for_ever_and_blocks_nothing(harness: Harness) -> None:
    harness.driver.fail = lambda orders: InvalidArgumentError("no") if a_stop(1) in orders else None
    harness.put(a_stop(1), a_start(2))
    await harness.clock.advance(60)
    assert harness.driver.taken == [a_start(2)]
    harness.driver.fail = lambda _: None
    await harness.clock.advance(10)
    assert harness.driver.taken == [a_start(2), a_stop(1)]


async def test_a_lane_serves_again_after_it_was_empty(harness: Harness) -> None:
    for number in (1, 2):
        harness.put(a_start(number))
        await harness.settle()
    assert harness.driver.taken == [a_start(1), a_start(2)]
