"""The transition tables. A phase changes through ``advance`` or not at all.

Invariant: the four terminal phases have no exits. A new attempt of a restarted workload goes back to ``pending`` from
any live phase, by ``requeue`` and never by ``advance``; from ``stopping`` only where the cluster, not the owner, asked
for the end of the attempt.
"""

from __future__ import annotations

from typing import Final

from arcray.core.errors import IllegalTransitionError
from arcray.core.workload import Phase

__all__ = ["NODE_PHASES", "advance", "requeue"]

_ENDS: Final = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.STOPPED})

_NEXT: Final[dict[Phase, frozenset[Phase]]] = {
    Phase.PENDING: frozenset({Phase.PLACED, Phase.STOPPED, Phase.FAILED, Phase.REJECTED}),
    Phase.PLACED: frozenset({Phase.PULLING, Phase.STARTING, Phase.RUNNING, Phase.STOPPING}) | _ENDS,
    Phase.PULLING: frozenset({Phase.STARTING, Phase.RUNNING, Phase.STOPPING}) | _ENDS,
    Phase.STARTING: frozenset({Phase.RUNNING, Phase.STOPPING}) | _ENDS,
    Phase.RUNNING: frozenset({Phase.STOPPING}) | _ENDS,
    Phase.STOPPING: _ENDS,
    Phase.SUCCEEDED: frozenset(),
    Phase.FAILED: frozenset(),
    Phase.STOPPED: frozenset(),
    Phase.REJECTED: frozenset(),
}

NODE_PHASES: Final = frozenset({Phase.PULLING, Phase.STARTING, Phase.RUNNING}) | _ENDS
"""The phases that a node may report; the others are decisions of the cluster."""


def advance(phase: Phase, to: Phase) -> Phase:
    """Returns ``to`` when the table allows it.

    Raises:
        IllegalTransitionError: it does not; names both phases.
    """
    if to not in _NEXT[phase]:
        raise IllegalTransitionError(f"{phase} does not lead to {to}", field="phase")
    return to


def requeue(phase: Phase) -> Phase:
    """Returns ``pending`` for a live phase whose attempt was given up.

    Raises:
        IllegalTransitionError: the phase is terminal, or no attempt is under way.
    """
    if phase.terminal or phase is Phase.PENDING:
        raise IllegalTransitionError(f"{phase} is not requeued", field="phase")
    return Phase.PENDING
