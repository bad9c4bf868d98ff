"""Quotas: what waits, what is refused, and that an account at its limit is nobody else's concern."""

from __future__ import annotations

from typing import Any

import pytest

from arcray.core.commands import DrainNode, RegisterModel, Schedule, SetQuota
from arcray.core.errors import InvalidArgumentError, ResourceExhaustedError
from arcray.core.explanation import WaitsFor, WorkloadExplanation
from arcray.core.ids import AccountId
from arcray.core.policy import ClusterPolicy
from arcray.core.quantity import GIB
from arcray.core.queries import ExplainWorkload, GetQuota, ListQuotas, QuotaPage, QuotaView
from arcray.core.quota import Quota, Usage
from arcray.core.resources import Demand
from arcray.core.workload import ModelServer, Origin, Phase, RestartPolicy, RestartRule, WorkloadSpec
from arcray.testing.builders import T0, a_capacity, a_model, a_node, a_workload, an_inference, node_id
from arcray.testing.world import World, candidates

ANA, BO = AccountId("ana"), AccountId("bo")


def of(account: AccountId, number: int, payload: Any = None, **fields: Any) -> WorkloadSpec:
    return a_workload(number, payload, origin=Origin(facade="rest", account=account), **fields)


def allow(world: World, account: AccountId, **limits: int) -> None:
    world.handle(SetQuota(account=account, quota=Quota(**limits)))


def phase(world: World, number: int) -> Phase:
    return world.workload(a_workload(number).id).phase


def explained(world: World, number: int) -> WorkloadExplanation:
    found = world.cluster.answer(ExplainWorkload(workload_id=a_workload(number).id), world.now)
    assert isinstance(found, WorkloadExplanation)
    return found


def test_work_over_quota_is_accepted_and_waits_until_something_is_given_back(world: World) -> None:
    world.attach()
    allow(world, ANA, workloads=1)
    world.submit(of(ANA, 1))
    world.submit(of(ANA, 2))
    assert (phase(world, 1), phase(world, 2)) == (Phase.PLACED, Phase.PENDING)
    world.succeed(world.workload(a_workload(1).id))
    world.run_round()
    assert phase(world, 2) is Phase.PLACED


def test_explanation_names_the_quota_with_its_numbers(world: World) -> None:
    world.attach()
    allow(world, ANA, cpu_milli=1500)
    world.submit(of(ANA, 1))
    world.submit(of(ANA, 2))
    found = explained(world, 2)
    assert found.waits_for is WaitsFor.QUOTA
    assert [(r.filter, r.nodes, r.reason) for r in found.refusals] == [
        ("quota", 1, "account ana holds 1 of 1.5 cpu and this asks for 1")
    ]
    assert found.suggestion == "account ana must give back what is over its quota, or get a larger one"
    assert found.placement.fits == 1


def test_an_account_at_its_limit_does_not_hold_up_others(world: World) -> None:
    world.attach()
    allow(world, ANA, workloads=1)
    for number in range(1, 6):
        world.submit(of(ANA, number))
    world.submit(of(BO, 6))
    world.run_round()
    assert phase(world, 6) is Phase.PLACED


def test_an_account_at_its_limit_costs_later_rounds_nothing(world: World) -> None:
    world.attach()
    allow(world, ANA, workloads=1)
    for number in range(1, 101):
        world.submit(of(ANA, number))
    world.run_round()
    assert world.cluster.state.pending.ready == 0
    assert list(candidates(world.cluster.state.pending)) == []


def test_smaller_work_of_the_same_account_still_starts(world: World) -> None:
    world.attach(a_node(capacity=a_capacity(gpus=4)))
    allow(world, ANA, gpus=2)
    world.submit(of(ANA, 1, demand=Demand(gpus=2)))
    world.submit(of(ANA, 2, demand=Demand(gpus=1)))
    world.submit(of(ANA, 3, demand=Demand(cpu_milli=1000)))
    world.run_round()
    assert (phase(world, 2), phase(world, 3)) == (Phase.PENDING, Phase.PLACED)


