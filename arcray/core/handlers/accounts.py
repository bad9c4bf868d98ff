"""Rules about accounts: opening them, and moving credits because someone asked for it.

A request that comes again, under its idempotency key or else its entry's id, moves nothing a second time and gets the
first answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from arcray.core import events as ev
from arcray.core.answers import account_view
from arcray.core.books import Move
from arcray.core.commands import IssueCredits, OpenAccount, OpenLogin, Posted, SetSpendingLimit, TransferCredits
from arcray.core.errors import (
    AlreadyExistsError,
    IdempotencyMismatchError,
    InsufficientCreditsError,
    InvalidArgumentError,
    NotFoundError,
)
from arcray.core.ids import AccountId
from arcray.core.ledger import ISSUER, Account, AccountView, Book, Entry, EntryKind, check_account_id, credits_of
from arcray.core.quantity import MAX_QUANTITY, bounded
from arcray.core.repeats import entry_key
from arcray.core.turn import Turn

__all__ = [
    "ensure_account",
    "on_issue_credits",
    "on_open_account",
    "on_open_login",
    "on_set_spending_limit",
    "on_transfer_credits",
]


def on_open_account(turn: Turn, command: OpenAccount) -> AccountView:
    """Makes an account known; the same again changes nothing."""
    check_account_id(command.account_id)
    bounded(command.overdraft, "overdraft")
    known = turn.state.books.accounts.get(command.account_id)
    if known is None:
        turn.emit(
            ev.AccountOpened(
                account_id=command.account_id, limit=command.limit, overdraft=command.overdraft, at=turn.now
            )
        )
    elif (known.limit, known.overdraft) != (command.limit, command.overdraft):
        raise AlreadyExistsError(f"account {command.account_id} is open on other terms", field="id")
    return account_view(turn.state.books.accounts[command.account_id], turn.now)


def on_open_login(turn: Turn, command: OpenLogin) -> AccountView:
    """Makes an account known whose owner logs in; the same again changes nothing."""
    check_account_id(command.account_id)
    known = turn.state.books.accounts.get(command.account_id)
    if known is not None and known.secret == command.secret:
        return account_view(known, turn.now)
    # The operator's is opened by the first payment to it, and nobody else's even before.
    if known is not None or command.account_id == turn.policy.operator_account:
        raise AlreadyExistsError(f"account {command.account_id} exists", field="id")
    if not command.secret:
        raise InvalidArgumentError("must not be empty", field="secret")
    gift = IssueCredits(id=command.entry_id, account_id=command.account_id, credits=command.credits, memo=command.memo)
    moves = [(ISSUER, Book.AVAILABLE, -gift.credits), (gift.account_id, Book.AVAILABLE, gift.credits)]
    _check_issue(turn, bounded(gift.credits, "credits"))
    _earlier(turn, gift, moves)
    turn.emit(ev.AccountOpened(account_id=command.account_id, at=turn.now))
    turn.emit(ev.LoginSet(account_id=command.account_id, secret=command.secret, at=turn.now))
    if gift.credits:
        ensure_account(turn, ISSUER)
        _move(turn, gift, EntryKind.ISSUE, moves)
    return account_view(turn.state.books.accounts[command.account_id], turn.now)


def on_set_spending_limit(turn: Turn, command: SetSpendingLimit) -> AccountView:
    """Sets or lifts a limit; saying it twice changes nothing."""
    account = _known(turn, command.account_id, "id")
    if account.limit != command.limit:
        turn.emit(ev.SpendingLimitSet(account_id=account.id, limit=command.limit, at=turn.now))
    return account_view(account, turn.now)


def on_issue_credits(turn: Turn, command: IssueCredits) -> Posted:
    """Puts credits into an account."""
    credits = credits_of(command.credits)
    account = _known(turn, command.account_id, "id")
    moves = [(ISSUER, Book.AVAILABLE, -credits), (account.id, Book.AVAILABLE, credits)]
    earlier = _earlier(turn, command, moves)
    if earlier is not None:
        return Posted(entry=earlier, created=False)
    _check_issue(turn, credits)
    ensure_account(turn, ISSUER)
    return _move(turn, command, EntryKind.ISSUE, moves)


def on_transfer_credits(turn: Turn, command: TransferCredits) -> Posted:
    """Gives credits of one account to another."""
    credits = credits_of(command.credits)
    source = _known(turn, command.source, "id")
    target = _known(turn, command.target, "to")
    if source is target:
        raise InvalidArgumentError("must be another account", field="to")
    moves = [(source.id, Book.AVAILABLE, -credits), (target.id, Book.AVAILABLE, credits)]
    earlier = _earlier(turn, command, moves)
    if earlier is not None:
        return Posted(entry=earlier, created=False)
    if source.spendable < credits:
        message = f"account {source.id} has {max(0, source.spendable)} credits"
        raise InsufficientCreditsError(message, field="credits")
    return _move(turn, command, EntryKind.TRANSFER, moves)


def ensure_account(turn: Turn, account_id: AccountId) -> None:
    """Opens an account that is paid before anyone opened it: the issuer's, the operator's, a node owner's."""
    if account_id not in turn.state.books.accounts:
        turn.emit(ev.AccountOpened(account_id=account_id, at=turn.now))


def _known(turn: Turn, account_id: AccountId, field: str) -> Account:
    account = turn.state.books.accounts.get(account_id)
    if account is None or account_id == ISSUER:
        raise NotFoundError(f"no account {account_id}", field=field)
    return account


def _check_issue(turn: Turn, credits: int) -> None:
    issuer = turn.state.books.accounts.get(ISSUER)
    issued = 0 if issuer is None else -issuer.available
    if issued + credits > MAX_QUANTITY:
        raise InvalidArgumentError(f"no more than {MAX_QUANTITY - issued} can be issued", field="credits")


def _earlier(turn: Turn, command: IssueCredits | TransferCredits, moves: Sequence[Move]) -> Entry | None:
    earlier = turn.state.books.requests.get(entry_key(command))
    if earlier is None or (earlier.moves, earlier.memo) == (frozenset(moves), command.memo):
        return earlier
    if not command.request_id:
        raise AlreadyExistsError(f"entry {command.id} exists", field="id")
    raise IdempotencyMismatchError(f"key {command.request_id!r} belongs to entry {earlier.id}", field="Idempotency-Key")


def _move(turn: Turn, command: IssueCredits | TransferCredits, kind: EntryKind, moves: Sequence[Move]) -> Posted:
    asked_by, request_id = entry_key(command)
    entry = Entry(
        id=command.id,
        kind=kind,
        postings=turn.state.books.postings(moves),
        at=turn.now,
        asked_by=asked_by,
        request_id=request_id,
        memo=command.memo,
    )
    turn.emit(ev.CreditsMoved(entry=entry, at=turn.now))
    return Posted(entry=entry)
