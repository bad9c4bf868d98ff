"""A machine that joins a pool: ``arcray agent`` in a process of its own, started as a user would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from arcray.core.errors import UnavailableError

__all__ = ["agent"]

_JOIN_S: Final = 60.0
_LEAVE_S: Final = 30.0
_LOOK_S: Final = 0.1


@contextmanager
def agent(name: str, words: Sequence[str], env: Mapping[str, str], has_joined: Callable[[], bool]) -> Iterator[int]:
    """Runs an agent for the time of the block, in which its pool has it; yields its process.

    Args:
        name: for people.
        words: options of ``arcray agent``.
        env: settings beside those of this process.

    Raises:
        UnavailableError: it does not join; says where its log is.
    """
    directory = Path(tempfile.mkdtemp(prefix="arcray-machine-"))
    log = directory / "agent.log"
    # A settings file of the user's is for the user's own arcray.
    given = {variable: value for variable, value in os.environ.items() if variable != "ARCRAY_CONFIG"}
    with log.open("wb") as told:
        process = subprocess.Popen(  # noqa: S603  our own command line
            [sys.executable, "-P", "-m", "arcray.cli.main", "agent", *words, "--state-dir", str(directory)],
            env={**given, **env},
            stdout=told,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + _JOIN_S
        while not has_joined():
            if process.poll() is not None or time.monotonic() > deadline:
                raise UnavailableError(f"the machine {name} has not joined; see {log}")
            time.sleep(_LOOK_S)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    shutil.rmtree(directory)
