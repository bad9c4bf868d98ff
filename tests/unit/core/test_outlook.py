"""Explanations: what a workload waits for, who is ahead, and an estimate where history gives one."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from arcray.core.commands import SetNodeScheduling
from arcray.core.explanation import WaitsFor, WorkloadExplanation
from arcray.core.gang import Gang
from arcray.core.ids import AccountId
from arcray.core.queries import ExplainWorkload
from arcray.core.resources import Demand
from arcray.core.workload import Origin, Phase, Priority, RestartPolicy, RestartRule, WorkloadSpec
from arcray.testing.builders import T0, a_node, a_workload, an_inference, node_id
from arcray.testing.world import World

WHOLE_NODE = Demand(cpu_milli=8000)


def whole(number: int, **fields: Any) -> WorkloadSpec:
    return a_workload(number, demand=WHOLE_NODE, created_at=T0 + timedelta(seconds=number), **fields)


def explained(world: World, number: int, account: AccountId | None = None) -> WorkloadExplanation:
    query = ExplainWorkload(workload_id=a_workload(number).id, account=account)
    found = world.cluster.answer(query, world.now)
    assert isinstance(found, WorkloadExplanation)
    return found


def seconds(world: World, at: datetime) -> float:
    return (at - world.now).total_seconds()


def ran(world: World, *durations_s: float) -> None:
    """Runs work of the shape ``whole`` one after the other."""
    world.attach(a_node(1, lease=a_node().lease.__class__(unhealthy_after_s=1e6, lost_after_s=1e7)))
    for number, duration_s in enumerate(durations_s, 100):
        world.submit(whole(number))
        world.later(duration_s)
        world.succeed(world.workload(a_workload(number).id))


def test_placed_work_waits_for_nothing(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    found = explained(world, 1)
    assert (found.waits_for, found.estimate, found.ahead) == (WaitsFor.NOTHING, None, 0)
    assert found.sentence() == f"it waits for nothing: it is placed on node {node_id(1)}"


def test_work_without_room_and_without_history_has_no_estimate(world: World) -> None:
    world.attach()
    world.submit(whole(1))
    world.submit(whole(2))
    found = explained(world, 2)
    assert (found.waits_for, found.estimate) == (WaitsFor.PLACE, None)
    assert found.sentence().endswith("; when it starts is unknown")


def test_who_is_ahead_goes_by_priority_then_arrival(world: World) -> None:
    world.attach()
    for number in range(1, 7):
        world.submit(whole(number, priority=Priority.CRITICAL if number == 6 else Priority.NORMAL))
    world.submit(a_workload(7, demand=WHOLE_NODE, priority=Priority.BACKGROUND))
    found = explained(world, 4)
    assert found.ahead == 3
    assert found.first_ahead == tuple(a_workload(number).id for number in (6, 2, 3))
    assert explained(world, 7).ahead == 5


def test_work_of_others_is_counted_and_not_named(world: World) -> None:
    ana = Origin(facade="rest", account=AccountId("ana"))
    for number in (1, 2):
        world.submit(whole(number))
    world.submit(whole(3, origin=ana))
    world.submit(whole(4, origin=ana))
    found = explained(world, 4, AccountId("ana"))
    assert (found.ahead, found.first_ahead) == (3, (a_workload(3).id,))


def test_an_estimate_goes_by_how_long_such_work_takes(world: World) -> None:
    ran(world, 10, 20, 30, 40, 50)
    world.submit(whole(1))
    world.submit(whole(2))
    world.later(5)
    found = explained(world, 2)
    assert found.estimate is not None
    assert [seconds(world, at) for at in (found.estimate.earliest, found.estimate.latest)] == [15, 35]
    assert found.estimate.basis == "1 such run now and such work takes 20 to 40 s"


def test_an_estimate_counts_those_of_its_kind_that_are_ahead(world: World) -> None:
    ran(world, 10, 10, 10)
    for number in range(1, 5):
        world.submit(whole(number))
    found = explained(world, 4)
    assert found.estimate is not None
    assert seconds(world, found.estimate.latest) == 30


def test_too_few_ends_are_no_history(world: World) -> None:
    ran(world, 10, 10)
    world.submit(whole(1))
    world.submit(whole(2))
    assert explained(world, 2).estimate is None


def test_without_any_that_run_an_estimate_goes_by_how_often_such_work_starts(world: World) -> None:
    ran(world, 10, 10, 10, 10)
    world.handle(SetNodeScheduling(node_id=node_id(1), cordoned=True))
    world.submit(whole(1))
    found = explained(world, 1)
    assert found.estimate is not None
    assert seconds(world, found.estimate.latest) == 10
    assert found.estimate.basis == "such work starts every 10 to 10 s"
    assert found.suggestion == f"uncordon node {node_id(1)}"


def test_work_in_back_off_says_until_when(world: World) -> None:
    world.attach()
    world.submit(a_workload(1, restart=RestartPolicy(rule=RestartRule.ON_FAILURE)))
    world.report(world.workload(a_workload(1).id), Phase.FAILED)
    found = explained(world, 1)
    assert (found.waits_for, found.not_before) == (WaitsFor.BACK_OFF, world.now + timedelta(seconds=1))
    assert found.estimate is not None
    assert found.estimate.earliest == found.not_before
    assert found.sentence().startswith("waits 1 s before it starts again; starts in 1 to 1 s")


def test_work_whose_back_off_is_over_says_what_it_waits_for_since(world: World) -> None:
    world.attach()
    world.submit(a_workload(1, demand=WHOLE_NODE, restart=RestartPolicy(rule=RestartRule.ON_FAILURE)))
    world.report(world.workload(a_workload(1).id), Phase.FAILED)
    world.submit(a_workload(2, demand=WHOLE_NODE))
    world.run_round()
    world.later(5)
    world.run_round()
    found = explained(world, 1)
    assert (found.waits_for, found.not_before) == (WaitsFor.PLACE, None)
    assert found.sentence().startswith("0 of 1 nodes can take it")


def test_a_request_waits_for_a_slot_behind_those_of_its_model(world: World) -> None:
    world.attach()
    world.load(node_id(1), slots=1)
    for number in range(1, 5):
        world.submit(a_workload(number, an_inference()))
        world.later(0.1)
        world.succeed(world.workload(a_workload(number).id))
    for number in (5, 6, 7):
        world.submit(a_workload(number, an_inference()))
    found = explained(world, 7)
    assert (found.waits_for, found.ahead) == (WaitsFor.SLOT, 1)
    assert found.estimate is not None
    assert seconds(world, found.estimate.latest) == pytest.approx(0.2)


def test_a_node_that_is_away_is_not_advised_to_be_uncordoned(world: World) -> None:
    world.attach()
    world.later(200)
    world.submit(a_workload(1))
    found = explained(world, 1)
    assert [(refusal.filter, refusal.nodes) for refusal in found.refusals] == [("attached", 1)]
    assert (found.suggestion, found.placement.change) == ("", None)


def test_history_begins_with_the_finished_work_that_recovery_reads(world: World) -> None:
    ran(world, 10, 10, 10)
    world.cluster = world.recovered().cluster
    world.submit(whole(1))
    world.submit(whole(2))
    found = explained(world, 2)
    assert found.estimate is not None
    assert seconds(world, found.estimate.latest) == 10


def a_member(number: int, size: int = 2, **fields: Any) -> WorkloadSpec:
    return whole(number, gang=Gang(id="g", size=size), **fields)


def test_an_incomplete_gang_waits_for_its_members_whatever_room_there_is(world: World) -> None:
    world.attach()
    world.attach(a_node(2))
    world.submit(a_member(1))
    found = explained(world, 1)
    assert (found.waits_for, found.estimate) == (WaitsFor.GANG, None)


def test_a_gang_in_back_off_has_all_of_its_members_wait_for_the_last_one(world: World) -> None:
    world.attach()
    world.attach(a_node(2))
    for number in (1, 2):
        world.submit(a_member(number))
    world.report(world.workload(a_workload(1).id), Phase.FAILED, refused=True, message="no image")
    world.report(world.workload(a_workload(2).id), Phase.STOPPED)
    for number in (1, 2):
        found = explained(world, number)
        assert (found.waits_for, found.not_before) == (WaitsFor.BACK_OFF, world.now + timedelta(seconds=1))
        assert found.estimate is not None
        assert found.estimate.earliest == found.not_before


def test_a_gang_that_does_not_fit_at_once_waits_for_a_place_without_an_estimate(world: World) -> None:
    ran(world, 10, 10, 10, 10, 10)
    world.submit(a_member(11))
    world.submit(a_member(12))
    for number in (11, 12):
        found = explained(world, number)
        assert (found.waits_for, found.estimate) == (WaitsFor.PLACE, None)


def test_a_place_that_is_kept_while_others_end_has_no_estimate(world: World) -> None:
    world.attach()
    world.submit(whole(1, priority=Priority.BACKGROUND, preemptible=True))
    world.report(world.workload(a_workload(1).id), Phase.RUNNING)
    world.submit(whole(2, priority=Priority.CRITICAL))
    world.run_round()
    assert world.workload(a_workload(2).id).claim is not None
    found = explained(world, 2)
    assert (found.waits_for, found.estimate) == (WaitsFor.PLACE, None)
