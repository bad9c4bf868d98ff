"""Lease timers: which nodes have been silent too long.

One heap entry per node, moved only when it comes due, so a heartbeat costs nothing here: ten thousand nodes that report
every ten seconds are ten thousand heap moves per lease term, not per beat.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from heapq import heappop, heappush

from arcray.core.ids import NodeId
from arcray.core.node import Health, LeaseTerms, Node

__all__ = ["LeaseTimers"]


class LeaseTimers:
    """When to look at which node."""

    def __init__(self) -> None:
        self._heap: list[tuple[datetime, NodeId]] = []
        self._due: dict[NodeId, datetime] = {}

    def watch(self, node_id: NodeId, now: datetime, lease: LeaseTerms) -> None:
        """Begins a lease, replacing the node's earlier one."""
        self._set(node_id, now + timedelta(seconds=lease.unhealthy_after_s))

    def forget(self, node_id: NodeId) -> None:
        """Ends a node's lease."""
        self._due.pop(node_id, None)

    def next_due(self) -> datetime | None:
        """Returns when the next node is to be looked at."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def expired(self, nodes: Mapping[NodeId, Node], now: datetime) -> Iterator[tuple[NodeId, Health]]:
        """Yields the nodes whose health is no longer what their silence says, with what it says.

        A node that is lost is not watched any longer; attaching again begins a new lease.
        """
        while (due := self.next_due()) is not None and due <= now:
            _, node_id = heappop(self._heap)
            node = nodes[node_id]
            lease = node.registration.lease
            unhealthy_at = node.last_seen + timedelta(seconds=lease.unhealthy_after_s)
            lost_at = node.last_seen + timedelta(seconds=lease.lost_after_s)
            if now >= lost_at:
                del self._due[node_id]
                yield node_id, Health.LOST
            elif now >= unhealthy_at:
                self._set(node_id, lost_at)
                if node.health is not Health.UNHEALTHY:
                    yield node_id, Health.UNHEALTHY
            else:
                self._set(node_id, unhealthy_at)

    def _set(self, node_id: NodeId, due: datetime) -> None:
        self._due[node_id] = due
        heappush(self._heap, (due, node_id))
