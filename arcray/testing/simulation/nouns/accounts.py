"""Accounts: opened, given credits and limits, giving to each other, also twice; their books never lose a credit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from random import Random
from typing import Any, Final
from uuid import UUID

from arcray.core import events as ev
from arcray.core.commands import (
    Command,
    IssueCredits,
    OpenAccount,
    OpenLogin,
    Posted,
    SetSpendingLimit,
    TransferCredits,
)
from arcray.core.ids import AccountId, EntryId
from arcray.core.ledger import ISSUER, Account, Entry, SpendingLimit
from arcray.testing.simulation.nouns.cast import ACCOUNTS, OWNER, Cast
from arcray.testing.simulation.promise import must

__all__ = ["BookFacts", "draw_credits", "draw_login", "draw_terms", "draw_wealth"]

_STRANGER: Final = AccountId("eve")  # may never be opened


def draw_wealth(dice: Random, cast: Cast) -> list[Command]:
    """Returns what gives every account a beginning: much, little or nothing."""
    commands: list[Command] = []
    for account in (*ACCOUNTS, OWNER):
        limit = SpendingLimit(credits=dice.choice((20, 200)), period_s=dice.choice((5, 60)))
        commands.append(
            OpenAccount(
                account_id=account,
                limit=limit if dice.random() < 0.25 else None,
                overdraft=dice.choice((0, 0, 0, 30)),
            )
        )
        credits = dice.choice((0, 60, 400, 100_000))
        if credits:
            commands.append(_keyed(dice, cast, _issue(cast, account, credits)))
    return commands


def draw_terms(dice: Random, cast: Cast) -> Command:
    """Returns an account that is opened, again or otherwise, or a limit that is set or lifted."""
    _ = cast
    account = dice.choice((*ACCOUNTS, OWNER, _STRANGER))
    if dice.random() < 0.3:
        return OpenAccount(account_id=account, overdraft=dice.choice((0, 0, 30)))
    limit = SpendingLimit(credits=dice.choice((0, 15, 60, 500)), period_s=dice.choice((1, 5, 3600)))
    return SetSpendingLimit(account_id=account, limit=dice.choice((None, limit, limit)))


def draw_login(dice: Random, cast: Cast) -> Command:
    """Returns a login that is new, opened again, or wants an account that is another's."""
    user = dice.choice((*ACCOUNTS, OWNER, _STRANGER, *map(AccountId, ("user-1", "user-2", "user-3"))))
    secret = f"secret {dice.randrange(2)}"
    return OpenLogin(account_id=user, secret=secret, entry_id=_entry_id(cast), credits=dice.choice((0, 100)))


def draw_credits(dice: Random, cast: Cast) -> Command:
    """Returns credits that are issued or given away, or a request that repeats an earlier one rightly or wrongly."""
    if cast.credits and dice.random() < 0.3:
        earlier = dice.choice(cast.credits)
        # As our REST facade does it: the same key, and an entry id of its own.
        again = replace(earlier, id=_entry_id(cast)) if earlier.request_id else earlier
        return replace(again, credits=again.credits + 1) if dice.random() < 0.15 else again
    account = dice.choice((*ACCOUNTS, *ACCOUNTS, OWNER, _STRANGER))
    if dice.random() < 0.4:
        return _keyed(dice, cast, _issue(cast, account, dice.choice((5, 40, 300))))
    given = TransferCredits(
        id=_entry_id(cast),
        source=account,
        target=dice.choice((*ACCOUNTS, OWNER)),
        credits=dice.choice((1, 10, 80, 1_000)),
    )
    return _keyed(dice, cast, given)


def _issue(cast: Cast, account: AccountId, credits: int) -> IssueCredits:
    return IssueCredits(id=_entry_id(cast), account_id=account, credits=credits)


def _keyed(dice: Random, cast: Cast, command: IssueCredits | TransferCredits) -> IssueCredits | TransferCredits:
    if dice.random() < 0.6:
        key = f"credits-{len(cast.credits) + 1}"
        command = replace(command, asked_by=dice.choice(ACCOUNTS), request_id=key, memo=key)
    cast.credits.append(command)
    return command


def _entry_id(cast: Cast) -> EntryId:
    cast.entries += 1
    return EntryId(str(UUID(int=0xE000_0000 + cast.entries)))


