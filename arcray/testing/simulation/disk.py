"""The database under the scheduler: the real journal on a real SQLite file, with a disk that is slow and fails.

A failure comes at a step of a transaction: before or after a statement, before or after the commit itself. The last is
the one in which the rows are written and nobody is told. A slow disk makes a commit time out that succeeds later.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from arcray.config import DatabaseSettings
from arcray.control.journal import Journal
from arcray.testing.faults import around_statements
from arcray.testing.simulation.trace import Trace

__all__ = ["Disk"]


class Disk:
    """One database file.

    Args:
        kind: the journal to put on it.
        committed: called after every transaction that is on disk, before anybody is told of it.

    Attributes:
        slow_s: longest time that a job of the database takes.
    """

    def __init__(
        self, path: Path, *, kind: type[Journal], dice: Random, trace: Trace, committed: Callable[[], None]
    ) -> None:
        self.slow_s = 0.003
        self._url = f"sqlite:///{path}"
        self._kind = kind
        self._dice = dice
        self._trace = trace
        self._committed = committed
        self._away_until = 0.0
        self._steps_left: int | None = None
        self._at_commit: tuple[int, Callable[[], None]] | None = None

    def journal(self) -> Journal:
        """Returns a journal that is not open yet."""
        journal = self._kind(self._url, DatabaseSettings(stand_still_s=0))  # real time does not pass here
        around_statements(journal, lambda: self._step("statement"))
        dialect: Any = journal._engine.dialect  # noqa: SLF001 - faults come from below every interface
        commit = dialect.do_commit

        def failing_commit(connection: Any) -> None:
            self._step("commit")
            commit(connection)
            self._committed()
            self._count_commit()
            self._step("answer to a commit")

        dialect.do_commit = failing_commit
        return journal

    def pace(self) -> tuple[float, float]:
        """Returns how long the next job takes, and how long after it that is known."""
        return self._dice.random() * self.slow_s, self._dice.random() * min(self.slow_s, 1.0)

    def fail_after(self, steps: int) -> None:
        """Fails one step, after so many others."""
        self._steps_left = steps

    def fail_for(self, seconds: float) -> None:
        """Fails every step for a while."""
        self._away_until = asyncio.get_running_loop().time() + seconds

    def at_commit(self, after: int, act: Callable[[], None]) -> None:
        """Does something at the moment at which a transaction is on disk and nobody knows, after so many others."""
        self._at_commit = (after, act)

    def heal(self) -> None:
        """Makes it fast and faultless."""
        self.slow_s = 0.003
        self._away_until = 0.0
        self._steps_left = None
        self._at_commit = None

    def _count_commit(self) -> None:
        if self._at_commit is None:
            return
        left, act = self._at_commit
        self._at_commit = (left - 1, act) if left else None
        if not left:
            act()

    def _step(self, what: str) -> None:
        if asyncio.get_running_loop().time() < self._away_until:
            self._fail(what)
        if self._steps_left is not None:
            self._steps_left -= 1
            if self._steps_left < 0:
                self._steps_left = None
                self._fail(what)

    def _fail(self, what: str) -> None:
        self._trace.say("disk", f"fails a {what}")
        raise sqlite3.OperationalError("database or disk is full")
