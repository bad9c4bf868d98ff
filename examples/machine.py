"""Machines that join a pool: ``arcray agent`` in processes of their own, started as a user would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from arcray.core.errors import UnavailableError

__all__ = ["Start", "agents"]

_JOIN_S: Final = 60.0
_LEAVE_S: Final = 30.0
_LOOK_S: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How a machine joins.

    Args:
        name: for people.
        words: options of ``arcray agent``.
        env: settings beside those of this process.
        has_joined: whether its pool has it.
    """

    name: str
    words: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    has_joined: Callable[[], bool]


@contextmanager
def agents(*starts: Start) -> Iterator[None]:
    """Runs agents for the time of the block, in which their pools have them, and prints their processes.

    Raises:
        UnavailableError: one does not join; says where its log is.
    """
    running: list[_Agent] = []
    try:
        running.extend(map(_Agent, starts))
        for each in running:
            each.wait_until_joined()
        yield
    finally:
        for each in running:
            each.process.terminate()
        for each in running:
            each.end()
    for each in running:
        shutil.rmtree(each.directory)


class _Agent:
    """One that runs; its directory, with its log, is kept where something went wrong."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self.directory = Path(tempfile.mkdtemp(prefix="arcray-machine-"))
        self._log = self.directory / "agent.log"
        # A settings file of the user's is for the user's own arcray.
        given = {variable: value for variable, value in os.environ.items() if variable != "ARCRAY_CONFIG"}
        words = [*start.words, "--state-dir", str(self.directory)]
        with self._log.open("wb") as told:
            self.process = subprocess.Popen(  # noqa: S603  our own command line
                [sys.executable, "-P", "-m", "arcray.cli.main", "agent", *words],
                env={**given, **start.env},
                stdout=told,
                stderr=subprocess.STDOUT,
            )

    def wait_until_joined(self) -> None:
        deadline = time.monotonic() + _JOIN_S
        while not self._start.has_joined():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise UnavailableError(f"{self._start.name} has not joined; see {self._log}")
            time.sleep(_LOOK_S)
        print(f"    {self._start.name} has joined, process {self.process.pid}")

    def end(self) -> None:
        try:
            self.process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
