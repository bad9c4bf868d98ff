"""Programs run in the real sandbox; each test starts one (about 60 ms)."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from arcray.config import ProgramSettings, Settings
from arcray.core.blobkeys import log_key
from arcray.core.errors import InvalidArgumentError, NotFoundError
from arcray.core.ids import NodeId
from arcray.core.resources import Allocation, Demand, Gpu, GpuShare
from arcray.core.workload import Phase, Program
from arcray.node.gpu import GpuDevices, GpuHolding
from arcray.node.machine import Machine
from arcray.node.sandbox import DATA_SLACK_BYTES, Confinement, Limits, Sandbox, SandboxKind, UserPool
from arcray.node.sandbox_probe import probe
from arcray.testing.clock import FakeClock

if TYPE_CHECKING:
    from arcray.testing.node_fakes import FakeEngine, FakeGpus
    from tests.program_bench import Bench

LIB = Path("/usr/lib")


def zipped(**files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, text in files.items():
            bundle.writestr(name.replace("__", "/") + ".py", text)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("source", "attempt", "log_bytes"), [("print('x')", 1, 2), ("", 1, 0), ("print('x')", 2, None)]
)
async def test_an_end_says_how_much_was_written_unless_an_earlier_attempt_may_write_yet(
    bench: Bench, source: str, attempt: int, log_bytes: int | None
) -> None:
    end = await bench.run(source, attempt=attempt)
    assert end.result.log_bytes == log_bytes


async def test_source_runs_and_its_output_is_the_log(bench: Bench) -> None:
    end = await bench.run("import sys\nprint('hello', sys.argv[1:])\nprint('oops', file=sys.stderr)", args=("a", "b c"))
    assert end.phase is Phase.SUCCEEDED, (end, bench.log)
    assert end.result.exit_code == 0
    assert bench.log == "hello ['a', 'b c']\noops\n"
    assert bench.attempts.phases.told == [*bench.starting, Phase.RUNNING]


async def test_failing_program_fails_with_its_exit_code(bench: Bench) -> None:
    end = await bench.run("raise SystemExit(7)")
    assert (end.phase, end.message, end.result.exit_code) == (Phase.FAILED, "exit code 7", 7)


async def test_program_that_dies_by_a_signal_says_which(bench: Bench) -> None:
    end = await bench.run("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert (end.phase, end.message) == (Phase.FAILED, "ended by SIGSEGV")


async def test_standard_input_is_the_named_blob(bench: Bench) -> None:
    bench.blobs.data["in"] = b"1 2 3"
    await bench.run("print(sum(map(int, input().split())))", stdin_blob="in")
    assert bench.log == "6\n"


async def test_absent_standard_input_is_empty(bench: Bench) -> None:
    await bench.run("import sys\nprint(repr(sys.stdin.read()))")
    assert bench.log == "''\n"


async def test_a_program_may_be_called_as_its_protocol_calls_it(bench: Bench) -> None:
    source = "import os\nprint(os.environ['TASK_ID'], os.environ['ARCRAY_WORKLOAD_ID'])"
    await bench.run(source, env=(("TASK_ID", "task-001"), ("ARCRAY_WORKLOAD_ID", "another")))
    assert bench.log == "task-001 0b000000-0000-4000-8000-000000000001\n"


async def test_environment_holds_only_what_is_promised(bench: Bench) -> None:
    await bench.run(
        "import json, os\nprint(json.dumps(dict(os.environ)))",
        env=(("GREETING", "hi"), ("ARCRAY_RESULT_DIR", "/etc")),
        demand=Demand(cpu_milli=2500),
    )
    env = json.loads(bench.log)
    assert env.pop("GREETING") == "hi"
    assert env.pop("HOME") == "/sandbox/work"
    assert env.pop("ARCRAY_RESULT_DIR") == "/sandbox/results"
    assert env.pop("TASK_ID") == env.pop("ARCRAY_WORKLOAD_ID") == "0b000000-0000-4000-8000-000000000001"
    assert env.pop("OMP_NUM_THREADS") == "3"
    env.pop("LC_CTYPE", None)
    assert set(env) == {
        "CUDA_VISIBLE_DEVICES", "LANG", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PATH",
        "PYTHONUNBUFFERED",
    }  # fmt: skip


async def test_what_a_program_sets_decides_no_gpus_and_hides_no_driver(bench: Bench) -> None:
    bench.devices = GpuDevices(
        gpus=(Gpu(index=1, memory_bytes=2**30, uuid="GPU-b"),), minors={1: 999}, libraries=(LIB,)
    )
    named = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "ARCRAY_GPU_MEMORY_BYTES", "TF_FORCE_GPU_ALLOW_GROWTH")
    await bench.run(
        f"import os\nprint([os.environ[name] for name in {named}])",
        env=tuple(zip(named, ("0", "lib", "1", "false"), strict=True)),
        allocation=Allocation(gpus=(GpuShare(index=1, memory_bytes=2**29, whole=False),)),
    )
    assert bench.log == f"{['GPU-b', f'lib:{LIB}', str(2**29), 'false']}\n"


async def test_program_sees_nothing_of_the_host(bench: Bench, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (bench.directory / "other-work").mkdir()
    await bench.run(
        f"""
