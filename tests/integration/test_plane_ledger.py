"""The ledger in a whole plane: on disk with what it is about, the same after a restart, and after any failure."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from arcray.control.plane import Plane
from arcray.core import commands as cmd
from arcray.core.books import REQUESTS_KEPT, Books
from arcray.core.errors import (
    AlreadyExistsError,
    ArcrayError,
    ConflictError,
    IdempotencyMismatchError,
    InsufficientCreditsError,
    NotFoundError,
    UnavailableError,
)
from arcray.core.ids import AccountId, EntryId
from arcray.core.keys import KeyView, Scope
from arcray.core.ledger import AccountView, EntryKind, Login, SpendingLimit
from arcray.core.policy import ClusterPolicy
from arcray.core.queries import ClusterStats, FindKey, FindLogin, GetAccount, GetStatement, GetStats, Statement
from arcray.core.tariff import Prices
from arcray.core.workload import Origin, Phase, WorkloadSpec
from arcray.testing.builders import a_key, a_workload, an_inference
from arcray.testing.clock import FakeClock
from arcray.testing.faults import FailPoints, check_memory_is_the_rows, folded_state, journalled, stored_workloads
from arcray.testing.plane import InProcessPlane, in_process_plane
from arcray.testing.simulated_node import Script, SimulatedNode

ANA, BO = AccountId("ana"), AccountId("bo")
PRICED = ClusterPolicy(prices=Prices(cpu_core_minute=6, workload=1, inference=2))


def of(account: AccountId, number: int = 1, **fields: Any) -> WorkloadSpec:
    return a_workload(number, origin=Origin(facade="rest", account=account), **fields)


async def fund(cluster: InProcessPlane, account: AccountId, credits: int, key: str = "") -> cmd.Posted:
    await cluster.ask(cmd.OpenAccount(account_id=account))
    issue = cmd.IssueCredits(id=EntryId(f"{account}{key}"), account_id=account, credits=credits, request_id=key)
    posted: cmd.Posted = await cluster.ask(issue)
    return posted


async def balance(cluster: InProcessPlane, account: AccountId) -> tuple[int, int]:
    view = await cluster.plane.query(GetAccount(account_id=account))
    assert isinstance(view, AccountView)
    return view.available, view.held


async def statement(cluster: InProcessPlane, **fields: object) -> Statement:
    found = await cluster.plane.query(GetStatement(account_id=ANA, **fields))  # type: ignore[arg-type]  # as named
    assert isinstance(found, Statement)
    return found


async def test_work_pays_and_the_rows_say_the_same(tmp_path: Path) -> None:
    async with in_process_plane(policy=PRICED, state_dir=tmp_path) as cluster:
        await fund(cluster, ANA, 100)
        await cluster.ask(cmd.SubmitWorkload(spec=of(ANA)))
        await cluster.finished(of(ANA).id)
        available, held = await balance(cluster, ANA)
        assert (available < 100, held) == (True, 0)
        assert await balance(cluster, AccountId("operator")) == (100 - available, 0)
        await check_memory_is_the_rows(cluster.plane, tmp_path / "arcray.db")


async def test_accounts_holds_and_keys_are_there_again(tmp_path: Path) -> None:
    node = SimulatedNode()
    node.deaf = True
    async with in_process_plane(nodes=[node], policy=PRICED, state_dir=tmp_path) as before:
        await fund(before, ANA, 100, "key")
        await before.ask(cmd.SubmitWorkload(spec=of(ANA)))
        await before.ask(cmd.IssueKey(key=a_key(account=ANA, scope=Scope.SUBMIT)))
        stood = await balance(before, ANA)
    async with in_process_plane(nodes=[], policy=PRICED, state_dir=tmp_path) as after:
        assert await balance(after, ANA) == stood == (93, 7)
        found = await after.plane.query(FindKey(digest=a_key().digest))
        assert isinstance(found, KeyView)
        assert not (await fund(after, ANA, 100, "key")).created
        with pytest.raises(IdempotencyMismatchError):
            await fund(after, ANA, 99, "key")
        await after.ask(cmd.StopWorkload(workload_id=of(ANA).id))
        await check_memory_is_the_rows(after.plane, tmp_path / "arcray.db")


async def test_a_command_that_issued_a_revoked_key_and_is_replayed_by_a_restart_does_not_revive_it(
    tmp_path: Path,
) -> None:
    """The caller had no answer when the scheduler ended, so its call is made again, with what was revoked meanwhile."""
    issued = cmd.IssueKey(key=a_key(account=ANA, scope=Scope.SUBMIT))
    async with in_process_plane(nodes=[], state_dir=tmp_path) as before:
        await fund(before, ANA, 100)
        await before.ask(issued)
        await before.ask(cmd.RevokeKey(key_id=issued.key.id))
    for _ in range(2):
        async with in_process_plane(nodes=[], state_dir=tmp_path) as after:
            with pytest.raises(ConflictError, match="was revoked"):
                await after.ask(issued)
            with pytest.raises(NotFoundError):
                await after.plane.query(FindKey(digest=issued.key.digest))


async def test_logins_are_there_again(tmp_path: Path) -> None:
    login = cmd.OpenLogin(account_id=ANA, secret="of a password", entry_id=EntryId("welcome"), credits=100)
    async with in_process_plane(nodes=[], state_dir=tmp_path) as before:
        await before.ask(login)
    async with in_process_plane(nodes=[], state_dir=tmp_path) as after:
        assert await after.plane.query(FindLogin(account_id=ANA)) == Login(account=ANA, secret="of a password")
        await after.ask(login)
        with pytest.raises(AlreadyExistsError):
            await after.ask(replace(login, secret="of another"))
        assert await balance(after, ANA) == (100, 0)
        await check_memory_is_the_rows(after.plane, tmp_path / "arcray.db")


async def test_a_key_that_memory_has_let_go_of_is_found_in_the_rows(tmp_path: Path) -> None:
    async with in_process_plane(nodes=[], state_dir=tmp_path) as cluster:
        first = await fund(cluster, ANA, 1, "first")
        many = [
            cmd.IssueCredits(id=EntryId(f"e{n}"), account_id=ANA, credits=1, request_id=f"key-{n}")
            for n in range(REQUESTS_KEPT)
        ]
        for start in range(0, len(many), 1000):
            await cluster.plane.submit(many[start : start + 1000])
        assert books(cluster.plane).forgetful
        again = await fund(cluster, ANA, 1, "first")
        assert (again.created, again.entry) == (False, first.entry)
        assert await balance(cluster, ANA) == (REQUESTS_KEPT + 1, 0)


def books(plane: Plane) -> Books:
    return plane._writer.cluster.state.books


async def test_a_statement_is_read_page_by_page(tmp_path: Path) -> None:
    async with in_process_plane(nodes=[], state_dir=tmp_path) as cluster:
        for number in range(1, 6):
            await fund(cluster, ANA, number, f"key-{number}")
        first = await statement(cluster, limit=3)
        assert [line.posting.credits for line in first.lines] == [5, 4, 3]
        assert [line.posting.balance for line in first.lines] == [15, 10, 6]
        second = await statement(cluster, limit=3, before=first.next)
        assert [line.posting.credits for line in second.lines] == [2, 1]
        assert second.next is None
        assert {line.entry.kind for line in first.lines} == {EntryKind.ISSUE}
        assert all(line.entry.postings == () for line in first.lines)
        with pytest.raises(NotFoundError):
            await statement(cluster, account=BO)


async def test_a_request_whose_sender_waits_is_paid_with_its_end_on_disk(tmp_path: Path) -> None:
    node = SimulatedNode()
    async with in_process_plane(nodes=[node], policy=PRICED, state_dir=tmp_path) as cluster:
        node.load("echo", lambda value: value)
        await fund(cluster, ANA, 3)
        view = await cluster.ask(cmd.SubmitWorkload(spec=of(ANA, payload=an_inference(), waiting=True)))
        assert view.phase is Phase.SUCCEEDED
        assert await balance(cluster, ANA) == (1, 0)
        with pytest.raises(InsufficientCreditsError):
            await cluster.ask(cmd.SubmitWorkload(spec=of(ANA, 2, payload=an_inference(), waiting=True)))
        await check_memory_is_the_rows(cluster.plane, tmp_path / "arcray.db")


async def test_work_whose_credits_end_is_stopped(tmp_path: Path) -> None:
    clock = FakeClock()
    node = SimulatedNode(script=lambda _order: Script(end=None))
    async with in_process_plane(nodes=[node], policy=PRICED, state_dir=tmp_path, clock=clock) as cluster:
        await fund(cluster, ANA, 7)
        await cluster.ask(cmd.SubmitWorkload(spec=of(ANA)))
        await node.delivered(1)
        for _ in range(70):
            await clock.advance(1)
        view = await cluster.finished(of(ANA).id)
        assert (view.phase, view.message) == (
            Phase.STOPPED,
            "out of credits: account ana has 0 credits; this costs 6",
        )
        await check_memory_is_the_rows(cluster.plane, tmp_path / "arcray.db")


async def test_the_sum_over_all_books_is_a_figure_of_the_cluster(tmp_path: Path) -> None:
    async with in_process_plane(nodes=[], state_dir=tmp_path) as cluster:
        await fund(cluster, ANA, 3)
        stats = await cluster.plane.query(GetStats())
        assert isinstance(stats, ClusterStats)
        assert stats.imbalance == 0


def a_login(number: int) -> cmd.OpenLogin:
    user, entry = AccountId(f"user-{number}"), EntryId(f"welcome-{number}")
    return cmd.OpenLogin(account_id=user, secret=f"secret {number}", entry_id=entry, credits=7)


def a_transfer(number: int) -> cmd.TransferCredits:
    return cmd.TransferCredits(id=EntryId(f"t{number}"), source=ANA, target=BO, credits=1, request_id=f"t{number}")


async def insist(cluster: InProcessPlane, clock: FakeClock, command: cmd.Command) -> cmd.Posted:
    """Asks until writes are taken again."""
    while True:
        (reply,) = cluster.plane.begin([command])
        while not reply.done():
            await clock.advance(0.2)
        if isinstance(reply.result(), cmd.Posted):
            return cast("cmd.Posted", reply.result())
        assert isinstance(reply.result(), UnavailableError), reply.result()
        await clock.advance(0.2)


async def test_folding_the_events_gives_the_books_the_keys_and_the_meters(tmp_path: Path) -> None:
    path = tmp_path / "arcray.db"
    node = SimulatedNode()
    async with in_process_plane(nodes=[node], policy=PRICED, state_dir=tmp_path) as cluster:
        node.load("echo", lambda value: value)
        await fund(cluster, ANA, 50)
        await cluster.ask(cmd.SetSpendingLimit(account_id=ANA, limit=SpendingLimit(credits=40, period_s=60)))
        await cluster.ask(a_login(1))
        await cluster.ask(cmd.IssueKey(key=replace(a_key(1), account=ANA)))
        await cluster.ask(cmd.IssueKey(key=replace(a_key(2), account=ANA)))
        await cluster.ask(cmd.RevokeKey(key_id=a_key(1).id))
        await cluster.ask(cmd.SubmitWorkload(spec=of(ANA, 1)))
        await cluster.finished(of(ANA, 1).id)
        await cluster.ask(cmd.SubmitWorkload(spec=of(ANA, 2, payload=an_inference(), waiting=True)))
        await cluster.ask(cmd.SubmitWorkload(spec=of(ANA, 3, payload=an_inference(model_id="none"), waiting=True)))
        await check_memory_is_the_rows(cluster.plane, path)
        state = cluster.plane._writer.cluster.state
        fold = folded_state(journalled(path))
        assert fold.books.accounts == state.books.accounts
        assert fold.keys.keys == state.keys.keys
        assert fold.workloads == stored_workloads(path)


@pytest.mark.parametrize("seed", range(6))
async def test_credits_are_conserved_when_commits_fail(tmp_path: Path, seed: int) -> None:
    """Whatever is refused or lost in between: rows and memory agree, and no credit is made or lost."""
    dice = random.Random(seed)
    clock = FakeClock()
    async with in_process_plane(policy=PRICED, state_dir=tmp_path, clock=clock) as cluster:
        for account in (ANA, BO):
            await fund(cluster, account, 500)
        points = FailPoints(cluster.plane)
        registered: list[cmd.OpenLogin] = []
        for number in range(1, 40):
            with points.arm(lambda _step: dice.random() < 0.03):
                replies = cluster.plane.begin(
                    [
                        a_transfer(number),
                        cmd.SubmitWorkload(spec=of(dice.choice([ANA, BO]), number)),
                        cmd.SubmitWorkload(spec=of(ANA, 100 + number, payload=an_inference(), waiting=True)),
                        cmd.IssueKey(key=replace(a_key(number), account=ANA)),
                        a_login(number),
                    ]
                )
                for _ in range(dice.randrange(6)):
                    await clock.advance(0.05)
            while not all(reply.done() for reply in replies):
                await clock.advance(0.2)
            transferred = replies[0].result()
            if not isinstance(transferred, ArcrayError):
                again = await insist(cluster, clock, a_transfer(number))
                assert not again.created, "what was acknowledged is remembered"
            if not isinstance(replies[-1].result(), ArcrayError):
                registered.append(a_login(number))
        while cluster.plane.refusal is not None:  # its probes wait on this clock, which nobody else moves
            await clock.advance(0.2)
        for login in registered:
            found = await cluster.plane.query(FindLogin(account_id=login.account_id))
            assert found == Login(account=login.account_id, secret=login.secret)
            assert await balance(cluster, login.account_id) == (7, 0)
        await check_memory_is_the_rows(cluster.plane, tmp_path / "arcray.db")
