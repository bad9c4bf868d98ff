from __future__ import annotations

import pytest

from arcray.core import events as ev
from arcray.core.commands import (
    Attached,
    AttachNode,
    DetachNode,
    Heard,
    ReportTelemetry,
    Running,
    SetNodeScheduling,
)
from arcray.core.errors import InvalidArgumentError, NotFoundError, StaleReportError
from arcray.core.node import EnergySource, Health, LeaseTerms, Telemetry
from arcray.core.orders import StopAttempt
from arcray.core.quantity import GIB
from arcray.core.queries import GetNode
from arcray.core.resources import Demand
from arcray.core.workload import Phase, RestartPolicy, RestartRule
from arcray.testing.builders import T0, a_capacity, a_node, a_workload, node_id
from arcray.testing.world import World

N1 = node_id(1)


def health(world: World) -> Health:
    return world.cluster.state.nodes[N1].health


def test_a_new_node_is_healthy_at_epoch_1(world: World) -> None:
    assert world.attach() == 1
    assert health(world) is Health.HEALTHY


def test_every_attachment_has_the_next_epoch(world: World) -> None:
    assert [world.attach() for _ in range(3)] == [1, 2, 3]


def test_a_report_of_an_earlier_attachment_is_refused(world: World) -> None:
    world.attach()
    world.attach()
    with pytest.raises(StaleReportError):
        world.handle(ReportTelemetry(node_id=N1, epoch=1))


def test_a_report_of_an_unknown_node_is_refused(world: World) -> None:
    with pytest.raises(NotFoundError):
        world.handle(ReportTelemetry(node_id=N1, epoch=1))


def test_a_lease_that_loses_before_it_worries_is_refused(world: World) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        world.attach(a_node(lease=LeaseTerms(unhealthy_after_s=10, lost_after_s=5)))
    assert refused.value.field == "lease"
    assert not world.cluster.state.nodes


def test_silence_makes_a_node_unhealthy_then_lost(world: World) -> None:
    world.attach()
    assert world.later(14.9) == ()
    assert health(world) is Health.HEALTHY
    world.later(0.2)
    assert health(world) is Health.UNHEALTHY
    world.later(140)
    assert health(world) is Health.LOST


def test_a_heartbeat_renews_the_lease(world: World) -> None:
    world.attach()
    for _ in range(20):
        world.later(10)
        world.handle(ReportTelemetry(node_id=N1, epoch=1))
    assert health(world) is Health.HEALTHY


def test_an_unhealthy_node_that_is_heard_is_healthy_and_its_next_silence_counts_in_full(world: World) -> None:
    world.attach()
    world.later(20)
    world.handle(ReportTelemetry(node_id=N1, epoch=1))
    assert health(world) is Health.HEALTHY
    world.later(14)
    assert health(world) is Health.HEALTHY
    world.later(2)
    assert health(world) is Health.UNHEALTHY


def test_a_lost_node_must_attach_again(world: World) -> None:
    world.attach()
    world.later(200)
    with pytest.raises(StaleReportError):
        world.handle(ReportTelemetry(node_id=N1, epoch=1))
    assert world.attach() == 2
    assert health(world) is Health.HEALTHY


