"""Memory is taken back to what is on disk by what was noted before each change, whatever the changes were."""

from __future__ import annotations

import random
from contextlib import suppress
from copy import deepcopy

import pytest

from arcray.control.recovery import as_on_disk
from arcray.control.rows import durable_node
from arcray.core import commands as cmd
from arcray.core.before import Before
from arcray.core.errors import ArcrayError
from arcray.core.ids import WorkloadId
from arcray.core.node import LeaseTerms, Node
from arcray.core.policy import ClusterPolicy
from arcray.core.state import ClusterState
from arcray.core.workload import Phase, RestartPolicy, RestartRule, Workload
from arcray.testing.builders import a_model, a_node, a_workload, an_inference, node_id
from arcray.testing.world import World

POLICY = ClusterPolicy()
RESTARTS = RestartPolicy(rule=RestartRule.ON_FAILURE, max_restarts=1)


class Change:
    """A cluster to which anything may happen."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.world = World(POLICY)
        self.number = 0
        for number in (1, 2, 3):
            self.world.attach(a_node(number, lease=LeaseTerms(unhealthy_after_s=2.0, lost_after_s=4.0)))
        self.world.handle(cmd.RegisterModel(model=a_model()))
        self.world.load(node_id(1), slots=4)

    def step(self) -> None:
        with suppress(ArcrayError):  # what makes no sense now is refused
            self.dice.choice(
                [self.submit, self.submit, self.request, self.report, self.report, self.stop, self.node, self.model]
            )()

    def submit(self) -> None:
        self.number += 1
        self.world.submit(a_workload(self.number, restart=self.dice.choice([RestartPolicy(), RESTARTS])))

    def request(self) -> None:
        self.number += 1
        self.world.submit(a_workload(self.number, an_inference(), waiting=self.dice.random() < 0.5))

    def report(self) -> None:
        live = [w for w in self.world.cluster.state.workloads.values() if w.node_id and not w.phase.terminal]
        if live:
            phase = self.dice.choice([Phase.PULLING, Phase.RUNNING, Phase.SUCCEEDED, Phase.FAILED])
            self.world.report(self.dice.choice(live), phase)

    def stop(self) -> None:
        known = list(self.world.cluster.state.workloads)
        if known:
            self.world.stop(self.dice.choice(known))

    def node(self) -> None:
        number = self.dice.choice([1, 2, 3])
        match self.dice.randrange(4):
            case 0:
                self.world.handle(cmd.SetNodeScheduling(node_id=node_id(number), cordoned=self.dice.random() < 0.5))
            case 1:
                self.world.attach(a_node(number, lease=LeaseTerms(unhealthy_after_s=2.0, lost_after_s=4.0)))
                self.world.load(node_id(number), slots=4, epoch=self.world.cluster.state.nodes[node_id(number)].epoch)
            case 2:
                self.world.later(1.5)
            case _:
                self.world.attach(a_node(4 + self.number % 3))

    def model(self) -> None:
        model = a_model(self.dice.choice(["a", "b"]))
        known = model.id in self.world.cluster.state.models
        self.world.handle(cmd.RemoveModel(model_id=model.id) if known else cmd.RegisterModel(model=model))


def stored(state: ClusterState) -> tuple[dict[WorkloadId, Workload], list[Node], dict[str, object]]:
    """Returns what the rows of a state would be."""
    workloads = {
        key: workload
        for key, workload in state.workloads.items()
        if workload.phase.terminal or not workload.spec.waiting
    }
    nodes = [durable_node(node) for node in state.nodes.values()]
    for node in nodes:
        node.last_seen = node.joined_at  # heartbeats are not stored
    return deepcopy((workloads, nodes, dict(state.models)))  # type: ignore[return-value]  # ids are strings


@pytest.mark.parametrize("seed", range(30))
def test_memory_is_taken_back_to_where_it_was(seed: int) -> None:
    change = Change(seed)
    state = change.world.cluster.state
    for _ in range(60):
        change.step()
    expected, forgotten = stored(state), state.forgotten_until
    batches: list[Before] = []
    for _ in range(3):  # the batches that are not on disk
        state.before = Before()
        batches.append(state.before)
        for _ in range(change.dice.randrange(12)):
            change.step()
    before = Before()
    for batch in batches:
        before.add(batch)
    taken_back = as_on_disk(change.world.cluster, before, POLICY, change.world.now).state
    taken_back.check_invariants()
    assert stored(taken_back) == expected
    assert taken_back.forgotten_until == forgotten


def test_of_two_batches_the_earlier_copy_stays() -> None:
    world = World(POLICY)
    world.attach()
    world.submit(a_workload(1))
    first = world.cluster.state.before = Before()
    world.report(world.workload(a_workload(1).id), Phase.RUNNING)
    second = world.cluster.state.before = Before()
    world.succeed(world.workload(a_workload(1).id))
    assert [_phase(before) for before in (first, second)] == [Phase.PLACED, Phase.RUNNING]
    first.add(second)
    assert _phase(first) is Phase.PLACED


def test_a_request_that_someone_waits_for_was_not_there() -> None:
    world = World(POLICY)
    world.attach()
    world.load(node_id(1))
    before = world.cluster.state.before = Before()
    request = a_workload(1, an_inference(), waiting=True)
    world.submit(request)
    assert before.workloads == {}
    world.succeed(world.workload(request.id))
    assert before.workloads == {request.id: None}


def _phase(before: Before) -> Phase | None:
    workload = before.workloads[a_workload(1).id]
    return workload.phase if workload is not None else None
