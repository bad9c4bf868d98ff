from __future__ import annotations

from arcray.core.cluster import Cluster
from arcray.core.commands import StopWorkload, SubmitWorkload
from arcray.core.orders import NodeOrder, RunInference, StartWorkload, StopAttempt
from arcray.core.policy import ClusterPolicy
from arcray.core.workload import Phase
from arcray.testing.builders import T0, a_node, a_workload, an_inference, node_id
from arcray.testing.world import World

W1 = a_workload(1).id


def orders(world: World) -> list[NodeOrder]:
    return list(world.cluster.undelivered())


def test_a_start_that_no_node_has_reported_on_may_be_lost(world: World) -> None:
    world.attach()
    placed = world.submit(a_workload(1))
    assert orders(world) == list(placed.orders)
    assert isinstance(placed.orders[0].order, StartWorkload)
    world.report(world.workload(W1), Phase.PULLING)
    assert orders(world) == []


def test_a_stop_may_be_lost_until_the_end(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    world.report(world.workload(W1), Phase.RUNNING)
    world.stop(W1)
    (stop,) = orders(world)
    assert isinstance(stop.order, StopAttempt)
    world.report(world.workload(W1), Phase.STOPPED)
    assert orders(world) == []


def test_a_dispatched_request_may_be_lost(world: World) -> None:
    world.attach()
    world.load(node_id(1))
    placed = world.submit(a_workload(1, an_inference(input=b"1")))
    assert orders(world) == list(placed.orders)
    assert isinstance(placed.orders[0].order, RunInference)


def test_a_node_that_was_lost_is_told_nothing(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    world.later(200)
    assert orders(world) == []


def test_orders_are_for_the_present_attachment(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    world.attach(a_node(1))
    world.run_round()
    assert {order.epoch for order in orders(world)} == {2}


def test_finished_work_stays_in_memory_until_it_is_retired() -> None:
    cluster = Cluster(ClusterPolicy(keep_finished=0), T0)
    cluster.handle(SubmitWorkload(spec=a_workload(1)), T0)
    cluster.handle(StopWorkload(workload_id=W1), T0)
    assert cluster.state.workloads[W1].phase is Phase.STOPPED
    assert cluster.state.forgotten_until is None
    cluster.retire([W1])
    assert cluster.state.workloads == {}
    assert cluster.state.forgotten_until == a_workload(1).created_at


def test_a_recalled_workload_answers_a_submission_that_repeats_it(world: World) -> None:
    world.attach()
    world.submit(a_workload(1, request_id="key"))
    finished = world.workload(W1)
    world.succeed(finished)
    other = World(world.cluster.policy)
    other.cluster.recall(finished)
    other.cluster.recall(finished)
    outcome = other.submit(a_workload(2, request_id="key"))
    assert outcome.events == ()
    assert outcome.reply is not None
    other.cluster.state.check_invariants()
