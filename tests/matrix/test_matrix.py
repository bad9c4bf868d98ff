"""Every way to submit work, on every kind of node: it really runs there, or ``explain`` says why not.

That work is real is seen from outside. A program ends because the test finds its process below the machine's own, by
the kernel; a container because it bears the machine's label, by the engine; an answer names a process below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from typing import Any

import psutil
import pytest

from tests.matrix.kinds import KINDS, Machine, Offer
from tests.matrix.stage import Stage, reasons
from tests.matrix.ways import WAYS, Question, Way

pytestmark = pytest.mark.cluster

NO_PLACE = "Insufficient resources"  # all that the Resource Pool's document has to say of it


def cells() -> Iterator[Any]:
    for (name, kind), way in product(KINDS.items(), WAYS):
        marks = [pytest.mark.docker] if way.needs is Offer.CONTAINER else []
        yield pytest.param(way, name, way.needs in kind.offers, id=f"{way.facade}-{way.name}-on-{name}", marks=marks)


@pytest.mark.parametrize(("way", "kind", "runs"), list(cells()))
def test_work_runs_or_is_explained(
    stage: Stage, way: Way | Question, kind: str, runs: bool, request: pytest.FixtureRequest
) -> None:
    machine = stage.machines[kind]
    name = f"{way.facade}-{way.name}-on-{kind}"
    engine = None
    if way.needs is Offer.CONTAINER:
        request.getfixturevalue("image")
        engine = request.getfixturevalue("docker_client")
    with stage.only(machine):
        match way, runs:
            case Way(), True:
                _runs(stage, way, machine, name, engine)
            case Way(), False:
                _is_explained(stage, way, name)
            case Question(), True:
                with way.ask(stage, name) as asked:
                    node_id, pid = asked.answer()
                    assert node_id == machine.node_id
                    assert machine.pid in {parent.pid for parent in psutil.Process(pid).parents()}
            case Question(), False:
                with way.ask(stage, name) as asked:
                    assert reasons(asked.refusals()).keys() == {way.filter}


def _runs(stage: Stage, way: Way, machine: Machine, name: str, engine: Any) -> None:
    with way.hand_in(stage, name) as handed:
        work_id = stage.cluster.until(handed.work_id, f"{name} is there")
        if engine is None:
            stage.call_program(machine)
        else:
            stage.call_container(machine, work_id, engine)
        assert handed.output() == "called"
    done = stage.client.wait(work_id, timeout_s=30)
    assert (done.phase, done.node_id, done.attempt) == ("succeeded", machine.node_id, 1), done.message


def _is_explained(stage: Stage, way: Way, name: str) -> None:
    with way.hand_in(stage, name) as handed, ExitStack() as stack:
        said, work_id = handed.refusal(), handed.work_id()
        if said == NO_PLACE:  # there is no work of which to ask, so what is asked of is like it
            assert work_id is None
            work_id = stack.enter_context(like(way).hand_in(stage, name)).work_id()
        assert work_id is not None
        found = stage.explained(work_id)
    assert found.keys() == {"features"}
    assert said == NO_PLACE or found["features"] in said


def like(way: Way) -> Way:
    """The way of our own that needs the same of a node."""
    return next(each for each in WAYS if isinstance(each, Way) and each.facade == "rest" and each.needs is way.needs)
