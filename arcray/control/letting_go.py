"""Letting go: how memory forgets what retention is about to delete.

What lives here: what may go now. What does not: what has been kept for long enough (expiry, departures), deletion
itself (retention). Invariants: nothing is deleted that an unsettled batch writes, or that something alive refers to;
nothing is recalled from rows that are being deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from arcray.control.writer import Writer
from arcray.core.departures import departed
from arcray.core.ids import NodeId, ReservationId, WorkloadId

__all__ = ["LettingGo"]


class LettingGo:
    """Takes things out of memory, each for a block that deletes their rows.

    What is asked of ended work is answered from the rows, while there are.

    Args:
        rows: held while rows of what has ended are looked up, or deleted.
    """

    def __init__(self, writer: Writer, rows: asyncio.Lock) -> None:
        self._writer = writer
        self._rows = rows
        self._owed: set[NodeId] = set()  # nodes that memory has forgotten and that have rows still

    @asynccontextmanager
    async def workloads(self, old: Sequence[WorkloadId]) -> AsyncIterator[Sequence[WorkloadId]]:
        """Lets go of ended workloads; yields those of ``old`` of which nothing is about to be written."""
        async with self._rows:
            changed = self._writer.commits.changed().workloads
            free = [workload_id for workload_id in old if workload_id not in changed]
            self._writer.cluster.discard(free)
            yield free

    @asynccontextmanager
    async def reservations(self, old: Sequence[ReservationId]) -> AsyncIterator[Sequence[ReservationId]]:
        """Lets go of ended reservations; yields those that no live work came by, and of which nothing is written."""
        async with self._rows:
            cluster = self._writer.cluster
            kept = {
                workload.spec.reservation_id
                for workload in cluster.state.workloads.values()
                if not workload.phase.terminal
            }
            changed = self._writer.commits.changed().reservations
            free = [reservation_id for reservation_id in old if reservation_id not in kept | changed.keys()]
            cluster.discard_reservations(free)
            yield free

    def departed(self, *, before: datetime | None, most: int | None, until: datetime) -> Sequence[NodeId]:
        """Returns the nodes that are to be forgotten; see ``core.departures``."""
        return departed(self._writer.cluster.state, before=before, most=most, until=until)

    @asynccontextmanager
    async def nodes(self, old: Sequence[NodeId]) -> AsyncIterator[Sequence[NodeId]]:
        """Forgets nodes that have left; yields those whose rows may go.

        A node that comes back meanwhile is written behind that deletion, if the block begins it without waiting before.
        One whose deletion fails is yielded again, by another block.
        """
        cluster = self._writer.cluster
        if self._writer.refusal is not None:
            yield ()  # memory is about to be another one
            return
        changed = self._writer.commits.changed().nodes
        self._owed |= {*cluster.forget_nodes([node_id for node_id in old if node_id not in changed])}
        self._owed -= cluster.state.nodes.keys()  # came back, or came with rows that were read again
        gone = sorted(self._owed)
        yield gone
        self._owed.difference_update(gone)
