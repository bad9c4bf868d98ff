"""Copies: the live workloads that keep models loaded, by model.

What lives here: the index that questions about one model are answered by, which copies count as a model's own, and
which one takes the place of another.
What does not: where a copy answers, which its node reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TypeVar

from arcray.core.ids import ModelId, WorkloadId
from arcray.core.workload import ModelServer, Workload

__all__ = ["Copies"]

_Key = TypeVar("_Key", ModelId, WorkloadId)


class Copies:
    """The copies that have not ended.

    One that ended before what it was to replace, and has a replacement itself, is passed over: the latter takes the
    place of the former, so a drain knows what it waits for although another one moved that on.

    Args:
        workloads: of the same state; every copy in here is among them.

    Attributes:
        begun: how many were ever taken up by this memory.
    """

    def __init__(self, workloads: Mapping[WorkloadId, Workload]) -> None:
        self._workloads = workloads
        self.begun = 0
        self._of: dict[ModelId, dict[WorkloadId, None]] = {}
        self._replaces: dict[WorkloadId, WorkloadId] = {}
        self._instead_of: dict[WorkloadId, dict[WorkloadId, None]] = {}  # the same the other way round

    def add(self, workload: Workload) -> None:
        """Takes a workload up if it is a copy."""
        payload = workload.spec.payload
        if isinstance(payload, ModelServer):
            self.begun += 1
            self._of.setdefault(payload.model.id, {})[workload.spec.id] = None
            self._link(workload)

    def discard(self, workload: Workload) -> None:
        """Lets go of a copy that has ended."""
        payload = workload.spec.payload
        if isinstance(payload, ModelServer):
            _take_out(self._of, payload.model.id, workload.spec.id)
            self._unlink(workload.spec.id, payload.model.id)

    def of(self, model_id: ModelId) -> list[Workload]:
        """Returns the copies of a model, earliest submission first."""
        return [self._workloads[workload_id] for workload_id in self._of.get(model_id, ())]

    def replacement_of(self, workload_id: WorkloadId) -> Workload | None:
        """Returns the copy that was begun to take the place of this one, unless it has ended or was asked to."""
        for other in self._instead_of.get(workload_id, ()):
            copy = self._live(other)
            found = self.replacement_of(other) if copy is None else copy
            if found is not None and not found.stop_requested:
                return found
        return None

    def replaced_by(self, workload: Workload) -> Workload | None:
        """Returns the copy whose place this one is to take, unless that has ended."""
        replaced = workload.spec.replaces
        while replaced is not None:
            copy = self._live(replaced)
            if copy is not None:
                return copy
            replaced = self._replaces.get(replaced)
        return None

    def in_turn(self, workload: Workload) -> tuple[WorkloadId, ...]:
        """Returns the live copies whose place this one is to take, and theirs in turn, nearest first."""
        found: list[WorkloadId] = []
        replaced = self._replaces.get(workload.id)
        while replaced is not None:
            if self._live(replaced) is not None:
                found.append(replaced)
            replaced = self._replaces.get(replaced)
        return tuple(found)

    def lasting(self, model_id: ModelId) -> int:
        """Returns how many copies a model has that nobody has asked to end.

        A copy on a draining node and the one that replaces it are one.
        """
        replaced = [self.replaced_by(copy) for copy in self.of(model_id) if not copy.stop_requested]
        return sum(copy is None or copy.stop_requested for copy in replaced)

    def __iter__(self) -> Iterator[WorkloadId]:
        for own in self._of.values():
            yield from own

    def _live(self, workload_id: WorkloadId) -> Workload | None:
        workload = self._workloads.get(workload_id)
        return None if workload is None or workload.phase.terminal else workload

    def _link(self, workload: Workload | None) -> None:
        """Takes note of what a copy replaces, and that in turn; of those between some may have ended and be forgotten.

        Rows from before that was written down tell of it as long as those between are remembered.
        """
        while workload is not None and workload.spec.replaces is not None:
            own, *chain = workload.spec.replaces, *workload.spec.replaced_in_turn
            self._note(workload.id, own)
            for replacing, replaced in pairwise((own, *chain)):
                if replacing not in self._replaces:  # else it has said so itself, and may name one between
                    self._note(replacing, replaced)
            workload = self._workloads.get((own, *chain)[-1])

    def _note(self, replacing: WorkloadId, replaced: WorkloadId) -> None:
        known = self._replaces.get(replacing)
        if known is not None:
            _take_out(self._instead_of, known, replacing)
        self._replaces[replacing] = replaced
        self._instead_of.setdefault(replaced, {})[replacing] = None

    def _unlink(self, workload_id: WorkloadId, model_id: ModelId) -> None:
        """Forgets what a copy that has ended was to replace, unless another one was begun to replace it."""
        while workload_id not in self._instead_of and workload_id not in self._of.get(model_id, ()):
            replaced = self._replaces.pop(workload_id, None)
            if replaced is None:
                return
            _take_out(self._instead_of, replaced, workload_id)
            workload_id = replaced


def _take_out(index: dict[_Key, dict[WorkloadId, None]], key: _Key, workload_id: WorkloadId) -> None:
    own = index[key]
    del own[workload_id]
    if not own:
        del index[key]