import json, os
def seen(path):
    try: return sorted(os.listdir(path)) if os.path.isdir(path) else open(path).read()
    except OSError as error: return type(error).__name__
print(json.dumps({{path: seen(path) for path in ("/", "/home", "/var", "/tmp", "/sandbox", "/etc/shadow",
    {str(secret)!r}, {str(bench.directory)!r}, "/proc/1/environ", "/run/docker.sock", "/var/run/docker.sock")}}))
"""
    )
    seen = json.loads(bench.log)
    assert seen["/sandbox"] == ["results", "work"]
    assert seen["/etc/shadow"] == seen[str(secret)] == seen[str(bench.directory)] == "FileNotFoundError"
    assert seen["/run/docker.sock"] == seen["/var/run/docker.sock"] == "FileNotFoundError"
    # The runtime's own environment is there, and with it the names of the directories that it lies in.
    runtime = {Path(prefix).parts[1] for prefix in (sys.prefix, sys.base_prefix)}
    assert not ({"home", "var", "work", "mnt", "media", "srv"} - runtime) & set(seen["/"])


async def test_program_reads_the_runtimes_packages_and_writes_only_its_own_directories(bench: Bench) -> None:
    await bench.run(
        """
import os, sys, numpy
def writes(path):
    try: open(path, "w").close(); return True
    except OSError: return False
print([writes(path) for path in ("own", os.environ["ARCRAY_RESULT_DIR"] + "/r", "/tmp/t")])
print([writes(path) for path in ("/usr/x", "/etc/x", "/x", numpy.__file__, sys.executable, "/dev/x", "/etc/passwd")])
"""
    )
    assert bench.log == f"{[True] * 3}\n{[False] * 7}\n"


@pytest.fixture
def device() -> Iterator[Path]:
    """A file of /dev that no sandbox has by itself."""
    path = Path(f"/dev/arcray-{os.getpid()}")
    try:
        path.touch()
    except PermissionError:  # only root adds to /dev; most machines have other devices than these
        usual = {"console", "full", "null", "ptmx", "random", "tty", "urandom", "zero"}
        yield next(each for each in Path("/dev").iterdir() if each.is_char_device() and each.name not in usual)
    else:
        yield path
        path.unlink()


Confined = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(params=[True, False], ids=["own-user", "user-namespace"])
def confined(sandbox: Sandbox, directory: Path, request: pytest.FixtureRequest) -> Confined:
    """Runs Python code in a sandbox of which more is said than a program can ask for."""
    if request.param and not sandbox.own_user:
        pytest.skip("another user needs root")

    def run(source: str, **further: Any) -> subprocess.CompletedProcess[str]:
        place = Confinement(
            work=directory / "work",
            results=directory / "results",
            limits=Limits(memory_bytes=2**28, processes=64, file_bytes=2**20),
            uid=UserPool().take() if request.param else None,
            **further,
        )
        place.work.mkdir()
        place.results.mkdir()
        box = replace(sandbox, own_user=request.param)
        box.prepare(place)
        command = box.command(place, ("-c", source), {})
        return subprocess.run(command.argv, env=command.env, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_program_has_the_device_files_that_it_is_given_in_a_dev_that_it_cannot_change(
    confined: Confined, device: Path
) -> None:
    source = f"import os\nprint({device.name!r} in os.listdir('/dev'))\nopen('/dev/new', 'w')"
    ran = confined(source, devices=(device, Path("/dev/absent")))
    assert (ran.stdout, ran.returncode) == ("True\n", 1), ran.stderr
    assert "Read-only file system" in ran.stderr


def test_program_reads_the_libraries_that_it_is_given(confined: Confined, directory: Path) -> None:
    library = directory / "driver" / "lib" / "libdriver.so"
    library.parent.mkdir(parents=True)
    library.write_text("a library")
    ran = confined(f"print(open({str(library)!r}).read())", libraries=(library.parent, Path("/usr/lib")))
    assert ran.stdout == "a library\n", ran.stderr


async def test_program_has_no_network(bench: Bench) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    source = f"""
import socket
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=5); print("connected")
except OSError as error: print(type(error).__name__)
"""
    async with server:
        await bench.run(source)
        assert bench.log == "ConnectionRefusedError\n"
        bench.blobs.data.clear()
        bench.settings = ProgramSettings(network=True)
        await bench.run(source)
        assert bench.log == "connected\n"


async def test_program_is_nobody_and_stays_so(bench: Bench) -> None:
    if not bench.sandbox.own_user:
        pytest.skip("another user needs root")
    await bench.run(
        """
