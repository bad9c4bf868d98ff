"""Credits in a round of kills: accounts give to each other and pay for work, and every credit is accounted for.

What must hold is read from the postings, past the control plane, and compared with what clients were told.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from arcray.core.commands import IssueCredits, OpenAccount, Posted, TransferCredits
from arcray.core.errors import InsufficientCreditsError
from arcray.core.ids import AccountId, EntryId, WorkloadId
from arcray.core.ledger import ISSUER, Account, AccountView, Book, Entry, EntryKind
from arcray.core.ports import ControlPlane
from arcray.core.queries import GetAccount
from arcray.core.tariff import Tariff
from arcray.core.workload import Inference, Phase, Workload
from arcray.testing.faults import posted, stored_accounts

FUNDS = 200  # little enough that some is refused
OVERDRAFT = 25  # of one account
PRICES = (None, None, Tariff(start=2, minute=60), Tariff(minute=90, step_s=2))
REQUEST_PRICE = Tariff(start=1)
PATIENCE_S = (0.01, 0.2, None, None)


@dataclass(slots=True, kw_only=True, eq=False)
class Wish:
    """A transfer that a client wants, however often it has to ask.

    Args:
        key: "" asks without; a client that lost patience does not know then, and does not ask again.
        ids: of the entry, one for each time that it was asked.
        unanswered: its client lost patience at least once, so it may come through at any time.
    """

    source: AccountId
    target: AccountId
    credits: int
    key: str
    ids: list[EntryId] = field(default_factory=list)
    acknowledged: list[Posted] = field(default_factory=list)
    refused: bool = False
    unanswered: bool = False


class Purses:
    """The accounts of one round, and what their owners know of them.

    Args:
        name: of the round, to tell its accounts from those of others.
        gateway: returns one of the gateways.
    """

    def __init__(self, dice: random.Random, name: str, gateway: Callable[[], ControlPlane]) -> None:
        self.accounts = [AccountId(f"{name}-{owner}") for owner in ("ana", "bo", "eve")]
        self.landlord = AccountId(f"{name}-landlord")
        """Owns some of the nodes."""
        self.wishes: list[Wish] = []
        self._dice = dice
        self._name = name
        self._gateway = gateway
        self._numbers = count(1)
        self._opened = False
        self._opening = asyncio.Lock()
        self._seen: dict[AccountId, AccountView] = {}

    def payer(self, number: int) -> AccountId | None:
        """Returns who pays for submission ``number``; None: nobody does."""
        return self._dice.choice(self.accounts) if self._opened and number % 2 else None

    def price(self, payer: AccountId | None, *, request: bool) -> Tariff | None:
        """Returns what something costs that ``payer`` asks for."""
        if payer is None:
            return None
        return REQUEST_PRICE if request else self._dice.choice(PRICES)

    async def transfer(self) -> None:
        """Gives credits of one account to another, as a client with little patience does."""
        await self._open()
        source, target = self._dice.sample(self.accounts, 2)
        key = f"{self._name}-{next(self._numbers)}" if self._dice.random() < 0.6 else ""
        wish = Wish(source=source, target=target, credits=self._dice.randint(1, FUNDS // 2), key=key)
        self.wishes.append(wish)
        twice = key and self._dice.random() < 0.3  # from two places at once
        await asyncio.gather(*(self._ask(wish) for _ in range(2 if twice else 1)))

    async def look(self) -> None:
        """Remembers what the scheduler says of each account when all has ended."""
        for account in (*self.accounts, self.landlord):
            self._seen[account] = await self._gateway().query(GetAccount(account_id=account))

    async def _open(self) -> None:
        async with self._opening:
            if self._opened:
                return
            overdrafts = dict.fromkeys([*self.accounts, self.landlord], 0) | {self.accounts[0]: OVERDRAFT}
            await self._gateway().submit([OpenAccount(account_id=a, overdraft=o) for a, o in overdrafts.items()])
            for gateway in (self._gateway(), self._gateway()):  # asked again by whoever did not see the answer
                replies = await gateway.submit([self._funds(account) for account in self.accounts])
                assert all(isinstance(reply, Posted) for reply in replies), replies
            self._opened = True

    def _funds(self, account: AccountId) -> IssueCredits:
        identity = EntryId(f"{self._name}-entry-{next(self._numbers)}")
        return IssueCredits(id=identity, account_id=account, credits=FUNDS, request_id=f"{account}-funds")

    async def _ask(self, wish: Wish) -> None:
        while True:
            wish.ids.append(EntryId(f"{self._name}-entry-{next(self._numbers)}"))  # a new one each time, as REST does
            command = TransferCredits(
                id=wish.ids[-1],
                source=wish.source,
                target=wish.target,
                credits=wish.credits,
                asked_by=wish.source,
                request_id=wish.key,
            )
            try:
                async with asyncio.timeout(self._dice.choice(PATIENCE_S)):
                    (reply,) = await self._gateway().submit([command])
            except TimeoutError:
                wish.unanswered = True
                if not wish.key or self._dice.random() < 0.2:
                    return
                continue
            if isinstance(reply, Posted):
                wish.acknowledged.append(reply)
            else:
                assert isinstance(reply, InsufficientCreditsError), reply
                wish.refused = True
            return

    # -- the end -------------------------------------------------------------------------------------------------

    def check(self, database: Path, stored: Mapping[WorkloadId, Workload]) -> None:
        """Asserts that no credit was made, lost or moved twice.

        Args:
            stored: the round's workloads, all of which have ended.
        """
        entries = posted(database)
        accounts = stored_accounts(database)
        check_books(entries, accounts)
        self._check_transfers({entry.id: entry for entry in entries})
        self._check_charges(entries, stored)
        for account_id, view in self._seen.items():
            account = accounts[account_id]
            assert (view.available, view.held) == (account.available, account.held)
        paid: Counter[AccountId] = Counter()
        for workload in stored.values():
            if workload.meter is not None:
                paid[workload.spec.origin.account] += workload.meter.paid
        moved: Counter[AccountId] = Counter()
        known = {entry.id for entry in entries}
        for wish in self.wishes:
            if known & set(wish.ids):
                moved[wish.source] -= wish.credits
                moved[wish.target] += wish.credits
        for account_id in self.accounts:
            account = accounts[account_id]
            expected = FUNDS + moved[account_id] - paid[account_id]
            assert (account.available, account.held) == (expected, 0), account

    def _check_transfers(self, entries: Mapping[EntryId, Entry]) -> None:
        for wish in self.wishes:
            moved = [entries[identity] for identity in wish.ids if identity in entries]
            assert len(moved) <= 1, f"moved twice: {wish}"
            assert moved or not wish.acknowledged, f"acknowledged and lost: {wish}"
            assert not moved or wish.acknowledged or wish.unanswered, f"refused and done: {wish}"
            assert sum(reply.created for reply in wish.acknowledged) <= 1, wish
            for reply in wish.acknowledged:
                assert reply.entry.id == moved[0].id, wish
                assert reply.entry.postings == moved[0].postings, wish
            for entry in moved:
                out, into = (wish.source, Book.AVAILABLE, -wish.credits), (wish.target, Book.AVAILABLE, wish.credits)
                assert entry.moves == {out, into}, wish
        wished = {identity for wish in self.wishes for identity in wish.ids}
        ours = {
            entry.id
            for entry in entries.values()
            if entry.kind is EntryKind.TRANSFER and any(posting.account in self.accounts for posting in entry.postings)
        }
        assert ours <= wished

    def _check_charges(self, entries: Sequence[Entry], stored: Mapping[WorkloadId, Workload]) -> None:
        charged: dict[WorkloadId, list[Entry]] = {}
        for entry in entries:
            if entry.workload_id is not None and entry.workload_id in stored:
                charged.setdefault(entry.workload_id, []).append(entry)
        for workload_id, workload in stored.items():
            made, meter = charged.get(workload_id, []), workload.meter
            if meter is None:
                assert not made
                continue
            assert [entry.id for entry in made] == [f"{workload_id}/{n}" for n in range(1, meter.entries + 1)]
            assert meter.held == 0, workload
            payer = workload.spec.origin.account
            income = sum(p.credits for entry in made for p in entry.postings if p.account != payer)
            assert income == meter.paid, workload
            if isinstance(workload.spec.payload, Inference):
                price = 0 if workload.spec.tariff is None else workload.spec.tariff.start
                assert meter.paid == (price if workload.phase is Phase.SUCCEEDED else 0), workload


def check_books(entries: Sequence[Entry], accounts: Mapping[AccountId, Account]) -> None:
    """Asserts that entries sum to zero, that each balance follows from the one before, and that none went too low."""
    balances: Counter[tuple[AccountId, Book]] = Counter()
    for entry in entries:
        assert sum(posting.credits for posting in entry.postings) == 0, entry
        assert len({(posting.account, posting.book) for posting in entry.postings}) == len(entry.postings), entry
        for posting in entry.postings:
            balances[posting.account, posting.book] += posting.credits
            assert posting.balance == balances[posting.account, posting.book], entry
            floor = -accounts[posting.account].overdraft if posting.book is Book.AVAILABLE else 0
            assert posting.account == ISSUER or posting.balance >= floor, entry
    assert len({entry.id for entry in entries}) == len(entries)
    for account in accounts.values():
        assert account.available == balances[account.id, Book.AVAILABLE], account
        assert account.held == balances[account.id, Book.HELD], account
    assert sum(balances.values()) == 0
