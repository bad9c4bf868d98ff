"""Credits are conserved exactly, whatever is asked in whatever order."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from datetime import timedelta
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from arcray.core import commands as cmd
from arcray.core.cluster import Cluster, Ledger
from arcray.core.errors import ArcrayError
from arcray.core.events import CreditsMoved, WorkloadCharged
from arcray.core.ids import AccountId, EntryId
from arcray.core.ledger import ISSUER, Book, Entry, SpendingLimit, durable_account
from arcray.core.node import Health, LeaseTerms
from arcray.core.policy import ClusterPolicy
from arcray.core.tariff import Prices, Tariff
from arcray.core.turn import Outcome
from arcray.core.workload import Origin, Phase, RestartPolicy, RestartRule, Workload
from arcray.testing.builders import a_node, a_workload, an_inference, node_id
from arcray.testing.world import World

NAMES = tuple(map(AccountId, ("ana", "bo", "eve")))
POLICY = ClusterPolicy(prices=Prices(cpu_core_minute=7, workload=2, inference=3), owner_share_percent=70)
TARIFFS = (None, None, Tariff(start=1, minute=0, owned_minute=11, step_s=60), Tariff(minute=5))
RESTARTS = (RestartPolicy(), RestartPolicy(rule=RestartRule.ON_FAILURE, max_restarts=2))
NODES = {1: None, 2: AccountId("bo"), 3: AccountId("ana")}

accounts = st.sampled_from(NAMES)
credits = st.integers(-1, 60)
picks = st.integers(0, 10_000)


class LedgerMachine(RuleBasedStateMachine):
    """Random commands against a cluster, and the same entries added up in two dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(POLICY)
        self.model: dict[tuple[AccountId, Book], int] = {}
        self.submitted = 0
        self.entries = 0
        self.keyed: list[Entry] = []

    @initialize(amounts=st.tuples(st.integers(0, 200), st.integers(0, 60)))
    def begin(self, amounts: tuple[int, int]) -> None:
        for account, amount in zip(NAMES, amounts, strict=False):
            self.do(cmd.OpenAccount(account_id=account))
            if amount:
                self.do(cmd.IssueCredits(id=EntryId(f"begin-{account}"), account_id=account, credits=amount))
        self.attach(1)
        self.attach(2)

    # -- what may happen ---------------------------------------------------------------------------------------------

    @rule(account=accounts, limit=st.none() | st.integers(0, 50))
    def open_account(self, account: AccountId, limit: int | None) -> None:
        terms = None if limit is None else SpendingLimit(credits=limit, period_s=100)
        self.do(cmd.OpenAccount(account_id=account, limit=terms))

    @rule(account=accounts | st.sampled_from([AccountId("new"), AccountId("newer")]), amount=credits)
    def open_login(self, account: AccountId, amount: int) -> None:
        self.entries += 1
        secret, identity = f"secret {self.entries % 3}", EntryId(f"e{self.entries}")
        self.do(cmd.OpenLogin(account_id=account, secret=secret, entry_id=identity, credits=amount))

    @rule(account=accounts, limit=st.none() | st.integers(0, 50))
    def set_limit(self, account: AccountId, limit: int | None) -> None:
        terms = None if limit is None else SpendingLimit(credits=limit, period_s=60)
        self.do(cmd.SetSpendingLimit(account_id=account, limit=terms))

    @rule(account=accounts, amount=credits, key=st.sampled_from(["", "a", "b"]))
    def issue(self, account: AccountId, amount: int, key: str) -> None:
        self.entries += 1
        identity = EntryId(f"e{self.entries}")
        self.do(cmd.IssueCredits(id=identity, account_id=account, credits=amount, asked_by=NAMES[0], request_id=key))

    @rule(giver=accounts, taker=accounts, amount=credits, key=st.sampled_from(["", "a", "b"]))
    def transfer(self, giver: AccountId, taker: AccountId, amount: int, key: str) -> None:
        self.entries += 1
        identity = EntryId(f"e{self.entries}")
        self.do(
            cmd.TransferCredits(id=identity, source=giver, target=taker, credits=amount, asked_by=giver, request_id=key)
        )

    @rule(account=accounts, tariff=st.sampled_from(TARIFFS), restart=st.sampled_from(RESTARTS), runs=st.booleans())
    def submit(self, account: AccountId, tariff: Tariff | None, restart: RestartPolicy, *, runs: bool) -> None:
        self.submitted += 1
        origin = Origin(facade="rest", account=account)
        spec = a_workload(self.submitted, origin=origin, tariff=tariff, restart=restart)
        if self.do(cmd.SubmitWorkload(spec=spec)) is not None and runs:
            self.run_placed()

    @rule()
    def run_placed(self) -> None:
        for workload in list(self.world.cluster.state.workloads.values()):
            if workload.phase is Phase.PLACED:
                self.attempt(partial(self.world.report, workload, Phase.RUNNING))

    @rule(account=accounts, waiting=st.booleans())
    def request(self, account: AccountId, *, waiting: bool) -> None:
        self.submitted += 1
        origin = Origin(facade="rest", account=account)
        spec = a_workload(self.submitted, an_inference(), origin=origin, waiting=waiting)
        self.do(cmd.SubmitWorkload(spec=spec))

    @rule(number=st.sampled_from(sorted(NODES)))
    def attach(self, number: int) -> None:
        lease = LeaseTerms(unhealthy_after_s=20.0, lost_after_s=90.0)
        outcome = self.do(cmd.AttachNode(registration=a_node(number, owner=NODES[number], lease=lease)))
        assert outcome is not None
        assert isinstance(outcome.reply, cmd.Attached)
        self.collect(self.world.load(node_id(number), slots=2, epoch=outcome.reply.epoch))

    @rule(number=st.sampled_from(sorted(NODES)))
    def beat(self, number: int) -> None:
        node = self.world.cluster.state.nodes.get(node_id(number))
        if node is not None:
            self.do(cmd.ReportTelemetry(node_id=node.id, epoch=node.epoch))

    @rule(pick=picks, phase=st.sampled_from([Phase.RUNNING, Phase.RUNNING, Phase.SUCCEEDED, Phase.FAILED]))
    def report(self, pick: int, phase: Phase) -> None:
        workload = self.any_live(pick)
        if workload is not None and workload.node_id is not None:
            self.attempt(lambda: self.world.report(workload, phase))

    @rule(seconds=st.integers(1, 130))
    def stay_alive(self, seconds: int) -> None:
        """Time passes while every machine is heard."""
        for _ in range(0, seconds, 10):
            for number in NODES:
                self.beat(number)
            self.pass_time(10.0, asleep=False)

    @rule(pick=picks)
    def stop(self, pick: int) -> None:
        workload = self.any_live(pick)
        if workload is not None:
            self.do(cmd.StopWorkload(workload_id=workload.id))

    @rule(pick=picks)
    def end(self, pick: int) -> None:
        workload = self.any_live(pick)
        if workload is not None and workload.node_id is not None:
            self.attempt(lambda: self.world.report(workload, Phase.STOPPED))

    @rule(seconds=st.sampled_from([0.3, 7.0, 30.0, 61.0, 200.0]), asleep=st.booleans())
    def pass_time(self, seconds: float, *, asleep: bool) -> None:
        until = self.world.now + timedelta(seconds=seconds)
        if asleep:
            self.world.now = until
        while (due := self.world.cluster.next_due()) is not None and due <= until:
            self.world.now = max(due, self.world.now)
            self.do(cmd.Tick())
        self.world.now = until
        self.do(cmd.Schedule())
        self.run_placed()

    @rule()
    def recover(self) -> None:
        """The scheduler dies: what rows hold comes back, and requests whose senders waited are gone."""
        state = deepcopy(self.world.cluster.state)
        stored = [workload for workload in state.workloads.values() if not workload.spec.waiting]
        self.world.cluster = Cluster.restore(
            POLICY,
            nodes=list(state.nodes.values()),
            workloads=stored,
            models=[],
            now=self.world.now,
            ledger=Ledger(accounts=list(map(durable_account, state.books.accounts.values())), entries=self.keyed),
        )
        for node in self.world.cluster.state.nodes.values():
            if node.health is Health.HEALTHY:
                self.collect(self.world.load(node.id, slots=2, epoch=node.epoch))

    # -- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def books_are_in_order(self) -> None:
        self.world.cluster.state.check_invariants()

    @invariant()
    def books_are_the_sum_of_the_entries(self) -> None:
        for account in self.world.cluster.state.books.accounts.values():
            assert account.available == self.model.get((account.id, Book.AVAILABLE), 0)
            assert account.held == self.model.get((account.id, Book.HELD), 0)
            assert account.id == ISSUER or account.available >= 0

    def teardown(self) -> None:
        """Ends all work: nothing may be left aside."""
        for workload in list(self.world.cluster.state.workloads.values()):
            if not workload.phase.terminal:
                self.do(cmd.StopWorkload(workload_id=workload.id))
            if not workload.phase.terminal:
                self.attempt(partial(self.world.report, workload, Phase.STOPPED))
        books = self.world.cluster.state.books
        assert not any(account.held or account.reserved for account in books.accounts.values())
        issued = -books.accounts[ISSUER].available if ISSUER in books.accounts else 0
        assert sum(account.available for account in books.accounts.values() if account.id != ISSUER) == issued

    # -- how ---------------------------------------------------------------------------------------------------------

    def do(self, command: cmd.Command) -> Outcome | None:
        return self.attempt(lambda: self.world.handle(command))

    def attempt(self, act: Callable[[], Outcome]) -> Outcome | None:
        before = deepcopy(self.world.cluster.state.books.accounts)
        try:
            outcome = act()
        except ArcrayError:
            assert self.world.cluster.state.books.accounts == before, "a refused command leaves the books as they were"
            return None
        self.collect(outcome)
        return outcome

    def collect(self, outcome: Outcome) -> None:
        for event in outcome.events:
            entry = event.entry if isinstance(event, CreditsMoved | WorkloadCharged) else None
            if entry is None:
                continue
            assert event.durable
            assert sum(posting.credits for posting in entry.postings) == 0
            assert entry.postings
            if entry.request_id:
                self.keyed.append(entry)
            for posting in entry.postings:
                book = (posting.account, posting.book)
                self.model[book] = self.model.get(book, 0) + posting.credits
                assert self.model[book] == posting.balance

    def any_live(self, pick: int) -> Workload | None:
        live = [w for w in self.world.cluster.state.workloads.values() if not w.phase.terminal]
        return live[pick % len(live)] if live else None


