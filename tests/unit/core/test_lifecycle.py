from __future__ import annotations

from itertools import pairwise

import pytest

from arcray.core.errors import IllegalTransitionError
from arcray.core.lifecycle import NODE_PHASES, advance, requeue
from arcray.core.workload import Phase

LIVE = [phase for phase in Phase if not phase.terminal]
TERMINAL = [phase for phase in Phase if phase.terminal]


def test_there_are_four_terminal_phases() -> None:
    assert TERMINAL == [Phase.SUCCEEDED, Phase.FAILED, Phase.STOPPED, Phase.REJECTED]


@pytest.mark.parametrize("phase", TERMINAL)
@pytest.mark.parametrize("to", list(Phase))
def test_nothing_follows_a_terminal_phase(phase: Phase, to: Phase) -> None:
    with pytest.raises(IllegalTransitionError, match=f"{phase} does not lead to {to}"):
        advance(phase, to)


@pytest.mark.parametrize("phase", LIVE)
def test_every_live_phase_leads_to_an_end(phase: Phase) -> None:
    assert advance(phase, Phase.STOPPED) is Phase.STOPPED


@pytest.mark.parametrize("phase", [p for p in Phase if p is not Phase.PENDING])
def test_only_work_that_never_ran_is_rejected(phase: Phase) -> None:
    with pytest.raises(IllegalTransitionError):
        advance(phase, Phase.REJECTED)


def test_the_path_of_a_container() -> None:
    path = [Phase.PENDING, Phase.PLACED, Phase.PULLING, Phase.STARTING, Phase.RUNNING, Phase.STOPPING, Phase.STOPPED]
    for before, after in pairwise(path):
        assert advance(before, after) is after


def test_running_does_not_go_back_to_starting() -> None:
    with pytest.raises(IllegalTransitionError):
        advance(Phase.RUNNING, Phase.STARTING)


@pytest.mark.parametrize("phase", [Phase.PLACED, Phase.PULLING, Phase.STARTING, Phase.RUNNING])
def test_a_given_up_attempt_waits_again(phase: Phase) -> None:
    assert requeue(phase) is Phase.PENDING


def test_what_the_cluster_asked_to_end_waits_again() -> None:
    assert requeue(Phase.STOPPING, evicted=True) is Phase.PENDING


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.STOPPING, *TERMINAL])
def test_what_ends_or_waits_is_not_requeued(phase: Phase) -> None:
    with pytest.raises(IllegalTransitionError):
        requeue(phase)


def test_nodes_never_report_decisions_of_the_cluster() -> None:
    assert not NODE_PHASES & {Phase.PENDING, Phase.PLACED, Phase.STOPPING, Phase.REJECTED}