import os
print(os.getuid() != 0, os.getuid() == os.getgid(), os.getgroups())
print([line for line in open("/proc/self/status") if line.startswith(("CapEff", "CapBnd", "NoNewPrivs"))])
try: os.setuid(0); print("root")
except PermissionError: print("refused")
"""
    )
    assert "root" not in bench.log.split()
    assert bench.log.startswith("True True []\n")
    assert "CapEff:\\t0000000000000000" in bench.log
    assert "NoNewPrivs:\\t1" in bench.log


async def test_memory_limit_kills_slow_growth_of_a_whole_tree(bench: Bench) -> None:
    """Grows by 16 MiB steps in two processes, each of them below the limit; takes half a second."""
    end = await bench.run(
        """
import os, time
os.fork()
held = []
while sum(map(len, held)) < 100 * 2**20:
    held.append(bytearray(b"x" * (16 * 2**20))); time.sleep(0.02)
time.sleep(60)
""",
        demand=Demand(memory_bytes=128 * 2**20),
    )
    assert end.phase is Phase.FAILED
    assert end.message == f"killed: used more than {128 * 2**20} bytes of memory"


def held_by_all_below_us() -> tuple[GpuHolding, ...]:
    below = psutil.Process().children(recursive=True)
    return tuple(GpuHolding(index=0, pid=process.pid, memory_bytes=2**30) for process in below)


async def test_program_that_takes_more_of_a_gpu_than_its_share_is_killed_and_says_so(bench: Bench) -> None:
    """Looks at it after half a second."""
    bench.holdings = held_by_all_below_us
    share = GpuShare(index=0, memory_bytes=2**29, whole=False)
    end = await bench.run(
        "import os, time\nprint(os.environ['ARCRAY_GPU_MEMORY_BYTES'])\ntime.sleep(60)",
        allocation=Allocation(gpus=(share,)),
    )
    assert (end.phase, end.message) == (
        Phase.FAILED,
        f"killed: used more than {2**29} bytes of the memory of GPU 0",
    )
    assert bench.log == f"{2**29}\n"


async def test_memory_limit_refuses_one_large_allocation_at_once(bench: Bench) -> None:
    demand = Demand(memory_bytes=64 * 2**20)
    end = await bench.run(f"x = bytearray({demand.memory_bytes + DATA_SLACK_BYTES})", demand=demand)
    assert end.phase is Phase.FAILED
    assert "MemoryError" in bench.log


async def test_numeric_libraries_work_under_a_small_memory_limit(bench: Bench) -> None:
    """Imports scikit-learn and onnxruntime under 384 MiB; takes seconds because they are large."""
    end = await bench.run(
        """
