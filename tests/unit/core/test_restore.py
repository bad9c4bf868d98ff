from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from arcray.core.commands import DetachNode, Heard, RegisterModel, ReportEnd, ReportTelemetry, Submitted, SubmitWorkload
from arcray.core.errors import ConflictError
from arcray.core.node import DriverCapabilities
from arcray.core.resources import Demand
from arcray.core.workload import Phase, Priority, Result, WorkloadSpec
from arcray.testing.builders import a_model, a_node, a_workload, an_inference, node_id
from arcray.testing.world import World


def test_a_recovered_cluster_has_the_same_books(world: World) -> None:
    world.attach()
    world.handle(RegisterModel(model=a_model()))
    for number in range(1, 4):
        world.submit(a_workload(number, demand=Demand(cpu_milli=3000)))
    after = world.recovered()
    assert [w.phase for w in after.cluster.state.workloads.values()] == [Phase.PLACED, Phase.PLACED, Phase.PENDING]
    assert after.cluster.state.placement.free(node_id(1)) == world.cluster.state.placement.free(node_id(1))
    assert set(after.cluster.state.models) == {a_model().id}


def test_time_does_not_go_back_with_a_recovery_when_the_clock_did(world: World) -> None:
    world.later(60)
    world.attach()
    world.submit(a_workload(1))
    placed_at = world.workload(a_workload(1).id).placed_at
    world.now -= timedelta(seconds=30)
    after = world.recovered()
    after.succeed(after.workload(a_workload(1).id))
    assert after.workload(a_workload(1).id).finished_at == placed_at


def test_a_recovered_cluster_takes_reports_under_the_old_epoch_and_attempt(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    after = world.recovered()
    after.handle(ReportEnd(node_id=node_id(1), epoch=1, workload_id=a_workload(1).id, attempt=1, phase=Phase.SUCCEEDED))
    assert after.workload(a_workload(1).id).phase is Phase.SUCCEEDED


def test_a_recovered_cluster_asks_each_node_once_for_its_models(world: World) -> None:
    world.attach()
    after = world.recovered()
    beat = ReportTelemetry(node_id=node_id(1), epoch=1)
    assert after.handle(beat).reply == Heard(report_models=True)
    after.load(node_id(1))
    assert after.handle(beat).reply == Heard(report_models=False)


def a_request(*, waiting: bool) -> WorkloadSpec:
    return a_workload(1, an_inference(), waiting=waiting)


def test_a_request_waits_for_nodes_that_have_not_said_yet_what_they_answer_for(world: World) -> None:
    world.attach()
    world.load(node_id(1))
    after = world.recovered()
    after.submit(a_request(waiting=True))
    assert after.later(10) == ()  # ten times its patience
    after.cluster.state.check_invariants()
    after.load(node_id(1))
    assert after.workload(a_workload(1).id).phase is Phase.PLACED


def test_a_request_waits_no_longer_than_a_node_may_be_silent(world: World) -> None:
    world.attach()
    after = world.recovered()
    after.submit(a_request(waiting=True))
    after.later(16)
    assert after.workload(a_workload(1).id).phase is Phase.REJECTED


@pytest.mark.parametrize("fields", [{"capabilities": DriverCapabilities(containers=True)}, {"facade": "gone"}])
def test_a_request_does_not_wait_for_nodes_that_will_not_answer_it(world: World, fields: dict[str, Any]) -> None:
    epoch = world.attach(a_node(1, **fields))
    if "facade" in fields:
        world.handle(DetachNode(node_id=node_id(1), epoch=epoch))
    after = world.recovered()
    after.submit(a_request(waiting=True))
    after.later(1)
    assert after.workload(a_workload(1).id).phase is Phase.REJECTED


def test_the_patience_of_an_acknowledged_request_begins_anew(world: World) -> None:
    world.submit(a_request(waiting=False))
    world.now += timedelta(seconds=60)  # the scheduler was away
    after = world.recovered()
    assert after.tick().events == ()
    after.attach()
    after.load(node_id(1))
    assert after.workload(a_workload(1).id).phase is Phase.PLACED


def test_an_answer_that_was_lost_is_not_given_without_its_output(world: World) -> None:
    """Rows do not keep what went to a sender who waited; the scheduler may have died before it was said."""
    world.attach()
    world.load(node_id(1))
    world.submit(a_request(waiting=True))
    workload = world.workload(a_workload(1).id)
    world.report(workload, Phase.SUCCEEDED, result=Result(output=b"1"))
    assert world.submit(a_request(waiting=True)).awaits == workload.id  # memory has it still
    workload.result = Result(output=None)  # as the row has it
    after = world.recovered()
    with pytest.raises(ConflictError, match="was lost"):
        after.submit(a_request(waiting=True))


def test_leases_restart_at_full_term(world: World) -> None:
    world.attach()
    world.later(14)
    after = world.recovered()
    assert after.later(14) == ()
    assert len(after.later(2)) == 1


def test_an_idempotency_key_survives_recovery(world: World) -> None:
    world.submit(a_workload(1, request_id="key", request_digest="d"))
    after = world.recovered()
    reply = after.handle(SubmitWorkload(spec=a_workload(2, request_id="key", request_digest="d"))).reply
    assert isinstance(reply, Submitted)
    assert (reply.workload_id, reply.created) == (a_workload(1).id, False)


def test_pending_work_is_placed_after_recovery(world: World) -> None:
    world.submit(a_workload(1))
    after = world.recovered()
    after.attach(a_node(1))
    after.run_round()
    assert after.workload(a_workload(1).id).phase is Phase.PLACED


def test_what_waits_for_another_attempt_stands_behind_what_came_before_the_last_one_ended(world: World) -> None:
    world.attach()
    whole = Demand(cpu_milli=8000)
    world.submit(a_workload(1, demand=whole, preemptible=True))
    world.report(world.workload(a_workload(1).id), Phase.RUNNING)
    world.later(1)
    world.submit(a_workload(2, demand=whole, created_at=world.now))
    world.later(1)
    world.submit(a_workload(3, demand=whole, created_at=world.now, priority=Priority.CRITICAL))
    world.run_round()
    world.report(world.workload(a_workload(1).id), Phase.STOPPED)
    for each in (world, world.recovered()):
        each.attach(a_node(2))
        each.run_round()
        assert [each.workload(a_workload(number).id).phase for number in (1, 2)] == [Phase.PENDING, Phase.PLACED]