class TestLedger(LedgerMachine.TestCase):  # type: ignore[misc,valid-type]  # made by hypothesis at run time
    """The machine, as a test."""

    settings = settings(
        max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_books_stay_in_order_on_a_busy_day(seed: int) -> None:
    """The machine again, with even odds and much running: hypothesis tries few rules at a time, and long."""
    dice = random.Random(seed)
    machine = LedgerMachine()
    machine.begin((dice.randrange(300), dice.randrange(100)))
    for _ in range(60):
        account, other, pick = dice.choice(NAMES), dice.choice(NAMES), dice.randrange(10_000)
        acts: list[Callable[[], object]] = [
            partial(machine.submit, account, dice.choice(TARIFFS), dice.choice(RESTARTS), runs=True),
            partial(machine.submit, account, dice.choice(TARIFFS), dice.choice(RESTARTS), runs=False),
            partial(machine.request, account, waiting=dice.random() < 0.5),
            partial(machine.stay_alive, dice.randrange(1, 130)),
            partial(machine.stay_alive, 61),
            partial(machine.pass_time, dice.choice([0.3, 30.0, 61.0, 200.0]), asleep=dice.random() < 0.5),
            partial(machine.report, pick, dice.choice([Phase.SUCCEEDED, Phase.FAILED])),
            partial(machine.transfer, account, other, dice.randrange(60), ""),
            partial(machine.set_limit, account, dice.choice([None, None, 5, 40])),
            partial(machine.stop, pick),
            partial(machine.attach, dice.choice(list(NODES))),
            machine.recover,
        ]
        dice.choice(acts)()
        machine.books_are_in_order()
        machine.books_are_the_sum_of_the_entries()
    machine.teardown()


def test_a_credit_out_of_nothing_is_noticed() -> None:
    world = World(POLICY)
    world.handle(cmd.OpenAccount(account_id=NAMES[0]))
    world.cluster.state.books.accounts[NAMES[0]].available += 1
    with pytest.raises(AssertionError):
        world.cluster.state.check_invariants()