import numpy, onnxruntime
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
x, y = load_digits(return_X_y=True)
print(LogisticRegression(max_iter=50).fit(x[:200] / 16, y[:200]).score(x[200:400] / 16, y[200:400]) > 0.7)
numpy.linalg.svd(numpy.random.rand(200, 200))
""",
        demand=Demand(cpu_milli=2000, memory_bytes=384 * 2**20),
    )
    assert end.phase is Phase.SUCCEEDED, bench.log
    assert bench.log.strip().endswith("True")


async def test_thread_pools_of_the_size_of_the_machine_fit_beside_the_memory_that_was_asked_for(bench: Bench) -> None:
    end = await bench.run(
        """
import mmap, os, threading
asked = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
until = threading.Event()
threads = [threading.Thread(target=until.wait) for _ in range(min(4 * os.cpu_count(), 256))]
for thread in threads: thread.start()
until.set()
""",
        demand=Demand(memory_bytes=64 * 2**20),
    )
    assert end.phase is Phase.SUCCEEDED, bench.log


async def test_fork_bomb_stays_within_its_limit_and_leaves_nothing(bench: Bench) -> None:
    if not bench.sandbox.own_user:
        pytest.skip("the process limit does not hold root itself, and another user needs root")
    bench.settings = ProgramSettings(pids_limit=20)
    end = await bench.run(
        """
import os, time
made = 0
for _ in range(100):
    try: pid = os.fork()
    except BlockingIOError: break
    if pid == 0: time.sleep(60); os._exit(0)
    made += 1
print(made)
"""
    )
    assert end.phase is Phase.SUCCEEDED
    assert 0 < int(bench.log) < 20


async def test_result_files_are_stored_and_links_are_not_followed(bench: Bench) -> None:
    end = await bench.run(
        """
import os
from pathlib import Path
root = Path(os.environ["ARCRAY_RESULT_DIR"])
(root / "b" / "c").mkdir(parents=True)
(root / "b" / "c" / "model.bin").write_bytes(b"\\x00\\x01")
(root / "a file.txt").write_text("a")
(root / "a_file.txt").write_text("b")
(root / "link").symlink_to("/etc/passwd")
(root / "folder").symlink_to("/etc")
os.mkfifo(root / "pipe")
"""
    )
    prefix = "results/0b000000-0000-4000-8000-000000000001/"
    assert end.result.blobs == tuple(prefix + name for name in ("a=20file.txt", "a_file.txt", "b/c/model.bin"))
    assert bench.blobs.data[prefix + "b/c/model.bin"] == b"\x00\x01"


async def test_results_over_the_limit_fail_the_program(bench: Bench) -> None:
    bench.settings = ProgramSettings(max_result_bytes=4096)
    end = await bench.run(
        "import os\nfor i in range(3): open(os.environ['ARCRAY_RESULT_DIR'] + f'/{i}', 'w').write('x' * 2000)"
    )
    assert end.phase is Phase.FAILED
    assert "at most 4096 are kept" in end.message
    assert end.result.blobs == ()


async def test_log_is_cut_at_its_limit_with_a_note(bench: Bench) -> None:
    bench.settings = ProgramSettings(log_max_bytes=4096)
    end = await bench.run("for i in range(10000): print('x' * 100)")
    assert end.phase is Phase.SUCCEEDED
    assert bench.log.endswith("\n[log cut: 4096 bytes kept]\n")
    assert len(bench.log) < 4200


async def test_stop_is_polite_first(bench: Bench) -> None:
    task = bench.start(
        """
