"""Accounts, transfers, and what work pays: hold, settle, refund."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import count, pairwise
from typing import Any

import pytest

from arcray.core import commands as cmd
from arcray.core import events as ev
from arcray.core.errors import (
    AlreadyExistsError,
    Code,
    IdempotencyMismatchError,
    InsufficientCreditsError,
    InvalidArgumentError,
    NotFoundError,
)
from arcray.core.gang import Gang
from arcray.core.ids import AccountId, EntryId, WorkloadId
from arcray.core.ledger import ISSUER, Account, Book, EntryKind, SpendingLimit
from arcray.core.node import LeaseTerms
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.policy import ClusterPolicy
from arcray.core.quantity import GIB, MAX_QUANTITY
from arcray.core.resources import Demand
from arcray.core.tariff import Meter, Prices, Tariff, minute_price
from arcray.core.workload import Origin, Phase, RestartPolicy, RestartRule, WorkloadSpec
from arcray.testing.builders import T0, a_capacity, a_container, a_node, a_workload, an_inference, node_id
from arcray.testing.world import World

ANA, BO, EVE, OPERATOR = map(AccountId, ("ana", "bo", "eve", "operator"))
PATIENT = LeaseTerms(unhealthy_after_s=1e6, lost_after_s=1e7)
PRICED = ClusterPolicy(prices=Prices(cpu_core_minute=6, workload=1, inference=2))
NUMBERS = count(1)


@pytest.fixture
def policy() -> ClusterPolicy:
    return PRICED


def of(account: AccountId, number: int = 1, **fields: Any) -> WorkloadSpec:
    return a_workload(number, origin=Origin(facade="rest", account=account), **fields)


def account(world: World, account_id: AccountId) -> Account:
    return world.cluster.state.books.accounts[account_id]


def stands(world: World, account_id: AccountId) -> tuple[int, int]:
    found = account(world, account_id)
    return found.available, found.held


def fund(world: World, account_id: AccountId, credits: int, **terms: object) -> None:
    world.handle(cmd.OpenAccount(account_id=account_id, **terms))  # type: ignore[arg-type]  # what a test names
    world.handle(cmd.IssueCredits(id=EntryId(f"fund-{account_id}"), account_id=account_id, credits=credits))


def transfer(world: World, source: AccountId, target: AccountId, credits: int, **fields: str) -> cmd.Posted:
    identity = EntryId(f"transfer-{next(NUMBERS)}")
    moved = world.handle(
        cmd.TransferCredits(id=identity, source=source, target=target, credits=credits, asked_by=source, **fields)
    )
    assert isinstance(moved.reply, cmd.Posted)
    return moved.reply


def running(world: World, spec: WorkloadSpec) -> WorkloadId:
    world.submit(spec)
    world.report(world.workload(spec.id), Phase.RUNNING)
    return spec.id


# -- accounts --------------------------------------------------------------------------------------------------------


def test_issued_credits_are_owed_by_the_issuer(world: World) -> None:
    fund(world, ANA, 100)
    assert stands(world, ANA) == (100, 0)
    assert stands(world, ISSUER) == (-100, 0)


def test_opening_an_account_again_on_the_same_terms_changes_nothing(world: World) -> None:
    limit = SpendingLimit(credits=5, period_s=60)
    assert world.handle(cmd.OpenAccount(account_id=ANA, limit=limit)).events
    assert world.handle(cmd.OpenAccount(account_id=ANA, limit=limit)).events == ()
    with pytest.raises(AlreadyExistsError):
        world.handle(cmd.OpenAccount(account_id=ANA))


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", ".", "..", "...", "@issuer", " a", "a\n", "x" * 129])
def test_a_name_that_no_account_can_have_is_refused(world: World, name: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        world.handle(cmd.OpenAccount(account_id=AccountId(name)))
    assert caught.value.field == "id"


def test_a_transfer_moves_what_it_says(world: World) -> None:
    fund(world, ANA, 100)
    fund(world, BO, 1)
    entry = transfer(world, ANA, BO, 30).entry
    assert {(p.account, p.credits, p.balance) for p in entry.postings} == {(ANA, -30, 70), (BO, 30, 31)}
    assert entry.kind is EntryKind.TRANSFER


@pytest.mark.parametrize(
    ("target", "credits", "error", "field"),
    [
        (BO, 101, InsufficientCreditsError, "credits"),
        (BO, 0, InvalidArgumentError, "credits"),
        (BO, -5, InvalidArgumentError, "credits"),
        (ANA, 5, InvalidArgumentError, "to"),
        (EVE, 5, NotFoundError, "to"),
        (ISSUER, 5, NotFoundError, "to"),
    ],
)
def test_a_transfer_that_cannot_be_is_refused(
    world: World, target: AccountId, credits: int, error: type[Exception], field: str
) -> None:
    fund(world, ANA, 100)
    fund(world, BO, 1)
    with pytest.raises(error) as caught:
        transfer(world, ANA, target, credits)
    assert getattr(caught.value, "field", None) == field
    assert stands(world, ANA) == (100, 0)


def test_a_request_that_comes_again_moves_nothing_again(world: World) -> None:
    fund(world, ANA, 100)
    fund(world, BO, 1)
    first = transfer(world, ANA, BO, 30, request_id="key")
    second = transfer(world, ANA, BO, 30, request_id="key")
    assert (first.created, second.created, second.entry) == (True, False, first.entry)
    assert stands(world, ANA) == (70, 0)
    with pytest.raises(IdempotencyMismatchError):
        transfer(world, ANA, BO, 31, request_id="key")


def test_a_request_without_a_key_that_its_client_asks_again_moves_nothing_again(world: World) -> None:
    fund(world, ANA, 100)
    fund(world, BO, 1)
    asked = cmd.TransferCredits(id=EntryId("once"), source=ANA, target=BO, credits=30, asked_by=ANA)
    first, second = (world.handle(asked).reply for _ in range(2))
    assert isinstance(first, cmd.Posted)
    assert second == replace(first, created=False)
    assert stands(world, ANA) == (70, 0)
    with pytest.raises(AlreadyExistsError):
        world.handle(replace(asked, credits=31))


def test_a_key_belongs_to_the_account_that_asked(world: World) -> None:
    fund(world, ANA, 100)
    fund(world, BO, 100)
    transfer(world, ANA, BO, 30, request_id="key")
    assert transfer(world, BO, ANA, 5, request_id="key").created


def test_no_more_is_issued_than_stays_exact(world: World) -> None:
    fund(world, ANA, MAX_QUANTITY)
    with pytest.raises(InvalidArgumentError, match="no more than 0"):
        world.handle(cmd.IssueCredits(id=EntryId("e"), account_id=ANA, credits=1))


def test_an_overdraft_may_be_used_and_not_passed(world: World) -> None:
    fund(world, ANA, 1, overdraft=10)
    fund(world, BO, 1)
    transfer(world, ANA, BO, 11)
    assert stands(world, ANA) == (-10, 0)
    with pytest.raises(InsufficientCreditsError):
        transfer(world, ANA, BO, 1)


# -- work without a price --------------------------------------------------------------------------------------------


def test_work_without_a_price_writes_nothing() -> None:
    world = World(ClusterPolicy())
    world.handle(cmd.OpenAccount(account_id=ANA))
    world.attach()
    outcome = world.submit(of(ANA))
    assert not any(isinstance(event, ev.WorkloadCharged) for event in outcome.events)
    assert world.workload(of(ANA).id).meter is None


# -- hold, settle, refund --------------------------------------------------------------------------------------------


def test_admission_sets_the_start_and_the_first_period_aside(world: World) -> None:
    fund(world, ANA, 100)
    world.submit(of(ANA))
    assert stands(world, ANA) == (93, 7)


def test_an_account_that_cannot_pay_the_first_period_is_refused(world: World) -> None:
    fund(world, ANA, 6)
    for who in (ANA, EVE):
        with pytest.raises(InsufficientCreditsError, match="this costs 7") as caught:
            world.submit(of(who))
        assert (caught.value.code, caught.value.field) == (Code.INSUFFICIENT_CREDITS, "credits")
    assert stands(world, ANA) == (6, 0)


def test_work_that_never_ran_is_refunded(world: World) -> None:
    fund(world, ANA, 100)
    world.submit(of(ANA))
    world.stop(of(ANA).id)
    assert stands(world, ANA) == (100, 0)


@pytest.mark.parametrize(("seconds", "paid"), [(0, 1), (0.5, 2), (10, 2), (10.5, 3), (59, 7), (60, 7), (61, 8)])
def test_work_pays_for_what_it_used(world: World, seconds: float, paid: int) -> None:
    fund(world, ANA, 100)
    world.attach()
    workload_id = running(world, of(ANA))
    world.later(seconds)
    world.succeed(world.workload(workload_id))
    assert stands(world, ANA) == (100 - paid, 0)
    assert stands(world, OPERATOR) == (paid, 0)
    meter = world.workload(workload_id).meter
    assert meter is not None
    assert (meter.paid, meter.held) == (paid, 0)


def test_each_period_is_settled_when_it_ends(world: World) -> None:
    fund(world, ANA, 100)
    world.attach(a_node(lease=PATIENT))
    running(world, of(ANA))
    world.later(60)
    assert (stands(world, ANA), stands(world, OPERATOR)) == ((87, 6), (7, 0))
    world.later(60)
    assert (stands(world, ANA), stands(world, OPERATOR)) == ((81, 6), (13, 0))


def test_periods_that_nobody_saw_end_are_settled_together(world: World) -> None:
    fund(world, ANA, 100)
    world.attach(a_node(lease=PATIENT))
    running(world, of(ANA))
    world.now += timedelta(seconds=190)
    world.tick()
    assert (stands(world, ANA), stands(world, OPERATOR)) == ((75, 6), (19, 0))


@pytest.mark.parametrize("seconds", [20, 300])
def test_another_period_after_a_restart_costs_nothing_twice(world: World, seconds: int) -> None:
    fund(world, ANA, 100)
    world.attach(a_node(lease=PATIENT))
    workload_id = running(world, of(ANA))
    world.later(60)
    world.cluster.policy = replace(PRICED, charge_period=timedelta(seconds=seconds))
    world.later(540)
    world.succeed(world.workload(workload_id))
    assert (stands(world, ANA), stands(world, OPERATOR)) == ((39, 0), (61, 0))


@pytest.mark.parametrize("wrong", [{"minute": -1}, {"step_s": 0}, {"owned_minute": -1}, {"start": 10**13}])
def test_a_tariff_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Tariff(**wrong)
    assert caught.value.field is not None
    assert caught.value.field.startswith("tariff.")


def test_work_whose_next_period_cannot_be_paid_is_stopped_with_that_reason(world: World) -> None:
    fund(world, ANA, 15)
    world.attach(a_node(lease=PATIENT))
    workload_id = running(world, of(ANA))
    world.later(120)
    assert world.workload(workload_id).phase is Phase.STOPPING
    assert (stands(world, ANA), stands(world, OPERATOR)) == ((2, 0), (13, 0))
    world.later(5)
    world.report(world.workload(workload_id), Phase.STOPPED, message="killed")
    ended = world.workload(workload_id)
    assert ended.phase is Phase.STOPPED
    assert ended.message == "out of credits: account ana has 2 credits; this costs 6"
    assert stands(world, ANA) == (2, 0)


def test_what_nobody_could_pay_in_an_outage_is_not_made_up(world: World) -> None:
    fund(world, ANA, 15)
    world.attach(a_node(lease=PATIENT))
    workload_id = running(world, of(ANA))
    world.now += timedelta(seconds=600)
    outcome = world.tick()
    assert any(isinstance(each.order, StopAttempt) for each in outcome.orders)
    assert (stands(world, ANA), stands(world, OPERATOR)) == ((0, 0), (15, 0))
    assert world.workload(workload_id).phase is Phase.STOPPING


def test_the_owner_of_a_node_is_paid_and_the_operator_has_its_share() -> None:
    world = World(replace(PRICED, owner_share_percent=85))
    fund(world, ANA, 100)
    world.attach(a_node(owner=BO))
    workload_id = running(world, of(ANA))
    world.later(60)
    world.succeed(world.workload(workload_id))
    assert (stands(world, BO), stands(world, OPERATOR)) == ((5, 0), (2, 0))
    world.cluster.state.check_invariants()


def test_who_runs_on_a_node_of_their_own_pays_themselves(world: World) -> None:
    fund(world, ANA, 100)
    world.attach(a_node(owner=ANA))
    workload_id = running(world, of(ANA))
    world.later(60)
    world.succeed(world.workload(workload_id))
    assert stands(world, ANA) == (100, 0)


def test_a_lost_node_is_paid_to_its_last_sign_of_life(world: World) -> None:
    fund(world, ANA, 100)
    world.attach()
    running(world, of(ANA))
    world.later(10)
    world.handle(cmd.ReportTelemetry(node_id=node_id(1), epoch=1))
    world.later(49)  # silent; unhealthy after 15 s
    world.later(120)
    assert world.workload(of(ANA).id).phase is Phase.FAILED
    # The first two periods were settled while it might have come back.
    assert stands(world, OPERATOR) == (13, 0)


def test_a_lost_node_ends_no_bill_but_those_of_its_own_work() -> None:
    """Work of another node that ends within the same instant pays to its own end."""

    def paid(*, beside: bool) -> int:
        world = World(replace(PRICED, overtime_grace=timedelta(seconds=10)), T0)
        fund(world, ANA, 10_000)
        world.attach(a_node(1, lease=PATIENT))
        spec = of(ANA, max_duration_s=100.0, node_id=node_id(1), demand=Demand(cpu_milli=1000))
        world.submit(spec)
        world.report(world.workload(spec.id), Phase.RUNNING)
        if beside:
            world.attach(a_node(2, lease=LeaseTerms(unhealthy_after_s=1, lost_after_s=120)))
        world.later(110)  # it is asked to end, and does not
        world.now = T0 + timedelta(seconds=120)
        world.tick()
        meter = world.workload(spec.id).meter
        assert meter is not None
        return meter.paid

    assert paid(beside=True) == paid(beside=False) > 0


def test_a_node_lost_within_a_period_costs_no_more_than_it_was_there(world: World) -> None:
    fund(world, ANA, 100)
    world.attach(a_node(lease=replace(a_node().lease, unhealthy_after_s=5, lost_after_s=20)))
    running(world, of(ANA))
    world.later(10)
    world.handle(cmd.ReportTelemetry(node_id=node_id(1), epoch=1))
    world.later(30)
    assert world.workload(of(ANA).id).phase is Phase.FAILED
    assert stands(world, OPERATOR) == (2, 0)


def test_a_restart_pays_for_both_attempts_and_starts_once(world: World) -> None:
    fund(world, ANA, 100)
    world.attach(a_node(lease=PATIENT))
    spec = of(ANA, restart=RestartPolicy(rule=RestartRule.ON_FAILURE))
    running(world, spec)
    world.later(30)
    world.report(world.workload(spec.id), Phase.FAILED)
    assert world.workload(spec.id).phase is Phase.PENDING
    assert stands(world, OPERATOR) == (4, 0)
    world.later(1)
    world.run_round()
    assert stands(world, ANA) == (90, 6)
    world.report(world.workload(spec.id), Phase.RUNNING)
    world.later(20)
    world.succeed(world.workload(spec.id))
    assert stands(world, OPERATOR) == (6, 0)


def test_short_work_that_told_only_its_end_pays_from_its_placement(world: World) -> None:
    fund(world, ANA, 100)
    world.attach()
    world.submit(of(ANA))
    world.later(10)
    world.succeed(world.workload(of(ANA).id))
    assert stands(world, OPERATOR) == (2, 0)


# -- limits ----------------------------------------------------------------------------------------------------------


def test_work_beyond_the_spending_limit_is_refused(world: World) -> None:
    fund(world, ANA, 1000, limit=SpendingLimit(credits=10, period_s=3600))
    world.submit(of(ANA, 1))
    with pytest.raises(InsufficientCreditsError, match="3 more of 10 credits") as caught:
        world.submit(of(ANA, 2))
    assert caught.value.field == "spendingLimit"


def test_a_new_period_begins_with_nothing_spent(world: World) -> None:
    fund(world, ANA, 1000, limit=SpendingLimit(credits=10, period_s=3600))
    world.attach()
    workload_id = running(world, of(ANA, 1))
    world.later(55)
    world.succeed(world.workload(workload_id))
    with pytest.raises(InsufficientCreditsError):
        world.submit(of(ANA, 2))
    world.now += timedelta(hours=1)
    world.submit(of(ANA, 2))


def test_running_into_the_limit_stops_the_work(world: World) -> None:
    fund(world, ANA, 1000, limit=SpendingLimit(credits=10, period_s=3600))
    world.attach(a_node(lease=PATIENT))
    workload_id = running(world, of(ANA))
    world.later(61)
    assert world.workload(workload_id).phase is Phase.STOPPING
    assert "may spend 3 more" in world.workload(workload_id).stop_reason


def test_a_limit_can_be_lifted(world: World) -> None:
    fund(world, ANA, 1000, limit=SpendingLimit(credits=1, period_s=3600))
    world.handle(cmd.SetSpendingLimit(account_id=ANA, limit=None))
    world.submit(of(ANA))


# -- tariffs of their own --------------------------------------------------------------------------------------------

TARIFF = Tariff(minute=0, owned_minute=12, step_s=60)


def test_a_tariff_can_be_free_on_the_pools_own_nodes(world: World) -> None:
    world.attach(a_node(lease=PATIENT))
    workload_id = running(world, of(EVE, tariff=TARIFF))
    world.later(600)
    assert world.cluster.state.books.accounts == {}
    assert world.workload(workload_id).meter == Meter(rate=0, step_s=60, since=T0)


def test_an_account_that_nobody_opened_gets_no_place_that_costs(world: World) -> None:
    world.attach(a_node(owner=BO))
    world.submit(of(EVE, tariff=TARIFF))
    assert world.workload(of(EVE).id).phase is Phase.STOPPED


def test_each_begun_step_is_charged_to_the_owner_of_the_node(world: World) -> None:
    fund(world, ANA, 100)
    world.attach(a_node(owner=BO))
    workload_id = running(world, of(ANA, tariff=TARIFF))
    assert stands(world, ANA) == (88, 12)
    world.later(61)
    world.succeed(world.workload(workload_id))
    assert (stands(world, ANA), stands(world, BO)) == ((76, 0), (24, 0))


def test_work_that_its_place_is_too_dear_for_ends_before_its_node_has_heard_of_it(world: World) -> None:
    fund(world, ANA, 5)
    world.attach(a_node(owner=BO))
    outcome = world.submit(of(ANA, tariff=TARIFF))
    assert not any(isinstance(each.order, StartWorkload) for each in outcome.orders)
    assert isinstance(outcome.reply, cmd.Submitted)
    assert outcome.reply.phase is Phase.STOPPED
    ended = world.workload(of(ANA).id)
    assert (ended.phase, ended.message) == (
        Phase.STOPPED,
        "out of credits: account ana has 5 credits; this costs 12",
    )
    assert stands(world, ANA) == (5, 0)


# -- inference -------------------------------------------------------------------------------------------------------


def a_request(account_id: AccountId, number: int = 1, *, waiting: bool = True) -> WorkloadSpec:
    return of(account_id, number, payload=an_inference(), waiting=waiting)


@pytest.mark.parametrize("waiting", [True, False])
def test_an_answered_request_pays_the_owner_of_its_node(world: World, *, waiting: bool) -> None:
    fund(world, ANA, 3)
    world.attach(a_node(owner=BO))
    world.load(node_id(1))
    world.submit(a_request(ANA, waiting=waiting))
    with pytest.raises(InsufficientCreditsError):
        world.submit(a_request(ANA, 2, waiting=waiting))
    outcome = world.succeed(world.workload(a_request(ANA).id))
    assert (stands(world, ANA), stands(world, BO)) == ((1, 0), (2, 0))
    charged = [event for event in outcome.events if isinstance(event, ev.WorkloadCharged)]
    assert [event.durable for event in charged] == [True]


@pytest.mark.parametrize("waiting", [True, False])
def test_a_request_that_failed_costs_nothing(world: World, *, waiting: bool) -> None:
    fund(world, ANA, 3)
    world.attach()
    world.load(node_id(1))
    world.submit(a_request(ANA, waiting=waiting))
    world.report(world.workload(a_request(ANA).id), Phase.FAILED)
    assert (account(world, ANA).spendable, account(world, ANA).held) == (3, 0)


def test_nothing_durable_is_said_of_a_request_that_waits(world: World) -> None:
    fund(world, ANA, 3)
    outcome = world.submit(a_request(ANA))
    assert not any(event.durable for event in outcome.events)
    assert (stands(world, ANA), account(world, ANA).reserved) == ((3, 0), 2)


def test_credits_spoken_for_by_a_waiting_request_cannot_be_given_away(world: World) -> None:
    fund(world, ANA, 3)
    fund(world, BO, 1)
    world.submit(a_request(ANA))
    with pytest.raises(InsufficientCreditsError):
        transfer(world, ANA, BO, 2)


# -- arithmetic ------------------------------------------------------------------------------------------------------


def test_a_share_of_a_gpu_costs_its_part_of_the_memory(world: World) -> None:
    world.cluster.policy = replace(PRICED, prices=Prices(gpu_minute=100))
    fund(world, ANA, 1000)
    world.attach(a_node(capacity=a_capacity(gpus=1, gpu_memory_gib=80)))
    world.submit(of(ANA, payload=a_container(), demand=Demand(gpus=1, gpu_memory_bytes=20 * GIB)))
    assert stands(world, ANA) == (975, 25)


def test_prices_add_up_and_are_rounded_up_to_a_whole_credit() -> None:
    prices = Prices(cpu_core_minute=1, gib_minute=1, gpu_minute=10)
    assert minute_price(prices, Demand(cpu_milli=100)) == 1
    assert minute_price(prices, Demand(cpu_milli=1500, memory_bytes=GIB // 2, gpus=2)) == 22


def test_parts_of_an_attempt_cost_together_what_the_whole_costs() -> None:
    meter = Meter(rate=7, start=3)
    whole = meter.cost(timedelta(seconds=100))
    cuts = [meter.cost(timedelta(seconds=second)) for second in (0, 13, 14, 60, 100)]
    assert cuts[0] + sum(after - before for before, after in pairwise(cuts)) == whole


def test_an_entry_names_its_work(world: World) -> None:
    fund(world, ANA, 100)
    outcome = world.submit(of(ANA))
    (entry,) = [event.entry for event in outcome.events if isinstance(event, ev.WorkloadCharged)]
    assert entry is not None
    assert (entry.id, entry.workload_id) == (f"{of(ANA).id}/1", of(ANA).id)
    assert {(p.book, p.credits) for p in entry.postings} == {(Book.AVAILABLE, -7), (Book.HELD, 7)}


@pytest.mark.parametrize("policy", [ClusterPolicy(prices=Prices(cpu_core_minute=10))])
def test_a_gang_one_of_whose_members_cannot_be_paid_where_it_is_placed_does_not_start(world: World) -> None:
    """A node's own price is known once it is chosen: here the second member costs more than was set aside."""
    fund(world, ANA, 40)
    world.attach(a_node(owner=EVE, lease=PATIENT))
    tariff = Tariff(minute=10, owned_minute=30)
    for number in (1, 2):
        outcome = world.submit(of(ANA, number, gang=Gang(id="g", size=2), tariff=tariff))
    outcome = world.run_round() if not outcome.orders else outcome
    assert outcome.orders == ()
    assert [world.workload(a_workload(number).id).phase for number in (1, 2)] == [Phase.STOPPED, Phase.STOPPED]
    assert stands(world, ANA) == (40, 0)