class BookFacts:
    """What is on disk of accounts and credits.

    Attributes:
        known: the fields of ``Account`` by their names, of every account.
        entries: by id.
        requested: entries by (account that asked, idempotency key).
    """

    def __init__(self) -> None:
        self.known: dict[AccountId, dict[str, Any]] = {}
        self.entries: dict[EntryId, Entry] = {}
        self.requested: dict[tuple[AccountId, str], EntryId] = {}

    @property
    def takes(self) -> Mapping[type, Callable[[Any], None]]:
        """Returns what is done about which fact."""
        return {
            ev.AccountOpened: self._opened,
            ev.LoginSet: self._login_set,
            ev.SpendingLimitSet: self._limited,
            ev.CreditsMoved: self._moved,
        }

    def post(self, entry: Entry) -> None:
        """Takes credits that moved: from one book to another, and never from nothing."""
        must(entry.id not in self.entries, f"entry {entry.id} is posted twice")
        self.entries[entry.id] = entry
        must(sum(posting.credits for posting in entry.postings) == 0, f"entry {entry.id} makes or loses credits")
        for posting in entry.postings:
            must(posting.account in self.known, f"entry {entry.id} is about {posting.account}, who has no account")
            account = self.known[posting.account]
            account[posting.book] += posting.credits
            stands = account[posting.book]
            must(stands == posting.balance, f"entry {entry.id} leaves {stands} and says {posting.balance}")
        for posting in entry.postings:
            account = self.known[posting.account]
            least = -account["overdraft"]
            must(account["held"] >= 0, f"entry {entry.id} leaves {posting.account} with {account['held']} held")
            must(
                posting.account == ISSUER or account["available"] >= least or posting.credits >= 0,
                f"entry {entry.id} leaves {posting.account} with {account['available']}, {least} is the least",
            )

    def spend(self, key: AccountId, credits: int, at: datetime) -> None:
        """Takes that an account's work has cost so much."""
        account = self.known[key]
        if account["limit"] is None or not credits:
            return
        window = _window(account, at)
        if account["window"] != window:
            account.update(window=window, spent=0)
        account["spent"] += credits

    def check_limit(self, key: AccountId, at: datetime, why: str) -> None:
        """Checks that what an account has just had set aside or paid is within its limit."""
        account = self.known[key]
        limit = account["limit"]
        if limit is not None:
            spent = account["spent"] if account["window"] == _window(account, at) else 0
            most = limit.credits
            must(
                spent + account["held"] <= most, f"{why}: {key} has spent {spent} and held {account['held']} of {most}"
            )

    def left(self, key: AccountId, at: datetime) -> int:
        """Returns what an account may have set aside besides what it has; what is spoken for is not known here."""
        account = self.known.get(key)
        if account is None:
            return 0
        left: int = account["available"] + account["overdraft"]
        if account["limit"] is not None:
            spent = account["spent"] if account["window"] == _window(account, at) else 0
            left = min(left, account["limit"].credits - spent - account["held"])
        return left

    def check(self) -> None:
        """Checks what must hold between transactions: there is as much as there was."""
        total = sum(account["available"] + account["held"] for account in self.known.values())
        must(total == 0, f"all books together have {total} credits")

    def compare(self, accounts: Iterable[Account], where: str) -> None:
        """Checks that all accounts are what the facts say; what is reserved for senders who wait is no fact."""
        found = {account.id: account for account in accounts}
        must(set(found) == set(self.known), f"other accounts are in {where} than were opened")
        for key, facts in self.known.items():
            for name, value in facts.items():
                is_now = getattr(found[key], name)
                must(is_now == value, f"account {key}: {name} is {is_now!r} in {where}, and {value!r} by the facts")

    def compare_sums(self, sums: Mapping[tuple[str, str], int]) -> None:
        """Checks that the rows of an account's postings come to what it has.

        Args:
            sums: by account and book.
        """
        for key, account in self.known.items():
            for book in ("available", "held"):
                stands = sums.get((key, book), 0)
                must(stands == account[book], f"the postings of {key} come to {stands} {book} of {account[book]}")

    def check_posted(self, command: IssueCredits | TransferCredits, posted: Posted) -> None:
        """Checks that an answer states an entry that is on disk, and that was asked for."""
        entry = posted.entry
        must(self.entries.get(entry.id) == entry, f"entry {entry.id} is acknowledged before it is on disk")
        source = ISSUER if isinstance(command, IssueCredits) else command.source
        target = command.account_id if isinstance(command, IssueCredits) else command.target
        moved = {(posting.account, posting.book.value): posting.credits for posting in entry.postings}
        asked = {(source, "available"): -command.credits, (target, "available"): command.credits}
        must(moved == asked, f"{command} is answered with {moved}")
        must(
            entry.id == command.id or self.requested.get((command.asked_by, command.request_id)) == entry.id,
            f"{command.id} is answered with {entry.id}, which is another's",
        )

    def _opened(self, event: ev.AccountOpened) -> None:
        must(event.account_id not in self.known, f"account {event.account_id} is opened twice")
        self.known[event.account_id] = {
            "opened_at": event.at,
            "limit": event.limit,
            "overdraft": event.overdraft,
            "secret": "",
            "available": 0,
            "held": 0,
            "spent": 0,
            "window": 0,
        }

    def _login_set(self, event: ev.LoginSet) -> None:
        account = self.known[event.account_id]
        # Nobody can ask for another secret, so one is set with the account and never again.
        must(account["opened_at"] == event.at and not account["secret"], f"{event.account_id} is taken over by a login")
        account["secret"] = event.secret

    def _limited(self, event: ev.SpendingLimitSet) -> None:
        account = self.known[event.account_id]
        must(account["limit"] != event.limit, f"the limit of {event.account_id} changes nothing")
        account["limit"] = event.limit
        account.update(spent=0, window=_window(account, event.at))

    def _moved(self, event: ev.CreditsMoved) -> None:
        entry = event.entry
        key = entry.asked_by, entry.request_id
        if entry.request_id:
            must(key not in self.requested, f"{entry.id} is posted under the key of {self.requested.get(key)}")
            self.requested[key] = entry.id
        self.post(entry)


def _window(account: Mapping[str, Any], at: datetime) -> int:
    limit = account["limit"]
    return 0 if limit is None else int(at.timestamp()) // int(limit.period_s)