@pytest.mark.parametrize(
    ("limits", "demand", "field"),
    [
        ({"cpu_milli": 500}, Demand(cpu_milli=1000), "demand.cpu"),
        ({"memory_bytes": GIB}, Demand(memory_bytes=2 * GIB), "demand.memory"),
        ({"gpus": 1}, Demand(gpus=2), "demand.gpus"),
        ({"workloads": 0}, Demand(), "account"),
    ],
)
def test_what_exceeds_the_quota_by_itself_is_refused(
    world: World, limits: dict[str, int], demand: Demand, field: str
) -> None:
    allow(world, ANA, **limits)
    with pytest.raises(InvalidArgumentError, match="could never start") as refused:
        world.submit(of(ANA, 1, demand=demand))
    assert refused.value.field == field


def test_one_too_many_in_the_queue_is_refused(world: World) -> None:
    allow(world, ANA, pending=2)
    world.submit(of(ANA, 1))
    world.submit(of(ANA, 2))
    with pytest.raises(ResourceExhaustedError, match="account ana has 2 workloads waiting"):
        world.submit(of(ANA, 3))
    world.submit(of(BO, 4))
    world.stop(a_workload(1).id)
    world.submit(of(ANA, 3))


def test_a_larger_quota_lets_what_waits_start(world: World) -> None:
    world.attach()
    allow(world, ANA, workloads=1)
    for number in (1, 2, 3):
        world.submit(of(ANA, number))
    allow(world, ANA, workloads=2)
    world.run_round()
    assert [phase(world, number) for number in (1, 2, 3)] == [Phase.PLACED, Phase.PLACED, Phase.PENDING]
    world.handle(SetQuota(account=ANA, quota=None))
    world.run_round()
    assert phase(world, 3) is Phase.PLACED


def test_a_smaller_quota_takes_nothing_away(world: World) -> None:
    world.attach()
    for number in (1, 2):
        world.submit(of(ANA, number))
    allow(world, ANA, workloads=1)
    assert [phase(world, number) for number in (1, 2)] == [Phase.PLACED, Phase.PLACED]


def test_work_that_stood_aside_comes_back_at_its_old_place(world: World) -> None:
    world.attach(a_node(capacity=a_capacity(cores=2)))
    allow(world, ANA, workloads=1)
    for number in (1, 2, 3):
        world.submit(of(ANA, number))
    world.run_round()
    world.submit(of(BO, 4, demand=Demand(cpu_milli=1500)))
    allow(world, ANA, workloads=3)
    world.run_round()
    assert [phase(world, n) for n in (2, 3, 4)] == [Phase.PLACED, Phase.PENDING, Phase.PENDING]


def test_requests_count_against_no_quota(world: World) -> None:
    world.attach()
    world.load(node_id(1))
    allow(world, ANA, workloads=0)
    world.submit(of(ANA, 1, an_inference()))
    assert phase(world, 1) is Phase.PLACED


def test_a_copy_that_lets_another_one_end_needs_no_quota_of_its_own(world: World) -> None:
    world.attach()
    world.attach(a_node(2))
    world.handle(RegisterModel(model=a_model()))
    allow(world, ANA, workloads=1)
    world.submit(of(ANA, 1, ModelServer(model=a_model()), restart=RestartPolicy(rule=RestartRule.ON_FAILURE)))
    copy = world.workload(a_workload(1).id)
    assert copy.node_id is not None
    world.report(copy, Phase.RUNNING)
    world.handle(DrainNode(node_id=copy.node_id))
    world.run_round()
    assert world.replacement(copy).phase is Phase.PLACED


def test_a_copy_that_lets_another_one_end_does_not_stand_behind_work_over_quota(world: World) -> None:
    full, small = Demand(cpu_milli=8000), Demand(cpu_milli=1000)
    world.attach()
    world.attach(a_node(2, capacity=a_capacity(cores=1)))
    world.handle(RegisterModel(model=a_model()))
    allow(world, ANA, workloads=2)
    for number, demand in ((1, full), (2, small), (3, full)):  # the last one is what the replacement would stand behind
        world.submit(of(ANA, number, ModelServer(model=a_model()), demand=demand))
        world.run_round()
    copy = world.workload(a_workload(1).id)
    world.report(copy, Phase.RUNNING)
    world.handle(DrainNode(node_id=node_id(1)))
    world.run_round()
    world.succeed(world.workload(a_workload(2).id))
    world.submit(of(ANA, 4, demand=small))  # the account is at its quota again
    world.run_round()
    world.attach(a_node(3))
    world.run_round()
    assert (world.replacement(copy).phase, phase(world, 3), phase(world, 4)) == (
        Phase.PLACED,
        Phase.PENDING,
        Phase.PLACED,
    )