import signal, sys, time
def leave(*_): print("goodbye"); sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("ready")
time.sleep(60)
"""
    )
    await logged(bench, "ready\n")
    assert bench.attempt is not None
    bench.attempt.stop(grace_s=30)
    end = await asyncio.wait_for(task, 20)
    assert end.phase is Phase.STOPPED
    assert bench.log == "ready\ngoodbye\n"


async def test_stop_is_certain_after_the_grace(bench: Bench) -> None:
    task = bench.start(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready')\ntime.sleep(60)"
    )
    await logged(bench, "ready\n")
    assert bench.attempt is not None
    bench.attempt.stop(grace_s=0.1)
    end = await asyncio.wait_for(task, 20)
    assert (end.phase, end.result.exit_code) == (Phase.STOPPED, 137)


async def test_running_too_long_is_a_failure(bench: Bench) -> None:
    end = await bench.run("import time\ntime.sleep(60)", max_duration_s=0.2)
    assert (end.phase, end.message) == (Phase.FAILED, "ran longer than 0.2 s")


async def test_nothing_is_left_on_the_disk(bench: Bench) -> None:
    await bench.run("import os\nos.makedirs('a/b'); open('a/b/c', 'w').close(); os.chmod('a', 0)")
    assert list(bench.directory.glob("0b*")) == []


async def test_cancelling_ends_the_program_and_everything_it_started(bench: Bench) -> None:
    task = bench.start(
        "import subprocess\nsubprocess.Popen(['sleep', '61.5'])\nprint('ready')\nsubprocess.run(['sleep', '61.5'])"
    )
    await logged(bench, "ready\n")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not _running("sleep", "61.5")


async def test_archive_runs_the_named_entry_point(bench: Bench) -> None:
    end = await bench.run(
        zipped(pkg__start="import pkg.other", pkg__other="print('other')", main="print('main')"),
        archive=True,
        entry_point="pkg/start.py",
    )
    assert bench.attempts.phases.told == [Phase.PULLING, *bench.starting, Phase.RUNNING]
    assert end.phase is Phase.FAILED  # python puts the script's own directory on the path, not the archive's
    await bench.run(zipped(main="import pkg.other", pkg__other="print('other')"), archive=True)
    assert bench.log.endswith("other\n")


async def test_archive_without_python_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidArgumentError, match=r"has no \*\.py"):
        await bench.run(zipped(), archive=True)


async def test_missing_code_is_refused(bench: Bench) -> None:
    with pytest.raises(NotFoundError, match="no blob gone"):
        await bench.runner().run(bench.attempts.of(Program(blob="gone")))


@pytest.mark.parametrize("kind", [SandboxKind.USER, SandboxKind.NONE])
async def test_fallback_runs_the_same_program_without_namespaces(bench: Bench, kind: SandboxKind) -> None:
    bench.sandbox = Sandbox(kind=kind, own_user=False)
    end = await bench.run(
        """
import os
open(os.environ['ARCRAY_RESULT_DIR'] + '/r', 'w').write('x')
print(sorted(os.environ)[:2], os.getcwd())
"""
    )
    assert end.phase is Phase.SUCCEEDED, bench.log
    assert bench.log.startswith("['ARCRAY_RESULT_DIR', 'ARCRAY_WORKLOAD_ID'] ")
    assert len(end.result.blobs) == 1
    assert not os.path.exists(bench.log.split()[-1])  # noqa: ASYNC240, PTH110 - a test may block


async def test_user_namespaces_confine_where_there_is_no_root(bench: Bench) -> None:
    bench.sandbox = Sandbox(kind=SandboxKind.BUBBLEWRAP, own_user=False, bwrap=shutil.which("bwrap") or "")
    end = await bench.run(
        """
import os, subprocess
print(os.path.exists('/root/.bashrc'), subprocess.run(['unshare', '-U', 'true']).returncode)
"""
    )
    assert end.phase is Phase.SUCCEEDED
    assert bench.log.splitlines()[-1] == "False 1"


NAMESPACES = """
import ctypes, os, subprocess, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
USER, MOUNTS, CLONE, CLONE3 = 0x10000000, 0x20000, {"x86_64": 56, "aarch64": 220}[os.uname().machine], 435
print("unshare", libc.unshare(USER | MOUNTS), ctypes.get_errno())
print("clone", libc.syscall(CLONE, USER | 17, 0, 0, 0, 0), ctypes.get_errno())
print("clone3", libc.syscall(CLONE3, (ctypes.c_uint64 * 8)(USER), 64), ctypes.get_errno())
threading.Thread(target=print, args=("thread",)).start()
print(subprocess.run([sys.executable, "-c", "print('process')"], capture_output=True, text=True).stdout, end="")
"""


@pytest.mark.parametrize("kind", [SandboxKind.BUBBLEWRAP, SandboxKind.USER])
async def test_programs_make_no_user_namespaces_and_start_what_they_like(bench: Bench, kind: SandboxKind) -> None:
    if kind is SandboxKind.USER:
        bench.sandbox = Sandbox(kind=kind, own_user=False)
    end = await bench.run(NAMESPACES)
    assert end.phase is Phase.SUCCEEDED, bench.log
    refused = ["unshare -1 1", "clone -1 1", "clone3 -1 38"]  # EPERM; ENOSYS, for which the C library has clone
    assert bench.log.splitlines() == [*refused, "thread", "process"]


async def test_programs_mount_nothing(bench: Bench) -> None:
    await bench.run(
        """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.unshare(0x10000000 | 0x20000)
