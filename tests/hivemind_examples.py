"""The document's own example programs, run unchanged by a process of their own with a client compiled for it."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = [
    "NODES",
    "PORT",
    "PRINTED",
    "PROGRAMS",
    "TASKS",
    "USERS",
    "WORKERS",
    "compiled_client",
    "is_free",
    "output_of",
]

PORT: Final = 50051
"""Where the programs look for a server."""

_ROOT: Final = Path(__file__).parents[1]
_TARGET: Final = "'localhost:50051'"
_EXAMPLES: Final = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")

PROGRAMS: Final[Sequence[str]] = re.findall(r"```python\n(.*?)```", _EXAMPLES, re.DOTALL)
"""Users, nodes, tasks and workers; each goes on with what those before it have."""

USERS, NODES, TASKS, WORKERS = range(4)

PRINTED: Final[Sequence[str]] = (
    (
        r"Registration result: True, Message: registered testuser\n"
        r"Login successful, Token: [\w-]+\.[\w-]+\.[\w-]+\n"
        r"User balance: 100\n"
    ),
    r"Node registration: True\nNode health status: healthy\n",
    r"Task upload: True\nTask status: (PENDING|RUNNING|COMPLETED)\nTask output: \[.*\]\n",
    r"CPT reward: \d+\n",
)
"""What each of them prints, as an expression."""


def is_free(port: int) -> bool:
    """Returns whether nobody listens on that port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def compiled_client(directory: Path) -> None:
    """Compiles the contract as ``node_pool/nodepool.proto``, as others do, into a directory."""
    compiler = [sys.executable, "-m", "grpc_tools.protoc", f"-Inode_pool={_ROOT / 'protos'}"]
    targets = [f"--python_out={directory}", f"--grpc_python_out={directory}", "node_pool/nodepool.proto"]
    process = await asyncio.create_subprocess_exec(*compiler, *targets)
    assert await process.wait() == 0


async def output_of(programs: Sequence[str], client: Path, port: int) -> str:
    """Runs programs in order as one and returns what they print.

    Args:
        client: directory of the compiled client.
        port: of the server; programs that are to find it elsewhere than at ``PORT`` are told so.

    Raises:
        AssertionError: they fail.
    """
    program = "\n".join(programs)
    assert _TARGET in program
    if port != PORT:
        program = program.replace(_TARGET, f"'localhost:{port}'")
    environment = os.environ | {"PYTHONPATH": str(client)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        printed, failure = await process.communicate()
    assert process.returncode == 0, failure.decode()
    return printed.decode()
