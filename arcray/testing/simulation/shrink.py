"""Shrinking: the smallest part of a schedule that still breaks a promise.

Steps are taken out in ever smaller pieces, as long as some promise is still broken. Whatever is taken out changes what
luck does to the rest, so this is a search and not a proof; each try is a whole simulation and costs some tenths of a
second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from arcray.testing.simulation.plan import Plan

__all__ = ["shrink"]


def shrink(plan: Plan, fails: Callable[[Plan], bool], *, tries: int = 200) -> Plan:
    """Returns a plan with fewer steps that fails too.

    Args:
        fails: whether a plan breaks a promise.
        tries: simulations at the most.
    """
    piece = max(1, len(plan.steps) // 2)
    while tries > 0:
        smaller = _without_pieces(plan, piece, fails, tries)
        tries -= -(-len(plan.steps) // piece)
        if len(smaller.steps) == len(plan.steps) and piece == 1:
            break
        plan = smaller
        piece = max(1, piece // 2)
    return plan


def _without_pieces(plan: Plan, piece: int, fails: Callable[[Plan], bool], tries: int) -> Plan:
    """Returns the plan without every piece that it fails without; the last pieces first, for they depend on others."""
    end = len(plan.steps)
    while end > 0 and tries > 0:
        start = max(0, end - piece)
        without = replace(plan, steps=plan.steps[:start] + plan.steps[end:])
        if fails(without):
            plan = without
        end = start
        tries -= 1
    return plan
