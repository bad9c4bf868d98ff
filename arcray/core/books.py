"""The books of all accounts: what was posted, and what follows from it.

What lives here: how a fact changes the books. What does not: which facts come about (handlers). Invariants
(``check_invariants``): the sum over all books is 0; no book but the issuer's is below what it may be; what an account
holds is what its live work has set aside.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, assert_never

from arcray.core import events as ev
from arcray.core.deadlines import Deadlines
from arcray.core.ids import AccountId, WorkloadId
from arcray.core.ledger import ISSUER, Account, Book, Entry, Posting
from arcray.core.tariff import Meter

if TYPE_CHECKING:
    from arcray.core.workload import Workload

__all__ = ["Books", "Move"]

Move = tuple[AccountId, Book, int]
"""Credits to be added to a book."""

REQUESTS_KEPT: Final = 10_000  # entries by idempotency key; older ones are looked up in the rows


class Books:
    """All accounts.

    Attributes:
        accounts: in order of opening.
        requests: entries by (account, idempotency key), the newest ones.
        forgetful: whether an older key may be in the rows.
        charging: whether anything can have a price at all: there is an account, or was work with a tariff.
        imbalance: sum over all books, kept up with every posting: 0, or something is broken.
    """

    def __init__(self) -> None:
        self.accounts: dict[AccountId, Account] = {}
        self.requests: OrderedDict[tuple[AccountId, str], Entry] = OrderedDict()
        self.forgetful = False
        self.charging = False
        self.imbalance = 0
        self._due = Deadlines[WorkloadId](self._has_paid_until)
        self._until: dict[WorkloadId, datetime] = {}

    # -- facts ---------------------------------------------------------------------------------------------------

    def apply(self, event: ev.AccountOpened | ev.LoginSet | ev.SpendingLimitSet | ev.CreditsMoved) -> None:
        """Changes the books as the fact says."""
        match event:
            case ev.AccountOpened():
                self.charging = True
                self.accounts[event.account_id] = Account(
                    id=event.account_id, opened_at=event.at, limit=event.limit, overdraft=event.overdraft
                )
            case ev.LoginSet():
                self.accounts[event.account_id].secret = event.secret
            case ev.SpendingLimitSet():
                account = self.accounts[event.account_id]
                account.limit = event.limit
                # Another period begins another count; what was spent before is in the statement.
                account.spent, account.window = 0, account.window_at(event.at)
            case ev.CreditsMoved():
                self._post(event.entry)
                self.remember(event.entry)
            case _:
                assert_never(event)

    def charge(self, workload: Workload, meter: Meter, entry: Entry | None, at: datetime) -> None:
        """Takes that a workload's meter stands elsewhere now, with the entry that paid for it."""
        before = workload.meter
        held = before.held if before else 0
        paid = meter.paid - (before.paid if before else 0)
        if entry is not None:
            self._post(entry)
        account = self.accounts.get(workload.spec.origin.account)
        if account is not None:
            if workload.spec.waiting:
                account.reserved += meter.held - held
            if paid:
                self._spend(account, paid, at)
        workload.meter = meter
        self.watch(workload.id, meter.until)

    def watch(self, workload_id: WorkloadId, until: datetime | None) -> None:
        """Takes to when a workload has paid; None forgets it."""
        if until is None:
            self._until.pop(workload_id, None)
        elif self._until.get(workload_id) != until:
            self._until[workload_id] = until
            self._due.add(until, workload_id)

    def remember(self, entry: Entry) -> None:
        """Keeps an entry under its idempotency key; beyond the limit the earliest are let go."""
        if not entry.request_id:
            return
        self.requests[entry.asked_by, entry.request_id] = entry
        while len(self.requests) > REQUESTS_KEPT:
            self.requests.popitem(last=False)
            self.forgetful = True

    def restore(self, accounts: Iterable[Account], entries: Iterable[Entry], *, forgetful: bool) -> None:
        """Fills empty books from rows.

        Args:
            entries: those with an idempotency key, oldest first.
            forgetful: whether the rows have older ones.
        """
        for account in accounts:
            self.accounts[account.id] = account
        self.charging = bool(self.accounts)
        for entry in entries:
            self.remember(entry)
        self.forgetful = self.forgetful or forgetful
        self.imbalance = self.audit()

    def restore_meter(self, workload: Workload) -> None:
        """Takes up the meter of a workload from a row."""
        meter = workload.meter
        if meter is not None and not workload.phase.terminal:
            self.charging = True
            self.watch(workload.id, meter.until)

    # -- reading -------------------------------------------------------------------------------------------------

    def postings(self, moves: Iterable[Move]) -> tuple[Posting, ...]:
        """Returns moves as postings: one for each book that changes, in order of first mention."""
        sums: dict[tuple[AccountId, Book], int] = {}
        for account_id, book, credits in moves:
            sums[account_id, book] = sums.get((account_id, book), 0) + credits
        assert sum(sums.values()) == 0, "an entry sums to zero"
        return tuple(
            Posting(account=account_id, book=book, credits=credits, balance=self._stand(account_id, book) + credits)
            for (account_id, book), credits in sums.items()
            if credits
        )

    def next_due(self) -> datetime | None:
        """Returns when the next workload has used up what is set aside for it."""
        return self._due.next_due()

    def due(self, now: datetime) -> list[WorkloadId]:
        """Returns the workloads that have, first come first."""
        found = []
        for workload_id in self._due.over(now):
            del self._until[workload_id]
            found.append(workload_id)
        return found

    def audit(self) -> int:
        """Returns the sum over all books, counted anew."""
        return sum(account.available + account.held for account in self.accounts.values())

    def check_invariants(self, workloads: Iterable[Workload]) -> None:
        """Asserts that the books are in order. For tests; visits everything."""
        assert self.imbalance == self.audit() == 0, (self.imbalance, self.audit())
        held: Counter[AccountId] = Counter()
        reserved: Counter[AccountId] = Counter()
        until: dict[WorkloadId, datetime] = {}
        for workload in workloads:
            if workload.meter is not None:
                assert not (workload.phase.terminal and workload.meter.held), workload
                (reserved if workload.spec.waiting else held)[workload.spec.origin.account] += workload.meter.held
                if workload.meter.until is not None:
                    until[workload.id] = workload.meter.until
        for account in self.accounts.values():
            assert account.held == held.pop(account.id, 0), account
            assert account.reserved == reserved.pop(account.id, 0), account
            assert account.held >= 0, account
            assert account.id == ISSUER or account.spendable >= 0, account
        assert not any((held + reserved).values()), (held, reserved)
        assert until == self._until

    # -- applying ------------------------------------------------------------------------------------------------

    def _has_paid_until(self, until: datetime, workload_id: WorkloadId) -> bool:
        return self._until.get(workload_id) == until

    def _stand(self, account_id: AccountId, book: Book) -> int:
        account = self.accounts[account_id]
        return account.available if book is Book.AVAILABLE else account.held

    def _post(self, entry: Entry) -> None:
        postings: Sequence[Posting] = entry.postings
        for posting in postings:
            account = self.accounts[posting.account]
            if posting.book is Book.AVAILABLE:
                account.available += posting.credits
                assert account.available == posting.balance, posting
            else:
                account.held += posting.credits
                assert account.held == posting.balance, posting
            self.imbalance += posting.credits

    def _spend(self, account: Account, credits: int, at: datetime) -> None:
        if account.limit is None:
            return
        window = account.window_at(at)
        if account.window != window:
            account.spent, account.window = 0, window
        account.spent += credits
