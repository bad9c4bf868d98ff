"""Explanations: why a demand cannot be placed now, in facts that every protocol can show."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Explanation", "FilterRefusal"]


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
    """Why nothing could take it.

    Args:
        nodes: how many there are in all; the refusals add up to it.
        refusals: in the order of the filters, only those that refused any.
        suggestion: the smallest change that would fit; "" when none would.
    """

    nodes: int
    refusals: tuple[FilterRefusal, ...]
    suggestion: str = ""

    def sentence(self) -> str:
        """Returns all of it in one sentence."""
        if not self.nodes:
            return "the pool has no nodes"
        parts = ", ".join(f"{r.nodes} by {r.filter} ({r.reason})" for r in self.refusals)
        advice = f"; {self.suggestion}" if self.suggestion else ""
        return f"0 of {self.nodes} nodes can take it: {parts}{advice}"
