"""``arcray agent --protocol hivemind`` as a process, for tests that give it work."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from arcray.core.errors import NotFoundError
from tests.conformance.hivemind.worker_rig import Pool
from tests.ports import free_ports

__all__ = ["NAME", "PASSWORD", "PATIENCE_S", "an_agent", "takes_work"]

PATIENCE_S = 40.0
NAME = "machine-7"
PASSWORD = "correct horse"


@asynccontextmanager
async def an_agent(
    address: str, state_dir: Path, *, user: str = "", containers: str = "never", libraries: Path | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process, from its start to its end by SIGTERM.

    Args:
        user: who is paid; "" has it go by ``NAME``.
        containers: the setting of that name.
        libraries: where shared libraries are looked for first.
    """
    environment = _environment(containers)
    if libraries is not None:
        environment["LD_LIBRARY_PATH"] = str(libraries)
    process = await asyncio.create_subprocess_exec(*_words(address, state_dir, user), env=environment)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() == 0


def _words(address: str, state_dir: Path, user: str) -> Sequence[str]:
    (port,) = free_ports(1)
    words = [sys.executable, "-m", "arcray.cli.main", "agent", "--protocol", "hivemind", "--pool", address]
    words += ["--listen", f"127.0.0.1:{port}", "--state-dir", str(state_dir)]
    return [*words, *(["--user", user] if user else ["--node-id", NAME])]


def _environment(containers: str) -> dict[str, str]:
    settings = {"ARCRAY_NODE__CONTAINERS__ENABLED": containers, "ARCRAY_NODE__MODELS__ENABLED": "false"}
    return {**os.environ, **settings, "ARCRAY_AGENT_PASSWORD": PASSWORD}


async def takes_work(served: Pool) -> None:
    """Waits until the machine takes work of this pool."""

    async def holds() -> bool:
        try:
            return (await served.node(NAME)).registration.capabilities.programs
        except NotFoundError:
            return False

    await served.until(holds, PATIENCE_S)
