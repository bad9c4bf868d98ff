"""Rules about API keys."""

from __future__ import annotations

import re
from typing import Final

from arcray.core import events as ev
from arcray.core.commands import IssueKey, ReportKeyUse, RevokeKey
from arcray.core.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from arcray.core.keys import ApiKey, KeyView, Scope
from arcray.core.ledger import check_account_id
from arcray.core.turn import Turn

__all__ = ["on_issue_key", "on_report_key_use", "on_revoke_key"]

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def on_issue_key(turn: Turn, command: IssueKey) -> KeyView:
    """Makes a key valid; the same again changes nothing."""
    key, ring = command.key, turn.state.keys
    if ring.keys.get(key.id) == key:
        return ring.view(key.id)
    if ring.was_revoked(key.id):
        raise ConflictError(f"key {key.id} was revoked; issue another", field="id")
    _check(turn, key)
    if key.id in ring.keys or ring.find(key.digest) is not None:
        raise AlreadyExistsError(f"key {key.id} exists", field="id")
    if ring.count(key.account) >= turn.policy.max_account_keys:
        raise ResourceExhaustedError(
            f"account {key.account} has {turn.policy.max_account_keys} keys; revoke some", field="account"
        )
    turn.emit(ev.KeyIssued(key=key, at=turn.now))
    return ring.view(key.id)


def _check(turn: Turn, key: ApiKey) -> None:
    check_account_id(key.account, "account")  # the books open accounts of their own, which nobody may act for
    if key.account not in turn.state.books.accounts:
        raise NotFoundError(f"no account {key.account}; open it first", field="account")
    if not _DIGEST.fullmatch(key.digest):
        raise InvalidArgumentError("is no SHA-256", field="digest")
    if key.expires_at is not None and key.expires_at <= turn.now:
        raise InvalidArgumentError("must be in the future", field="expiresAt")
    if (key.scope is Scope.NODE) != (key.node_id is not None):
        raise InvalidArgumentError("belongs to keys of scope node, and to each of them", field="nodeId")


def on_revoke_key(turn: Turn, command: RevokeKey) -> None:
    """Makes a key worthless."""
    key = turn.state.keys.keys.get(command.key_id)
    if key is None or command.account not in (None, key.account):
        raise NotFoundError(f"no key {command.key_id}", field="id")
    turn.emit(ev.KeyRevoked(key_id=key.id, digest=key.digest, at=turn.now))


def on_report_key_use(turn: Turn, command: ReportKeyUse) -> None:
    """Takes when keys were last seen."""
    turn.emit(ev.KeysUsed(used=command.used, at=turn.now))
