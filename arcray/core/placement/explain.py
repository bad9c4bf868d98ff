"""Explanations: why a demand cannot be placed now, in facts that every protocol can show."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Change", "Explanation", "FilterRefusal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The smallest single change that would place a refused request, for programs; people read the sentence.

    Args:
        what: ``cpu``, ``memory``, ``disk``, ``gpuMemory`` (on each) or ``gpus``: ask for so much less; ``freeGpus``:
            so many to come free on one node; ``uncordon``, ``pin``, ``exclusion``, ``selector``: a condition to drop.
        by: milli-cpu, bytes or devices; for a condition the number of nodes that it alone keeps away.
    """

    what: str
    by: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterRefusal:
    """One filter and the nodes that it was the first to refuse.

    Args:
        filter: its name, for example "gpus".
        nodes: how many.
        reason: what it wants, in a sentence fragment: "needs 2 free GPUs".
    """

    filter: str
    nodes: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """How a demand stands with every node: why nothing could take it, or how many could.

    Args:
        nodes: how many there are in all; the refusals and ``fits`` add up to it.
        refusals: in the order of the filters, only those that refused any.
        suggestion: the smallest change that would fit; "" when none would, or none is needed.
        fits: nodes that could take it now; 0 in a refusal.
        notes: what else it waits for, each a sentence of its own.
        change: what the suggestion says, for programs; None where there is none.
    """

    nodes: int
    refusals: tuple[FilterRefusal, ...]
    suggestion: str = ""
    fits: int = 0
    notes: tuple[str, ...] = ()
    change: Change | None = None

    def sentence(self) -> str:
        """Returns all of it in one sentence."""
        return "; ".join((self._about_nodes(), *self.notes))

    def _about_nodes(self) -> str:
        if not self.nodes:
            return "the pool has no nodes"
        head = f"{self.fits} of {self.nodes} nodes can take it"
        if not self.refusals:
            return head
        parts = ", ".join(f"{r.nodes} by {r.filter} ({r.reason})" for r in self.refusals)
        advice = f"; {self.suggestion}" if self.suggestion else ""
        return f"{head}: {'' if not self.fits else 'refused '}{parts}{advice}"
