"""Fork servers: what programs of theirs share and what they do not, and what happens when one fails."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from arcray.config import ForkServerSettings
from arcray.core.blobkeys import log_key
from arcray.core.workload import Phase, Program
from arcray.node import program
from arcray.node.forks.slot import Forked
from arcray.node.process_tree import signal_all
from arcray.node.work import Attempt, End, Ending

if TYPE_CHECKING:
    from tests.program_bench import Bench


def processes(word: str = "early = frozenset") -> list[psutil.Process]:
    """Our fork servers and their slots and programs, the server first."""
    # Below a sandbox of this very process: the nodes of a shared cluster, which are below it too, have servers as well.
    sandboxes = [each for each in psutil.Process().children() if each.name() == "bwrap"]
    found = [each for sandbox in sandboxes for each in sandbox.children(recursive=True)]
    return [each for each in found if each.name() != "bwrap" and word in said_by(each)]


def said_by(process: psutil.Process) -> str:
    """A process's command line; nothing where it has ended."""
    try:
        return " ".join(process.cmdline())
    except (psutil.ZombieProcess, psutil.NoSuchProcess):
        return ""


def server() -> psutil.Process:
    (found,) = [each for each in processes() if (above := each.parent()) is not None and above.name() == "bwrap"]
    return found


async def until(look: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not look():  # noqa: ASYNC110 - what ends tells nobody
            await asyncio.sleep(0.01)


async def logged(bench: Bench, attempt: Attempt | None, text: str) -> None:
    assert attempt is not None
    await bench.blobs.holds(log_key(attempt.workload_id), text.encode())


WAITING = """
import ctypes, os, socket, sys, time
name = socket.socket(socket.AF_UNIX); name.bind("\\0here")
port = socket.socket(); port.bind(("127.0.0.1", 4242)); port.listen()
open("/tmp/mine", "w").close(); open("/dev/shm/mine", "w").close(); open("mine", "w").close()
libc = ctypes.CDLL(None, use_errno=True)
print("segment", libc.shmget(4242, 4096, 0o1666) >= 0)
print("up")
time.sleep(60)
"""

LOOKING = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def connects(family, address):
    try: socket.socket(family).connect(address); return True
    except ConnectionRefusedError: return False
print(connects(socket.AF_UNIX, "\\0here"), connects(socket.AF_INET, ("127.0.0.1", 4242)))
print([os.path.exists(path) for path in ("/tmp/mine", "/dev/shm/mine", "mine", "/dev/shm/place-1")])
print(libc.shmget(4242, 4096, 0) >= 0 or not open("/proc/sysvipc/shm").readlines()[1:])
print(sorted(name for name in os.listdir("/proc") if name.isdigit()) == ["1", str(os.getpid())])
print(os.listdir("/sandbox"), os.listdir("/dev/pts"))
"""


async def test_programs_of_one_owner_at_one_time_share_nothing_that_they_can_use(forked_bench: Bench) -> None:
    waiting = forked_bench.start(WAITING)
    first = forked_bench.attempt
    await logged(forked_bench, first, "segment True\nup\n")
    forked_bench.blobs.data.clear()
    await forked_bench.run(LOOKING)
    said = forked_bench.log.splitlines()
    assert said[0] == "False False", said
    assert said[1] == str([False] * 4)
    assert said[3:] == ["True", "['results', 'work'] ['ptmx']"]
    assert first is not None
    first.stop(0)
    await waiting


async def test_the_next_program_finds_nothing_of_the_last(forked_bench: Bench) -> None:
    await forked_bench.run(
        WAITING.replace("time.sleep(60)", "os.fork() or (os.setsid(), os.fork() or time.sleep(60), os._exit(0))")
    )
    assert forked_bench.log == "segment True\nup\n"
    forked_bench.blobs.data.clear()
    end = await forked_bench.run(LOOKING)
    said = forked_bench.log.splitlines()
    assert said[:2] == ["False False", str([False] * 4)]
    assert said[3] == "True"
    assert end.phase is Phase.SUCCEEDED
    assert len(processes()) == 2  # a server and one slot


# What a program can leave that its end does not take away, in places that the next one of its slot has too.
LEFT = {
    "nothing": "pass",
    "a file in /tmp": "open('/tmp/x', 'w').close()",
    "a file in /dev/shm": "open('/dev/shm/x', 'w').close()",
    "shared memory": "assert libc.shmget(7, 4096, 0o1666) >= 0",
    "semaphores": "assert libc.semget(7, 1, 0o1666) >= 0",
    "messages": "assert libc.msgget(7, 0o1666) >= 0",
    "a message queue": "assert libc.mq_open(b'/x', 0o102, 0o600, None) >= 0",
    "a terminal": "os.openpty()",
    "a process": "os.fork() or time.sleep(60)",
    "a file of its own": "open('x', 'w').close()",
}
_ENDS_A_SLOT = {*LEFT} - {"nothing", "a terminal", "a process"}


async def test_a_slot_ends_with_a_program_that_left_what_the_next_one_would_find(forked_bench: Bench) -> None:
    slots: dict[str, tuple[int | None, int | None]] = {}
    for left, source in LEFT.items():
        first = await forked_bench.run(f"import ctypes, os, time\nlibc = ctypes.CDLL('librt.so.1')\n{source}")
        assert first.phase is Phase.SUCCEEDED, (left, forked_bench.log)
        slots[left] = first.result.pid, (await forked_bench.run("")).result.pid
    assert {left for left, (before, after) in slots.items() if before != after} == _ENDS_A_SLOT


async def test_programs_that_follow_each_other_in_a_place_are_one_user_and_others_are_not(forked_bench: Bench) -> None:
    users: dict[str, set[str]] = {"one": set(), "two": set()}
    for owner in ("one", "two", "one", "two"):
        forked_bench.owner = owner
        forked_bench.blobs.data.clear()
        await forked_bench.run("import os\nprint(os.getuid())")
        users[owner].add(forked_bench.log)
    assert [len(each) for each in users.values()] == [1, 1]
    assert users["one"] != users["two"]


HASH = "print(hash('a'))"


async def test_owners_share_no_server(forked_bench: Bench) -> None:
    said: dict[str, set[str]] = {"one": set(), "two": set()}
    for owner in ("one", "two", "one", "two"):
        forked_bench.owner = owner
        forked_bench.blobs.data.clear()
        await forked_bench.run(HASH)
        said[owner].add(forked_bench.log)
    assert [len(each) for each in said.values()] == [1, 1]
    assert said["one"] != said["two"]
    assert forked_bench.forks is not None
    assert forked_bench.forks.owners == ("one", "two")


async def test_a_server_that_does_not_work_is_no_affair_of_other_owners(forked_bench: Bench) -> None:
    forks = forked_bench.with_forks()
    forks.doubt("one", network=forked_bench.settings.network)
    for owner in ("one", "two"):
        forked_bench.owner = owner
        assert (await forked_bench.run("")).phase is Phase.SUCCEEDED
    assert forks.owners == ("two",)
    await forks.close()


async def test_who_was_not_asked_for_longest_gives_way(forked_bench: Bench) -> None:
    forks = forked_bench.with_forks(ForkServerSettings(max_servers=2))
    for owner in ("one", "two", "one", "three"):
        forked_bench.owner = owner
        assert (await forked_bench.run("")).phase is Phase.SUCCEEDED
    assert forks.owners == ("one", "three")
    await until(lambda: len(processes()) == 4)
    await forks.close()
    assert processes() == []


async def test_where_all_servers_are_busy_a_program_starts_alone(forked_bench: Bench) -> None:
    forks = forked_bench.with_forks(ForkServerSettings(max_servers=1))
    waiting = forked_bench.start("import time\nprint('up')\ntime.sleep(60)")
    first = forked_bench.attempt
    await logged(forked_bench, first, "up\n")
    forked_bench.owner = "another"
    assert (await forked_bench.run("")).phase is Phase.SUCCEEDED
    assert forks.owners == ("local",)
    assert first is not None
    first.stop(0)
    assert (await waiting).phase is Phase.STOPPED
    await forks.close()


async def test_a_server_that_nobody_uses_ends(forked_bench: Bench) -> None:
    """Waits for a fifth of a second, in which nothing is asked of it."""
    forks = forked_bench.with_forks(ForkServerSettings(idle_s=0.2))
    await forked_bench.run("")
    await until(lambda: not processes())
    assert forks.owners == ()
    assert (await forked_bench.run("")).phase is Phase.SUCCEEDED
    await forks.close()


ONCE = "import os\nopen(os.environ['ARCRAY_RESULT_DIR'] + '/ran', 'a').write('x')"


def ran(bench: Bench, end: End) -> bytes:
    (key,) = end.result.blobs
    return bench.blobs.data[key]


async def test_a_program_whose_server_is_killed_ends_as_killed_and_the_next_one_runs(forked_bench: Bench) -> None:
    waiting = forked_bench.start("import time\nprint('up')\ntime.sleep(60)")
    await logged(forked_bench, forked_bench.attempt, "up\n")
    server().kill()
    end = await asyncio.wait_for(waiting, 30)
    assert (end.phase, end.result.exit_code) == (Phase.FAILED, 137)
    assert ran(forked_bench, await forked_bench.run(ONCE)) == b"x"


@pytest.mark.parametrize("which", ["server", "slot"])
async def test_a_program_whose_server_hangs_runs_alone_and_once(forked_bench: Bench, which: str) -> None:
    """Waits for half a second for what does not answer."""
    forks = forked_bench.with_forks(ForkServerSettings(answer_s=0.5, retry_s=0.01))
    await forked_bench.run("")
    slot = next(each for each in processes() if each != server())
    if which == "slot":
        os.kill(slot.pid, signal.SIGSTOP)
    else:
        hung = server()
        slot.kill()
        await until(lambda: not slot.is_running() or slot.status() == psutil.STATUS_ZOMBIE)
        hung.suspend()
    told = forked_bench.attempts.phases.told
    told.clear()
    end = await forked_bench.run(ONCE)
    assert Phase.STARTING not in told[told.index(Phase.RUNNING) :]  # no phase leads back
    assert end.phase is Phase.SUCCEEDED, end
    assert ran(forked_bench, end) == b"x"
    assert (await forked_bench.run("")).phase is Phase.SUCCEEDED
    await forks.close()
    assert processes() == []


async def test_programs_see_an_interpreter_that_lies_where_each_has_its_own_tmp(
    forked_bench: Bench, directory: Path
) -> None:
    (directory / "below" / "bin").mkdir(parents=True)
    python = directory / "below" / "bin" / "python"  # in /tmp, as tests' directories are
    python.symlink_to(sys.executable)
    forked_bench.sandbox = replace(forked_bench.sandbox, python=str(python))
    forks = forked_bench.with_forks()
    assert (await forked_bench.run("import colorsys")).phase is Phase.SUCCEEDED
    assert len(forks.owners) == 1
    await forks.close()


async def test_an_end_that_is_asked_for_as_the_program_ends_reaches_no_other_program_of_its_slot(
    forked_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []
    next_one: list[asyncio.Task[End]] = []

    def asks(pids: tuple[int, ...], number: signal.Signals) -> None:
        if number == signal.SIGTERM:
            asked.append(pids)
        signal_all(pids, number)

    async def asked_late(work: asyncio.Future[int]) -> Ending:
        await work
        waits = "import time\nprint('up')\ntime.sleep(60)"
        next_one.append(forked_bench.start(waits, stdin_blob="read", attempt=2))
        await logged(forked_bench, forked_bench.attempt, "up\n")
        return Ending.STOP

    monkeypatch.setattr(program, "signal_all", asks)
    forked_bench.blobs.data["read"] = b""  # what reads has no place, so its slot is free before it has been cleared up
    first = forked_bench.start("", stdin_blob="read")
    assert forked_bench.attempt is not None
    monkeypatch.setattr(forked_bench.attempt, "until", asked_late)
    await first
    assert asked == [()]
    assert len(processes()) == 3  # a server, one slot and its program
    forked_bench.attempt.stop(0)
    await next_one[0]


STAYING = """
import os
print(os.getuid())
for _ in range(40):
    if not os.fork(): break
else: print("up")
while True: pass
"""


async def test_when_a_program_has_been_killed_no_process_of_its_user_is_left(
    forked_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []

    def ended(self: Forked, code: int) -> None:
        found = [each.info for each in psutil.process_iter(["pid", "uids", "status"])]
        own = [each for each in found if each["uids"] and each["uids"].real == user]
        left.extend(each["pid"] for each in own if each["status"] != psutil.STATUS_ZOMBIE)
        end_of(self, code)

    end_of = Forked.ended
    monkeypatch.setattr(Forked, "ended", ended)
    for _ in range(3):
        forked_bench.blobs.data.clear()
        staying = forked_bench.start(STAYING)
        attempt = forked_bench.attempt
        assert attempt is not None
        await until(lambda: forked_bench.log.endswith("up\n"))
        user = int(forked_bench.log.split()[0])
        attempt.stop(0)
        await staying
    assert left == []


async def test_a_source_that_takes_long_to_compile_puts_no_server_out_of_use(forked_bench: Bench) -> None:
    """The source takes a second, twice as long as an answer may."""
    forks = forked_bench.with_forks(ForkServerSettings(answer_s=0.5))
    await forked_bench.run("")
    assert (await forked_bench.run("x = 1\n" * 250_000)).phase is Phase.SUCCEEDED
    assert forks.owners == ("local",)
    await forks.close()


async def test_what_is_asked_at_length_starts_alone(forked_bench: Bench) -> None:
    await forked_bench.run("import sys\nprint(len(sys.argv[1]))", args=("x" * 70_000,))
    assert forked_bench.log == "70000\n"


async def test_many_programs_at_once_are_themselves_alone(forked_bench: Bench) -> None:
    source = "import os, sys\nprint(os.getuid(), os.environ['TASK_ID'], len(os.listdir('/proc/self/fd')))"
    forked_bench.blobs.data["code"] = source.encode()
    runner = forked_bench.runner()
    attempts = [
        forked_bench.attempts.of(Program(blob="code"), workload_id=f"0b000000-0000-4000-8000-{number:012}")
        for number in range(40)
    ]
    ends = await asyncio.gather(*(runner.run(attempt) for attempt in attempts))
    assert {end.phase for end in ends} == {Phase.SUCCEEDED}
    said = [forked_bench.blobs.data[log_key(attempt.workload_id)].decode().split() for attempt in attempts]
    assert len({uid for uid, _, _ in said}) == len(said)
    assert [name for _, name, _ in said] == [attempt.workload_id for attempt in attempts]
    assert {files for _, _, files in said} == {"4"}  # its three, and that of the directory that it reads


async def test_a_program_reaches_nothing_of_its_slot(forked_bench: Bench) -> None:
    await forked_bench.run(
        """
import ctypes, os, signal
def tries(what):
    try: what(); return "done"
    except OSError as error: return type(error).__name__
print([tries(lambda: open(f"/proc/1/{name}", "rb").read()) for name in ("mem", "environ", "maps", "syscall")])
print([tries(lambda: os.listdir(f"/proc/1/{name}")) for name in ("fd", "root/", "cwd/")])
print(tries(lambda: os.kill(1, signal.SIGKILL)), ctypes.CDLL(None).ptrace(16, 1, 0, 0))
libc = ctypes.CDLL(None, use_errno=True)
print(libc.umount2(b"/dev/shm", 2), libc.umount2(b"/proc", 2), libc.unshare(0x20000))
print([line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapInh", "CapPrm", "CapEff"))])
"""
    )
    refused = "PermissionError"
    assert forked_bench.log.splitlines() == [
        str([refused] * 4),
        str([refused] * 3),
        f"{refused} -1",
        "-1 -1 -1",
        str(["0" * 16] * 3),
    ]


SEARCHING = """
import re
found = set()
memory = open("/proc/self/mem", "rb", 0)
for line in open("/proc/self/maps"):
    place, rights = line.split()[:2]
    start, end = (int(number, 16) for number in place.split("-"))
    if rights.startswith("rw"):
        memory.seek(start)
        found |= set(re.findall(rb"known-[a-z]+", memory.read(end - start)))
print(sorted(found))
"""


async def test_a_program_finds_no_variables_of_those_before_it_in_memory(forked_bench: Bench) -> None:
    for word in ("one", "two"):
        await forked_bench.run("", env=(("WORD", f"known-{word}"),))
    forked_bench.blobs.data.clear()
    await forked_bench.run(SEARCHING, env=(("WORD", "known-own"),))
    assert forked_bench.log == "[b'known-own']\n"


AGENT = """
import asyncio, sys
from pathlib import Path
from arcray.testing.node_fakes import Attempts, MemoryBlobs
from arcray.config import ProgramSettings
from arcray.node.sandbox import UserPool
from arcray.node.sandbox_probe import probe
from tests.program_bench import Bench

async def main(directory):
    bench = Bench(MemoryBlobs(), Attempts(), await probe(ProgramSettings(), directory, UserPool()), directory)
    bench.with_forks()
    running = bench.start("import os, time\\nos.fork()\\nos.write(1, b'up')\\ntime.sleep(4321)")
    await bench.blobs.holds(bench.log_key, b"upup")
    print("up", flush=True)
    await running

asyncio.run(main(Path(sys.argv[1])))
"""


async def test_all_of_it_ends_with_an_agent_that_is_killed(forked_bench: Bench, directory: Path) -> None:
    (directory / "own").mkdir(mode=0o711)
    root = Path(__file__).parents[3]
    with subprocess.Popen(  # noqa: ASYNC220 - a test may block
        [sys.executable, "-c", AGENT, str(directory / "own")], cwd=root, stdout=subprocess.PIPE, text=True
    ) as agent:
        assert agent.stdout is not None
        assert await asyncio.to_thread(agent.stdout.readline) == "up\n"
        below = psutil.Process(agent.pid).children(recursive=True)
        assert len(below) == 6  # bubblewrap's two, a server, its slot, and a program of two
        agent.kill()
        await until(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in below))
