"""Copies: the live workloads that keep models loaded, by model.

What lives here: the index that questions about one model are answered by, and which copies count as a model's own.
What does not: where a copy answers, which its node reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from arcray.core.ids import ModelId, WorkloadId
from arcray.core.workload import ModelServer, Workload

__all__ = ["Copies"]


class Copies:
    """The copies that have not ended.

    Args:
        workloads: of the same state; every copy in here is among them.
    """

    def __init__(self, workloads: Mapping[WorkloadId, Workload]) -> None:
        self._workloads = workloads
        self._of: dict[ModelId, dict[WorkloadId, None]] = {}

    def add(self, workload: Workload) -> None:
        """Takes a workload up if it is a copy."""
        payload = workload.spec.payload
        if isinstance(payload, ModelServer):
            self._of.setdefault(payload.model.id, {})[workload.spec.id] = None

    def discard(self, workload: Workload) -> None:
        """Lets go of a copy that has ended."""
        payload = workload.spec.payload
        if isinstance(payload, ModelServer):
            own = self._of[payload.model.id]
            del own[workload.spec.id]
            if not own:
                del self._of[payload.model.id]

    def of(self, model_id: ModelId) -> list[Workload]:
        """Returns the copies of a model, earliest submission first."""
        return [self._workloads[workload_id] for workload_id in self._of.get(model_id, ())]

    def lasting(self, model_id: ModelId) -> int:
        """Returns how many copies a model has that nobody has asked to end.

        A copy on a draining node and the one that replaces it are one.
        """
        wanted = {copy.spec.id: copy.spec.replaces for copy in self.of(model_id) if not copy.stop_requested}
        return sum(replaced not in wanted for replaced in wanted.values())

    def __iter__(self) -> Iterator[WorkloadId]:
        for own in self._of.values():
            yield from own
