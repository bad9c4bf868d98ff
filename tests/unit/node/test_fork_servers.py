from __future__ import annotations

import tempfile
from pathlib import Path

from arcray.config import ForkServerSettings
from arcray.node.forks.frames import Request
from arcray.node.forks.pool import ForkServers
from arcray.node.sandbox import Sandbox, SandboxKind, UserPool
from arcray.testing.clock import FakeClock

REQUEST = Request(
    directory="p", entry="main.py", args=[], env={}, limits={}, uid=61_184, tmp_bytes=2**20, archive=False, reads=False
)


async def test_an_interpreter_that_a_fork_would_not_see_is_no_fault_of_the_program() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:  # where programs are
        interpreter = Path(directory, "bin", "python")
        interpreter.parent.mkdir()
        sandbox = Sandbox(kind=SandboxKind.BUBBLEWRAP, own_user=True, python=str(interpreter))
        servers = ForkServers(
            sandbox=sandbox,
            programs=Path(directory),
            users=UserPool(),
            settings=ForkServerSettings(),
            clock=FakeClock(),
        )
        assert await servers.fork("ana", REQUEST, [], network=False, stays=False) is None
        await servers.close()
