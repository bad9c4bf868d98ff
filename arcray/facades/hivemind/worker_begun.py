"""What workers have begun and not ended, as far as this process has seen. No I/O.

A worker that comes back after it was given up for lost may still be at what has gone elsewhere meanwhile, and the wire
has no word by which it could say so. So it is told to end what it was given here; one that it has ended by itself it
does not know any more, and says so. Memory is bounded, and a gateway that starts anew has none: what is forgotten goes
on until it ends, and nobody believes its words.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Final

from arcray.core.commands import Running
from arcray.core.ids import NodeId, WorkloadId

__all__ = ["BegunWork"]

_NODES: Final = 10_000
_OF_ONE: Final = 1_000


class BegunWork:
    """Attempts by node.

    Args:
        nodes: remembered, the newest.
        of_one: attempts of one node that are, the newest.
    """

    def __init__(self, nodes: int = _NODES, of_one: int = _OF_ONE) -> None:
        self._nodes = nodes
        self._of_one = of_one
        self._begun: OrderedDict[NodeId, OrderedDict[WorkloadId, int]] = OrderedDict()

    def began(self, node_id: NodeId, workload_id: WorkloadId, attempt: int) -> None:
        """Notes that a worker may be at an attempt."""
        begun = self._begun.setdefault(node_id, OrderedDict())
        self._begun.move_to_end(node_id)
        begun[workload_id] = attempt
        begun.move_to_end(workload_id)
        if len(begun) > self._of_one:
            begun.popitem(last=False)
        if len(self._begun) > self._nodes:
            self._begun.popitem(last=False)

    def ended(self, node_id: NodeId, workload_id: WorkloadId, attempt: int) -> None:
        """Notes that it is not at it any more."""
        begun = self._begun.get(node_id)
        if begun is None or begun.get(workload_id) != attempt:
            return
        del begun[workload_id]
        if not begun:
            del self._begun[node_id]

    def besides(self, node_id: NodeId, wanted: Collection[Running]) -> Sequence[Running]:
        """Returns what a worker may be at besides what the cluster has placed on it, oldest first."""
        begun = (Running(workload_id=key, attempt=attempt) for key, attempt in self._begun.get(node_id, {}).items())
        return [work for work in begun if work not in wanted]
