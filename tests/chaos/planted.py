"""Bugs of the ledger, one of each kind, in parts of a scheduler that is killed: each must be found by the rounds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from arcray.control.batch import Reply
from arcray.control.journal import Journal, Records
from arcray.control.plane import Plane
from arcray.core.cluster import Cluster, Handler
from arcray.core.commands import Command, Posted, TransferCredits
from arcray.core.handlers.accounts import on_transfer_credits
from arcray.core.repeats import entry_key
from arcray.core.turn import Turn
from arcray.testing.simulation.build import Build

__all__ = ["ANSWERS_TOO_SOON", "FORGETS_IDS", "FORGETS_KEYS", "LOSES_A_POSTING", "PLANTED", "SPENDS_WITHOUT_LIMIT"]


def _rules(transfer: Handler) -> type[Cluster]:
    class Planted(Cluster):
        handlers: Mapping[type, Handler] = {**Cluster.handlers, TransferCredits: transfer}  # type: ignore[misc]  # as is

    return Planted


def _forgets_keys(turn: Turn, command: TransferCredits) -> Posted:
    """What is asked for again under its key is done again."""
    turn.state.books.requests.pop(entry_key(command), None)
    return on_transfer_credits(turn, command)


def _forgets_ids(turn: Turn, command: TransferCredits) -> Posted:
    """What is asked for again without a key is done again, though its client only asks because nobody answered."""
    return on_transfer_credits(turn, command) if command.request_id else _forgets_keys(turn, command)


def _spends_without_limit(turn: Turn, command: TransferCredits) -> Posted:
    """An account gives what it does not have."""
    source = turn.state.books.accounts[command.source]
    overdraft, source.overdraft = source.overdraft, 10**9
    try:
        return on_transfer_credits(turn, command)
    finally:
        source.overdraft = overdraft


class _AnswersTooSoon(Plane):
    """A transfer is acknowledged before its commit."""

    def take(self, commands: Sequence[Command], replies: Sequence[Reply]) -> None:
        super().take(commands, replies)
        for reply, value in self._writer.commits.open.replies:
            if isinstance(value, Posted) and not reply.done():
                reply.set_result(value)


class _CommitsLate(Journal):
    """A disk that is slow enough for a death to come between an answer and its commit."""

    async def append(self, records: Records) -> None:
        await asyncio.sleep(0.01)
        await super().append(records)


class _LosesAPosting(Journal):
    """One side of a transaction's last entry is not written."""

    async def append(self, records: Records) -> None:
        await super().append(replace(records, postings=records.postings[:-1]))


FORGETS_KEYS: Final = Build(rules=_rules(_forgets_keys))
FORGETS_IDS: Final = Build(rules=_rules(_forgets_ids))
SPENDS_WITHOUT_LIMIT: Final = Build(rules=_rules(_spends_without_limit))
ANSWERS_TOO_SOON: Final = Build(plane=_AnswersTooSoon, journal=_CommitsLate)
LOSES_A_POSTING: Final = Build(journal=_LosesAPosting)

PLANTED: Final = {
    "a key is good for two transfers": "FORGETS_KEYS",
    "a call that is repeated moves credits twice": "FORGETS_IDS",
    "an account gives what it has not": "SPENDS_WITHOUT_LIMIT",
    "acknowledged before the commit": "ANSWERS_TOO_SOON",
    "half of an entry is lost": "LOSES_A_POSTING",
}
"""By what goes wrong: names in this module, for another process to find them by."""
