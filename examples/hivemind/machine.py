"""A machine that somebody lends to a pool: ``arcray agent`` in a process of its own, started as a user would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from arcray.core.errors import UnavailableError
from examples.hivemind.pool import Pool, User

__all__ = ["lent"]

_JOIN_S: Final = 60.0
_LEAVE_S: Final = 30.0
_LOOK_S: Final = 0.1
# A little of this machine, which is in the pool with all of it already: so small a one is filled first.
_OFFERED: Final = {
    "ARCRAY_NODE__CPU_MILLI": "1000",
    "ARCRAY_NODE__MEMORY_BYTES": str(2 * 2**30),
    "ARCRAY_NODE__MODELS__ENABLED": "false",
}


@contextmanager
def lent(pool: Pool, owner: User) -> Iterator[int]:
    """Lends the machine for the time of the block, in which the pool has it; yields its agent's process.

    Raises:
        UnavailableError: it does not join; says where its log is.
    """
    directory = Path(tempfile.mkdtemp(prefix="arcray-machine-"))
    log = directory / "agent.log"
    words = ["agent", "--protocol", "hivemind", "--pool", pool.address, "--listen", "127.0.0.1:0", "--user", owner.name]
    # A settings file of the user's is for the user's own arcray.
    given = {name: value for name, value in os.environ.items() if name != "ARCRAY_CONFIG"}
    with log.open("wb") as told:
        agent = subprocess.Popen(  # noqa: S603  our own command line
            [sys.executable, "-P", "-m", "arcray.cli.main", *words, "--state-dir", str(directory)],
            env={**given, **_OFFERED, "ARCRAY_AGENT_PASSWORD": owner.password},
            stdout=told,
            stderr=subprocess.STDOUT,
        )
    try:
        _await_joined(pool, owner, agent, log)
        yield agent.pid
    finally:
        agent.terminate()
        try:
            agent.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()
    shutil.rmtree(directory)


def _await_joined(pool: Pool, owner: User, agent: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _JOIN_S
    while pool.health(owner.name) != "healthy":
        if agent.poll() is not None or time.monotonic() > deadline:
            raise UnavailableError(f"the machine of {owner.name} has not joined; see {log}")
        time.sleep(_LOOK_S)