def test_an_unhealthy_node_takes_no_new_work_and_keeps_its_own(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    world.later(20)
    world.submit(a_workload(2))
    assert world.workload(a_workload(1).id).phase is Phase.PLACED
    assert world.workload(a_workload(2).id).phase is Phase.PENDING


def test_a_lost_node_fails_work_that_may_not_restart(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    world.later(200)
    lost = world.workload(a_workload(1).id)
    assert (lost.phase, lost.message) == (Phase.FAILED, "its node was lost")


def test_a_lost_node_requeues_restartable_work_which_another_node_takes(world: World) -> None:
    world.attach()
    world.submit(a_workload(1, restart=RestartPolicy(rule=RestartRule.ON_FAILURE)))
    world.later(151)
    world.attach(a_node(2))
    world.later(2)
    world.run_round()
    again = world.workload(a_workload(1).id)
    assert (again.phase, again.node_id, again.attempt, again.restarts) == (Phase.PLACED, node_id(2), 2, 1)


def test_a_node_that_leaves_gives_its_work_up_at_once(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    world.handle(DetachNode(node_id=N1, epoch=1, reason="maintenance"))
    assert world.workload(a_workload(1).id).message == "its node left: maintenance"
    assert health(world) is Health.GONE


def test_work_found_on_a_node_that_comes_back_goes_on(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    world.report(world.workload(a_workload(1).id), Phase.RUNNING)
    reply = world.handle(
        AttachNode(registration=a_node(), inventory=(Running(workload_id=a_workload(1).id, attempt=1),))
    ).reply
    assert reply == Attached(node_id=N1, epoch=2, stop=())
    assert world.workload(a_workload(1).id).phase is Phase.RUNNING


def test_work_missing_on_a_node_that_comes_back_fails(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    world.report(world.workload(a_workload(1).id), Phase.RUNNING)
    world.attach()
    assert world.workload(a_workload(1).id).phase is Phase.FAILED


def test_an_order_that_never_arrived_is_given_again_under_a_new_attempt_without_counting_as_a_restart(
    world: World,
) -> None:
    world.attach()
    world.submit(a_workload(1))
    world.attach()
    world.run_round()
    again = world.workload(a_workload(1).id)
    assert (again.phase, again.attempt, again.restarts) == (Phase.PLACED, 2, 0)


def test_a_node_is_told_to_stop_work_that_the_cluster_does_not_know(world: World) -> None:
    unknown = Running(workload_id=a_workload(9).id, attempt=1)
    reply = world.handle(AttachNode(registration=a_node(), inventory=(unknown,))).reply
    assert isinstance(reply, Attached)
    assert reply.stop == (unknown,)


def test_a_node_is_told_to_stop_an_attempt_that_was_given_up_meanwhile(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    world.later(200)
    old = Running(workload_id=a_workload(1).id, attempt=1)
    reply = world.handle(AttachNode(registration=a_node(), inventory=(old,))).reply
    assert isinstance(reply, Attached)
    assert reply.stop == (old,)


def test_work_that_was_stopping_when_its_node_went_is_stopped_again_when_it_comes_back(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    world.report(world.workload(a_workload(1).id), Phase.RUNNING)
    world.stop(a_workload(1).id)
    found = (Running(workload_id=a_workload(1).id, attempt=1),)
    orders = world.handle(AttachNode(registration=a_node(), inventory=found)).orders
    assert [type(order.order) for order in orders] == [StopAttempt]
    assert orders[0].epoch == 2


def test_a_cordoned_node_takes_nothing_new_until_it_is_uncordoned(world: World) -> None:
    world.attach()
    world.handle(SetNodeScheduling(node_id=N1, cordoned=True))
    world.submit(a_workload(1))
    assert world.workload(a_workload(1).id).phase is Phase.PENDING
    world.handle(SetNodeScheduling(node_id=N1, cordoned=False))
    world.run_round()
    assert world.workload(a_workload(1).id).phase is Phase.PLACED


def test_cordoning_twice_is_one_fact(world: World) -> None:
    world.attach()
    assert len(world.handle(SetNodeScheduling(node_id=N1, cordoned=True)).events) == 1
    assert world.handle(SetNodeScheduling(node_id=N1, cordoned=True)).events == ()


@pytest.mark.parametrize(("levels", "warnings"), [([0.5, 0.2, 0.15, 0.1], 1), ([0.1, 0.5, 0.2], 2), ([0.21, 0.3], 0)])
def test_a_low_battery_is_told_once_per_crossing(world: World, levels: list[float], warnings: int) -> None:
    world.attach()
    told = 0
    for level in levels:
        reading = Telemetry(at=T0, battery_level=level, energy_source=EnergySource.BATTERY)
        events = world.handle(ReportTelemetry(node_id=N1, epoch=1, telemetry=reading)).events
        told += sum(isinstance(event, ev.BatteryRanLow) for event in events)
    assert told == warnings


def test_a_low_battery_on_the_grid_is_nobodys_concern(world: World) -> None:
    world.attach()
    reading = Telemetry(at=T0, battery_level=0.1, energy_source=EnergySource.GRID)
    events = world.handle(ReportTelemetry(node_id=N1, epoch=1, telemetry=reading)).events
    assert not any(isinstance(event, ev.BatteryRanLow) for event in events)


def test_time_that_goes_back_counts_as_the_newest_so_far(world: World) -> None:
    world.later(100)
    world.attach()
    world.now = T0
    world.handle(ReportTelemetry(node_id=N1, epoch=1))
    assert (world.cluster.state.nodes[N1].last_seen - T0).total_seconds() == 100


def test_an_ordinary_heartbeat_is_only_heard(world: World) -> None:
    world.attach()
    assert world.handle(ReportTelemetry(node_id=N1, epoch=1)).reply == Heard(report_models=False)


def test_a_node_view_counts_what_is_free(world: World) -> None:
    world.attach()
    world.submit(a_workload(1))
    view = world.cluster.answer(GetNode(node_id=N1), world.now)
    assert hasattr(view, "cpu_milli_free")
    assert view.cpu_milli_free == 7000


def test_a_node_that_came_back_smaller_keeps_what_runs_there_and_takes_nothing_new_until_that_fits(
    world: World,
) -> None:
    world.attach(a_node(capacity=a_capacity(gpus=1)))
    share = Demand(gpus=1, gpu_memory_bytes=40 * GIB)
    for number in (1, 2):
        world.submit(a_workload(number, demand=share))
    world.run_round()
    first, second = (world.workload(a_workload(number).id) for number in (1, 2))
    found = tuple(Running(workload_id=each.id, attempt=each.attempt) for each in (first, second))
    world.attach_with(found, a_node(capacity=a_capacity(gpus=1, gpu_memory_gib=40)))
    assert (first.phase, second.phase) == (Phase.PLACED, Phase.PLACED)
    assert world.cluster.state.placement.free(N1).overcommitted_gpus == {0}
    world.submit(a_workload(3))
    world.run_round()
    assert world.workload(a_workload(3).id).phase is Phase.PENDING
    world.cluster.state.check_invariants()
    world.succeed(first)
    world.run_round()
    assert world.workload(a_workload(3).id).phase is Phase.PLACED