def test_a_copy_whose_replaced_one_has_ended_waits_for_quota_and_holds_no_other_one_up(world: World) -> None:
    full = Demand(cpu_milli=8000)
    world.handle(RegisterModel(model=a_model()))
    allow(world, ANA, workloads=2)
    for number in (1, 2):
        world.attach(a_node(number))
        world.submit(of(ANA, number, ModelServer(model=a_model()), demand=full))
    first, second = (world.workload(a_workload(number).id) for number in (1, 2))
    for copy in (first, second):
        world.report(copy, Phase.RUNNING)
        assert copy.node_id is not None
        world.handle(DrainNode(node_id=copy.node_id))
    world.report(first, Phase.FAILED)  # its replacement is over quota once other work has taken its place
    world.attach(a_node(3, capacity=a_capacity(cores=1)))
    world.submit(of(ANA, 3, demand=Demand(cpu_milli=1000)))
    world.run_round()
    world.attach(a_node(4))
    world.run_round()
    assert world.cluster.state.pending.is_blocked(world.replacement(first).id)
    assert world.replacement(second).phase is Phase.PLACED


def test_setting_the_same_quota_again_is_one_fact(world: World) -> None:
    command = SetQuota(account=ANA, quota=Quota(gpus=1))
    assert len(world.handle(command).events) == 1
    assert world.handle(command).events == ()


@pytest.mark.parametrize("account", ["", "x" * 257])
def test_an_account_that_cannot_be_one_is_refused(world: World, account: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        world.handle(SetQuota(account=AccountId(account), quota=None))
    assert refused.value.field == "account"


@pytest.mark.parametrize(("limits", "field"), [({"gpus": -1}, "quota.gpus"), ({"pending": 0}, "quota.pending")])
def test_a_limit_that_is_none_is_refused(limits: dict[str, int], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        Quota(**limits)
    assert refused.value.field == field


def test_the_default_holds_for_everyone_without_a_quota() -> None:
    world = World(ClusterPolicy(default_quota=Quota(workloads=1)), T0)
    world.attach()
    allow(world, BO, workloads=2)
    for number, account in enumerate((ANA, ANA, BO, BO), 1):
        world.submit(of(account, number))
    world.run_round()
    assert [phase(world, n) for n in range(1, 5)] == [Phase.PLACED, Phase.PENDING, Phase.PLACED, Phase.PLACED]
    world.cluster.state.check_invariants()


def test_a_round_over_many_accounts_asks_placement_once_for_what_they_share() -> None:
    world = World(ClusterPolicy(default_quota=Quota(workloads=1)), T0)
    world.attach(a_node(capacity=a_capacity(cores=1)))
    for number in range(1, 201):
        world.submit(of(AccountId(f"account-{number}"), number))
    assert len(list(candidates(world.cluster.state.pending))) == 1
    world.handle(Schedule())
    world.cluster.state.check_invariants()


def test_quotas_and_what_is_held_of_them_are_told(world: World) -> None:
    world.attach()
    allow(world, ANA, gpus=3)
    world.submit(of(BO, 1))
    world.submit(of(ANA, 2, demand=Demand(gpus=1)))
    view = world.cluster.answer(GetQuota(account=ANA), world.now)
    assert view == QuotaView(account=ANA, quota=Quota(gpus=3), own=True, usage=Usage(), pending=1)
    page = world.cluster.answer(ListQuotas(), world.now)
    assert isinstance(page, QuotaPage)
    assert [(each.account, each.own, each.usage.cpu_milli) for each in page.quotas] == [
        (ANA, True, 0),
        (BO, False, 1000),
    ]
