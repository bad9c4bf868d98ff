"""Dispatch: orders to nodes, at least once, in order per node, bounded.

Each node has a *lane*: a queue and, while it is not empty, one task that delivers from its front. What arrives while a
delivery is under way goes with the next one, so batches grow with the load and an idle lane adds no delay.

What happens to an order that cannot be delivered:

- the node is unreachable: it is tried again, with back-off, for as long as the node is attached under the same epoch;
- the node says that the epoch is old, or the cluster does: it is void and dropped; attaching compares inventories;
- the lane is full: the node is as good as unreachable for it. A start is *refused* on the node's behalf, so that the
  cluster places it elsewhere (it was never handed over, so the attempt certainly did not run); an inference request
  fails. A stop is queued all the same: losing one would leave work running, and there is at most one per attempt. So is
  what a node may have got before the scheduler restarted: it may be running;
- the driver fails at it again and again, though the node can be reached: the order itself cannot be handed over, and
  makes room for those behind it. The node may have it all the same. So the cluster has a start stopped, which fails
  once its node says that it has ended: what it was given may be given to others only then. A request fails. A stop goes
  to the back and is tried for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final, assert_never

from arcray.control.loops import contain_async
from arcray.core.commands import ReportEnd, ReportUndelivered
from arcray.core.errors import (
    ArcrayError,
    DeadlineExceededError,
    ResourceExhaustedError,
    StaleReportError,
    UnavailableError,
)
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.node import Health, Node
from arcray.core.orders import NodeOrder, Order, RunInference, StartWorkload, StopAttempt
from arcray.core.ports import Clock, NodeDriver
from arcray.core.workload import Phase

__all__ = ["Dispatcher"]

_log = logging.getLogger(__name__)

_BATCH_LIMIT: Final = 256  # orders in one delivery; keeps a call below the size that goes through an object store
_DELIVERY_TIMEOUT_S: Final = 30.0
_BACKOFF_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_FAULTS_ALLOWED: Final = 3  # failures of one order that are not the node's absence
_PASSING: Final = (UnavailableError, ResourceExhaustedError, DeadlineExceededError)
_DETACHED: Final = frozenset({Health.LOST, Health.GONE})


class _Lane:
    """The queue of one attachment of one node."""

    __slots__ = ("address", "driver", "epoch", "node_id", "orders", "task")

    def __init__(self, node_id: NodeId, epoch: int, address: str, driver: NodeDriver) -> None:
        self.node_id = node_id
        self.epoch = epoch
        self.address = address
        self.driver = driver
        self.orders: deque[Order] = deque()
        self.task: asyncio.Task[None] | None = None


class Dispatcher:
    """All lanes.

    Args:
        drivers: by the name that registrations give.
        node: looks a node up as the cluster knows it now.
        report: takes the report that an order was not handed over, as far as anybody knows.
        limit: orders waiting per node.
    """

    def __init__(
        self,
        drivers: Mapping[str, NodeDriver],
        *,
        node: Callable[[NodeId], Node | None],
        report: Callable[[ReportEnd | ReportUndelivered], None],
        clock: Clock,
        limit: int,
    ) -> None:
        self._drivers = drivers
        self._node = node
        self._report = report
        self._clock = clock
        self._limit = limit
        self._lanes: dict[NodeId, _Lane] = {}
        self._group: asyncio.TaskGroup | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        """Begins delivering; tasks belong to ``group``."""
        self._group = group

    def put(self, order: NodeOrder, *, again: bool = False) -> None:
        """Queues an order for its node.

        Args:
            again: the node may have got it from an earlier scheduler.
        """
        lane = self._lanes.get(order.node_id)
        if lane is None or lane.epoch != order.epoch:
            lane = self._lane(order.node_id, order.epoch)
            if lane is None:
                return
        if len(lane.orders) >= self._limit and type(order.order) is not StopAttempt and not again:
            reason = f"{self._limit} orders wait for its node already"
            self._fail(lane, order.order, reason, refused=type(order.order) is StartWorkload)
            return
        lane.orders.append(order.order)
        if lane.task is None:
            assert self._group is not None, "started"
            lane.task = self._group.create_task(self._run(lane))

    def forget(self, node_id: NodeId) -> None:
        """Drops what waits for a node that was lost or left."""
        lane = self._lanes.pop(node_id, None)
        if lane is not None:
            self._void(lane, "detached")
            if lane.task is not None:
                lane.task.cancel()

    def forget_detached(self, node_id: NodeId) -> None:
        """Drops what waits for an attachment that has ended."""
        lane = self._lanes.get(node_id)
        if lane is not None and not self._attached(lane):
            self.forget(node_id)

    def keep_only(self, wanted: Callable[[WorkloadId], bool]) -> None:
        """Drops waiting orders about workloads that are no longer known: memory was rebuilt without them."""
        for lane in self._lanes.values():
            kept = [order for order in lane.orders if wanted(order.workload_id)]
            lane.orders.clear()
            lane.orders.extend(kept)

    def waiting(self, node_id: NodeId) -> int:
        """Returns how many orders wait for a node, those being delivered included."""
        lane = self._lanes.get(node_id)
        return len(lane.orders) if lane is not None else 0

    @property
    def longest(self) -> int:
        """How many orders wait for the node that has the most of them."""
        return max((len(lane.orders) for lane in self._lanes.values()), default=0)

    def _lane(self, node_id: NodeId, epoch: int) -> _Lane | None:
        """Returns the lane of the node's present attachment, or None when the order is of another one."""
        node = self._node(node_id)
        if node is None or node.epoch != epoch or node.health in _DETACHED:
            return None
        registration = node.registration
        driver = self._drivers.get(registration.driver)
        if driver is None:
            _log.error("node has an unknown driver", extra={"node_id": node_id, "driver": registration.driver})
            return None
        self.forget(node_id)
        lane = self._lanes[node_id] = _Lane(node_id, epoch, registration.address, driver)
        return lane

    def _fail(self, lane: _Lane, work: Order, reason: str, *, refused: bool) -> None:
        """Reports the end of an attempt on its node's behalf.

        Args:
            refused: the node certainly never saw it, so that another attempt is safe.
        """
        _log_undelivered(lane, work, reason)
        report = ReportEnd(
            node_id=lane.node_id,
            epoch=lane.epoch,
            workload_id=work.workload_id,
            attempt=work.attempt,
            phase=Phase.FAILED,
            message=reason,
            refused=refused,
        )
        # Later: the caller is in the middle of releasing other orders.
        asyncio.get_running_loop().call_soon(self._report, report)

    def _tell_undelivered(self, lane: _Lane, work: StartWorkload, reason: str) -> None:
        _log_undelivered(lane, work, reason)
        report = ReportUndelivered(
            node_id=lane.node_id,
            epoch=lane.epoch,
            workload_id=work.workload_id,
            attempt=work.attempt,
            message=reason,
        )
        asyncio.get_running_loop().call_soon(self._report, report)

    def _make_room(self, lane: _Lane, work: Order, reason: str) -> None:
        """Gets an order out of the way of those behind it that could not be handed over, for all that is known."""
        if not lane.orders or lane.orders[0] is not work:
            return  # dropped meanwhile
        match work:
            case StartWorkload():
                lane.orders.popleft()
                self._tell_undelivered(lane, work, reason)
            case StopAttempt():
                _log_undelivered(lane, work, reason)
                lane.orders.rotate(-1)
            case RunInference():
                lane.orders.popleft()
                self._fail(lane, work, reason, refused=False)
            case _:
                assert_never(work)

    async def _run(self, lane: _Lane) -> None:
        try:
            await contain_async(self._drain(lane), "lane")
        finally:
            lane.task = None

    async def _drain(self, lane: _Lane) -> None:
        failures = 0
        while lane.orders:
            # After a fault one at a time, to find the order that is to blame.
            batch = tuple(islice(lane.orders, 1 if failures > 1 else _BATCH_LIMIT))
            error = await self._deliver(lane, batch)
            if error is None:
                failures = 0
                _remove(lane.orders, batch)
            elif isinstance(error, StaleReportError) or not self._attached(lane):
                self._void(lane, error.message)
            elif not isinstance(error, _PASSING) and failures >= _FAULTS_ALLOWED:
                self._make_room(lane, batch[0], f"its node could not be asked: {error.message}")
                failures = 0
                await self._clock.sleep(_BACKOFF_S[-1])
            else:
                _log_failure(lane, error, failures)
                await self._clock.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                failures += 1

    async def _deliver(self, lane: _Lane, batch: tuple[Order, ...]) -> ArcrayError | None:
        try:
            async with asyncio.timeout(_DELIVERY_TIMEOUT_S):
                delivery = lane.driver.deliver(lane.node_id, lane.address, lane.epoch, batch)
                return await contain_async(delivery, f"driver {type(lane.driver).__name__}")
        except TimeoutError:
            return UnavailableError(f"the node did not take its orders in {_DELIVERY_TIMEOUT_S:g} s")

    def _attached(self, lane: _Lane) -> bool:
        node = self._node(lane.node_id)
        return node is not None and node.epoch == lane.epoch and node.health not in _DETACHED

    def _void(self, lane: _Lane, reason: str) -> None:
        if lane.orders:
            _log.info(
                "orders dropped",
                extra={"node_id": lane.node_id, "epoch": lane.epoch, "orders": len(lane.orders), "reason": reason},
            )
            lane.orders.clear()


def _remove(orders: deque[Order], delivered: tuple[Order, ...]) -> None:
    """Takes delivered orders off the front; some may have been dropped meanwhile."""
    for order in delivered:
        if orders and orders[0] is order:
            orders.popleft()


def _log_undelivered(lane: _Lane, work: Order, reason: str) -> None:
    fields = {"node_id": lane.node_id, "epoch": lane.epoch, "workload_id": work.workload_id, "reason": reason}
    _log.error("order not delivered", extra=fields)


def _log_failure(lane: _Lane, error: ArcrayError, failures: int) -> None:
    level = logging.WARNING if failures == len(_BACKOFF_S) else logging.DEBUG
    _log.log(level, "node unreachable", extra={"node_id": lane.node_id, "epoch": lane.epoch, "reason": error.message})