print(libc.mount(b"none", b"/tmp", b"tmpfs", 0, b"size=2g"), ctypes.get_errno())
"""
    )
    assert bench.log == "-1 1\n"


async def test_program_finds_no_key_and_leaves_none(bench: Bench) -> None:
    """A user's keys outlive its processes, and another program may be that user later."""
    libc = ctypes.CDLL(None, use_errno=True)
    keyctl, add_key, request_key = {"x86_64": (250, 248, 249), "aarch64": (219, 217, 218)}[os.uname().machine]
    if libc.syscall(keyctl, 1, None) < 0 or libc.syscall(add_key, b"user", b"agents", b"secret", 6, -3) < 0:
        pytest.skip("keys are absent or forbidden here")
    assert libc.syscall(request_key, b"user", b"agents", None, 0) > 0
    await bench.run(
        f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.syscall({request_key}, b"user", b"agents", None, 0), ctypes.get_errno())
print(libc.syscall({add_key}, b"user", b"own", b"known", 5, -4), ctypes.get_errno())
print(libc.syscall({keyctl}, 1, None), ctypes.get_errno())
"""
    )
    assert bench.log == "-1 38\n" * 3


async def test_shared_memory_counts(bench: Bench) -> None:
    end = await bench.run(
        """
import mmap, time
held = mmap.mmap(-1, 256 * 2**20)
for page in range(0, len(held), mmap.PAGESIZE): held[page] = 1
time.sleep(60)
""",
        demand=Demand(memory_bytes=128 * 2**20),
    )
    assert (end.phase, end.message) == (Phase.FAILED, f"killed: used more than {128 * 2**20} bytes of memory")


async def test_memory_that_processes_share_counts_once(bench: Bench) -> None:
    """Holds 100 MiB in four processes for a second, in which their memory is looked at some times."""
    end = await bench.run(
        """
