from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from arcray.config import ForkServerSettings
from arcray.node.forks.frames import ENDED, Answer, Request
from arcray.node.forks.pool import ForkServers
from arcray.node.forks.server import line
from arcray.node.forks.slot import Slot
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


async def test_a_slot_that_is_killed_as_its_program_ends_runs_no_other_one() -> None:
    idle: list[Slot] = []
    with subprocess.Popen(("sleep", "60")) as process:  # noqa: ASYNC220 - stands for a slot's process
        ours, its = line()
        slot = Slot(ours, process.pid, os.pidfd_open(process.pid), seat=None, idle=idle.append, gone=lambda _: None)
        program = slot.run(REQUEST.encoded(), [2], answer_s=60)
        its.send(Answer(ENDED, 3).encoded())
        program.kill_group()
        assert await program.wait() == 3
        its.close()
        await slot.wait()
        program.close()
    assert idle == []
