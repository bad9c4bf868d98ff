"""Copies: the live workloads that keep models loaded, by model.

What lives here: the index that questions about one model are answered by, which copies count as a model's own, and
which one takes the place of another.
What does not: where a copy answers, which its node reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from arcray.core.ids import ModelId, WorkloadId
from arcray.core.workload import ModelServer, Workload

__all__ = ["Copies"]

_Key = TypeVar("_Key", ModelId, WorkloadId)


class Copies:
    """The copies that have not ended.

    Args:
        workloads: of the same state; every copy in here is among them.

    Attributes:
        begun: how many were ever taken up by this memory.
    """

    def __init__(self, workloads: Mapping[WorkloadId, Workload]) -> None:
        self._workloads = workloads
        self.begun = 0
        self._of: dict[ModelId, dict[WorkloadId, None]] = {}
        self._instead_of: dict[WorkloadId, dict[WorkloadId, None]] = {}

    def add(self, workload: Workload) -> None:
        """Takes a workload up if it is a copy."""
        payload = workload.spec.payload
        if isinstance(payload, ModelServer):
            self.begun += 1
            self._of.setdefault(payload.model.id, {})[workload.spec.id] = None
            if workload.spec.replaces is not None:
                self._instead_of.setdefault(workload.spec.replaces, {})[workload.spec.id] = None

    def discard(self, workload: Workload) -> None:
        """Lets go of a copy that has ended."""
        payload = workload.spec.payload
        if isinstance(payload, ModelServer):
            _take_out(self._of, payload.model.id, workload.spec.id)
            if workload.spec.replaces is not None:
                _take_out(self._instead_of, workload.spec.replaces, workload.spec.id)

    def of(self, model_id: ModelId) -> list[Workload]:
        """Returns the copies of a model, earliest submission first."""
        return [self._workloads[workload_id] for workload_id in self._of.get(model_id, ())]

    def replacement_of(self, workload_id: WorkloadId) -> Workload | None:
        """Returns the copy that was begun to take the place of this one, unless it has ended or was asked to."""
        begun = (self._workloads[other] for other in self._instead_of.get(workload_id, ()))
        return next((copy for copy in begun if not copy.stop_requested), None)

    def lasting(self, model_id: ModelId) -> int:
        """Returns how many copies a model has that nobody has asked to end.

        A copy on a draining node and the one that replaces it are one.
        """
        wanted = {copy.spec.id: copy.spec.replaces for copy in self.of(model_id) if not copy.stop_requested}
        return sum(replaced not in wanted for replaced in wanted.values())

    def __iter__(self) -> Iterator[WorkloadId]:
        for own in self._of.values():
            yield from own


def _take_out(index: dict[_Key, dict[WorkloadId, None]], key: _Key, workload_id: WorkloadId) -> None:
    own = index[key]
    del own[workload_id]
    if not own:
        del index[key]
