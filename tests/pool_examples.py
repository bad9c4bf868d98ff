"""The Resource Pool document's own clients, run unchanged by processes of their own: Node.js and Python."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

__all__ = ["JAVASCRIPT", "PORT", "PYTHON", "Running", "node_modules", "running_javascript", "running_python"]

PORT: Final = 3000
"""Where the programs look for a server."""

_ROOT: Final = Path(__file__).parents[1]
_PATIENCE_S: Final = 20.0
_NPM_S: Final = 60.0
_TARGET: Final = f"localhost:{PORT}"
_EXAMPLES: Final = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
JAVASCRIPT, PYTHON = re.findall(r"```(?:javascript|python)\n(.*?)```", _EXAMPLES, re.DOTALL)

_RESOURCES: Final = """\
global.getSystemResources = () => ({
  cpuUsage: 45.5, cpuAvailable: 54.5, cpuCores: 8, memoryUsage: 8192, memoryAvailable: 8192, memoryTotal: 16384,
  storageUsage: 512000, storageAvailable: 488000, storageTotal: 1000000,
  hasGPU: true, gpuName: 'NVIDIA RTX 3080', gpuUsage: 30.0,
});
"""  # which the document's program calls and leaves to its reader


class Running:
    """A program that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def printed(self, line: str) -> None:
        """Waits until it has printed a line.

        Raises:
            AssertionError: it ended without.
        """
        assert self._process.stdout is not None
        found = []
        async with asyncio.timeout(_PATIENCE_S):
            while read := await self._process.stdout.readline():
                found.append(read.decode().rstrip())
                if found[-1] == line:
                    return
        raise AssertionError(f"{line!r} is not among {found}")


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the npm package ``ws`` lies; skipped where it cannot be had."""
    if shutil.which("node") is None:
        pytest.skip("Node.js is absent")
    directory = tmp_path_factory.mktemp("npm")
    command = [str(_ROOT / "scripts" / "node-packages"), str(directory), "ws@8"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_NPM_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm does not answer")
    if done.returncode:
        pytest.skip(f"the npm package ws cannot be had: {done.stderr.strip()[-200:]}")
    return directory / "node_modules"


@asynccontextmanager
async def running_python(port: int = PORT) -> AsyncIterator[Running]:
    """Runs the document's Python client for the time of the block."""
    async with _running([sys.executable, "-u", "-c", _to(PYTHON, port)]) as found:
        yield found


@asynccontextmanager
async def running_javascript(modules: Path, directory: Path, port: int = PORT) -> AsyncIterator[Running]:
    """Runs the document's JavaScript client for the time of the block.

    Args:
        directory: for the program and what it calls.
    """
    program, resources = directory / "client.js", directory / "resources.js"
    program.write_text(_to(JAVASCRIPT, port), encoding="utf-8")
    resources.write_text(_RESOURCES, encoding="utf-8")
    async with _running(["node", "--require", str(resources), str(program)], NODE_PATH=str(modules)) as found:
        yield found


def _to(program: str, port: int) -> str:
    """Returns a program that looks for its server at a port; unchanged where that is where it looks."""
    assert _TARGET in program
    return program if port == PORT else program.replace(_TARGET, f"localhost:{port}")


@asynccontextmanager
async def _running(command: list[str], **environment: str) -> AsyncIterator[Running]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env=os.environ | environment
    )
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
