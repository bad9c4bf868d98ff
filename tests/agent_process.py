"""``arcray agent`` as a process, for tests that give it work by a WebSocket."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

__all__ = ["PATIENCE_S", "a_machine", "an_agent"]

PATIENCE_S = 60.0


@asynccontextmanager
async def an_agent(
    protocol: str,
    url: str,
    state_dir: Path,
    *options: str,
    containers: str = "never",
    exits: int | None = 0,
    stderr: int | None = None,
    **settings: str,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process, from its start to its end by SIGTERM.

    Args:
        url: of the gateway.
        containers: the setting of that name.
        exits: the status that it ends with; None where it is killed.
        stderr: where its log goes, as of ``subprocess``.
        settings: more of the environment.
    """
    process = await asyncio.create_subprocess_exec(
        *_words(protocol, url, state_dir, options), env=_environment(containers, settings), stderr=stderr
    )
    try:
        yield process
    finally:
        if process.returncode is None and exits is not None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            status = await process.wait()
    assert exits is None or status == exits


@contextmanager
def a_machine(
    protocol: str, url: str, state_dir: Path, *options: str, **settings: str
) -> Iterator[subprocess.Popen[bytes]]:
    """The same with containers, for tests that are no coroutines; it may be killed."""
    words = _words(protocol, url, state_dir, options)
    with subprocess.Popen(words, env=_environment("always", settings)) as process:
        try:
            yield process
        finally:
            killed = process.poll() is not None
            process.send_signal(signal.SIGTERM)
            status = process.wait(PATIENCE_S)
    assert killed or status == 0


def _words(protocol: str, url: str, state_dir: Path, options: Sequence[str]) -> Sequence[str]:
    words = [sys.executable, "-m", "arcray.cli.main", "agent", "--protocol", protocol, "--gateway", url]
    return [*words, "--state-dir", str(state_dir), *options]


def _environment(containers: str, settings: Mapping[str, str]) -> dict[str, str]:
    own = {"ARCRAY_NODE__CONTAINERS__ENABLED": containers, "ARCRAY_NODE__MODELS__ENABLED": "false"}
    return {**os.environ, **own, **settings}