import mmap, os, time
held = mmap.mmap(-1, 50 * 2**20), mmap.mmap(-1, 50 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for each in held:
    for page in range(0, len(each), mmap.PAGESIZE): each[page] = 1
children = [os.fork() for _ in range(2)]
for each in held: sum(each[page] for page in range(0, len(each), mmap.PAGESIZE))
time.sleep(1)
""",
        demand=Demand(memory_bytes=200 * 2**20),
    )
    assert (end.phase, end.message) == (Phase.SUCCEEDED, "")


async def logged(bench: Bench, text: str) -> None:
    assert bench.attempt is not None
    await bench.blobs.holds(log_key(bench.attempt.workload_id), text.encode())


def _running(*argv: str) -> bool:
    wanted = b"".join(word.encode() + b"\0" for word in argv)
    return any(_cmdline(entry) == wanted for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _cmdline(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def out_of_reach(directory: Path) -> Path:
    """A directory for programs that no other user can enter, as below the home of root."""
    if os.geteuid() != 0:
        pytest.skip("only root can give programs users of their own")
    (directory / "home").mkdir(mode=0o700)
    programs = directory / "home" / "programs"
    programs.mkdir()
    return programs


@pytest.mark.parametrize("wanted", ["auto", "bubblewrap", "user"])
async def test_root_runs_no_programs_where_they_cannot_be_others(
    out_of_reach: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wanted: Any
) -> None:
    monkeypatch.setenv("PATH", str(out_of_reach))  # where there is no bubblewrap
    assert await probe(ProgramSettings(sandbox=wanted), out_of_reach, UserPool()) is None
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert warning.getMessage() == "no sandbox works here, so no programs run here"
    told = vars(warning)
    assert ("there is no bwrap" in told["reason"]) == (wanted != "user")
    assert ("user: " in told["reason"]) == (wanted != "bubblewrap")
    assert "node.programs.sandbox: none" in told["remedy"]


async def test_root_runs_programs_as_itself_only_where_the_settings_say_so(out_of_reach: Path) -> None:
    found = await probe(ProgramSettings(sandbox="none"), out_of_reach, UserPool())
    assert found == Sandbox(kind=SandboxKind.NONE, own_user=False)


async def test_machine_without_a_sandbox_offers_no_programs(
    out_of_reach: Path, engine: FakeEngine, gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(out_of_reach))
    settings = Settings(state_dir=out_of_reach)
    machine = Machine(node_id=NodeId("n"), settings=settings, clock=FakeClock(), probe=gpus, engine=engine)
    await machine.look()
    assert not machine.capabilities.programs
    await machine.close()


def test_users_differ_and_come_back() -> None:
    users = UserPool()
    first, second = users.take(), users.take()
    assert first != second
    assert os.getuid() not in (first, second)
    users.give_back(first)
    assert users._taken == {second}


def command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes()


async def test_secrets_of_the_environment_stand_in_no_command_line(bench: Bench) -> None:
    running = bench.start("import time\nprint('up', flush=True)\ntime.sleep(60)", env=(("TOKEN", "s3cr3t-of-mine"),))
    async with asyncio.timeout(30):
        await bench.attempts.phases.seen[Phase.RUNNING].wait()
    lines = await asyncio.to_thread(lambda: list(command_lines()))
    assert bench.attempt is not None
    bench.attempt.stop(0.0)
    await running
    assert any(b"main.py" in line or b"bwrap" in line for line in lines)
    assert not any(b"s3cr3t-of-mine" in line for line in lines)


async def test_environment_larger_than_one_argument_arrives(bench: Bench) -> None:
    env = tuple((f"V{number}", "x" * 100_000) for number in range(4))
    await bench.run("import os\nprint(sum(len(os.environ[f'V{n}']) for n in range(4)))", env=env)
    assert bench.log == "400000\n"


DEEP = """
import os
os.chdir(os.environ[{where!r}])
for _ in range(1500):
    os.mkdir("d")
    os.chdir("d")
"""


async def test_deep_directories_are_removed(bench: Bench) -> None:
    end = await bench.run(DEEP.format(where="HOME"))
    assert (end.phase, end.message) == (Phase.SUCCEEDED, "")
    assert list(bench.directory.iterdir()) == []


async def test_deep_results_are_refused_with_the_reason(bench: Bench) -> None:
    end = await bench.run(DEEP.format(where="ARCRAY_RESULT_DIR"))
    assert (end.phase, end.message) == (Phase.FAILED, "results: result files lie more than 32 directories deep")
    assert list(bench.directory.iterdir()) == []


async def test_removing_what_a_program_leaves_holds_nothing_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    going_on = threading.Event()
    removing = threading.Event()
    plain = shutil.rmtree

    def slow(path: Path, **options: Any) -> None:
        if Path(path, "work", "main.py").exists():
            removing.set()
            assert going_on.wait(30)
        plain(path, **options)

    monkeypatch.setattr("arcray.node.leftovers.shutil.rmtree", slow)
    running = bench.start("for name in range(20): open(str(name), 'w')")
    await asyncio.to_thread(removing.wait, 30)
    assert not running.done()
    going_on.set()  # reached only because the loop goes on
    assert (await running).phase is Phase.SUCCEEDED
    assert list(bench.directory.iterdir()) == []


async def test_child_in_a_session_of_its_own_ends_with_a_bare_program(bench: Bench) -> None:
    bench.sandbox = Sandbox(kind=SandboxKind.NONE, own_user=False)
    end = await bench.run(
        "import subprocess\n"
        "print(subprocess.Popen(['sleep', '987'], start_new_session=True, stdout=-3, stderr=-3).pid)\n"
        "raise SystemExit(5)"
    )
    assert end.result.exit_code == 5
    assert not psutil.pid_exists(int(bench.log))


async def test_stopped_bare_program_leaves_no_session_behind(bench: Bench) -> None:
    bench.sandbox = Sandbox(kind=SandboxKind.NONE, own_user=False)
    task = bench.start(
        "import subprocess, time\n"
        "print(subprocess.Popen(['sleep', '987'], start_new_session=True, stdout=-3, stderr=-3).pid)\n"
        "time.sleep(600)"
    )
    assert bench.attempt is not None
    await bench.blobs.holds(log_key(bench.attempt.workload_id), b"\n")
    bench.attempt.stop(5)
    assert (await task).phase is Phase.STOPPED
    assert not psutil.pid_exists(int(bench.log))
