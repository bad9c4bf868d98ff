"""Dispatch: orders to nodes, at least once, in order per node, bounded.

Each node has a *lane*: a queue and, while it is not empty, one task that delivers from its front. What arrives while a
delivery is under way goes with the next one, so batches grow with the load and an idle lane adds no delay.

What happens to an order that cannot be delivered:

- the node is unreachable: it is tried again, with back-off, for as long as the node is attached under the same epoch;
- the node says that the epoch is old, or the cluster does: it is void and dropped; attaching compares inventories;
- the lane is full: the node is as good as unreachable for it. A start is *refused* on the node's behalf, so that the
  cluster places it elsewhere (it was never handed over, so the attempt certainly did not run); an inference request
  fails. A stop is queued all the same: losing one would leave work running, and there is at most one per attempt;
- the driver fails at it again and again, though the node can be reached: the order itself cannot be handed over, and
  is taken out in the same way rather than blocking those behind it for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final

from arcray.control.loops import contain_async
from arcray.core.commands import ReportEnd
from arcray.core.errors import (
    ArcrayError,
    DeadlineExceededError,
    ResourceExhaustedError,
    StaleReportError,
    UnavailableError,
)
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.node import Health, Node
from arcray.core.orders import NodeOrder, Order, StartWorkload, StopAttempt
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
        refuse: takes the report that an order was never handed over.
        limit: orders waiting per node.
    """

    def __init__(
        self,
        drivers: Mapping[str, NodeDriver],
        *,
        node: Callable[[NodeId], Node | None],
        refuse: Callable[[ReportEnd], None],
        clock: Clock,
        limit: int,
    ) -> None:
        self._drivers = drivers
        self._node = node
        self._refuse = refuse
        self._clock = clock
        self._limit = limit
        self._lanes: dict[NodeId, _Lane] = {}
        self._group: asyncio.TaskGroup | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        """Begins delivering; tasks belong to ``group``."""
        self._group = group

    def put(self, order: NodeOrder) -> None:
        """Queues an order for its node."""
        lane = self._lanes.get(order.node_id)
        if lane is None or lane.epoch != order.epoch:
            lane = self._lane(order.node_id, order.epoch)
            if lane is None:
                return
        if len(lane.orders) >= self._limit and type(order.order) is not StopAttempt:
            self._take_out(lane, order.order, f"{self._limit} orders wait for its node already", certain=True)
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

    def _take_out(self, lane: _Lane, work: Order, reason: str, *, certain: bool) -> None:
        """Ends an order that will not be delivered.

        Args:
            certain: whether the node certainly never saw it, so that another attempt is safe.
        """
        fields = {"node_id": lane.node_id, "epoch": lane.epoch, "workload_id": work.workload_id, "reason": reason}
        _log.error("order not delivered", extra=fields)
        if type(work) is StopAttempt:
            return
        report = ReportEnd(
            node_id=lane.node_id,
            epoch=lane.epoch,
            workload_id=work.workload_id,
            attempt=work.attempt,
            phase=Phase.FAILED,
            message=reason,
            refused=certain and type(work) is StartWorkload,
        )
        # Later: the caller is in the middle of releasing other orders.
        asyncio.get_running_loop().call_soon(self._refuse, report)

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
                _remove(lane.orders, batch)
                self._take_out(lane, batch[0], f"its node could not be asked: {error.message}", certain=False)
                failures = 0
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


def _log_failure(lane: _Lane, error: ArcrayError, failures: int) -> None:
    level = logging.WARNING if failures == len(_BACKOFF_S) else logging.DEBUG
    _log.log(level, "node unreachable", extra={"node_id": lane.node_id, "epoch": lane.epoch, "reason": error.message})
