"""Model processes are real children; each test starts at least one (about 80 ms)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from arcray.config import ModelSettings
from arcray.core.blobkeys import log_key
from arcray.core.errors import NotFoundError, PermissionDeniedError, UnavailableError
from arcray.core.ids import ModelId, WorkloadId
from arcray.core.model import RESERVED_VARIABLES, ModelFormat, ModelSlots
from arcray.core.orders import RunInference
from arcray.core.resources import Allocation, GpuShare
from arcray.core.workload import Phase
from arcray.node.gpu import GpuDevices, GpuHolding
from arcray.node.gpu_shares import GpuShares
from arcray.node.models.copy import ModelRunner
from arcray.node.models.registry import ModelRegistry
from arcray.node.process import User, spawn_piped
from arcray.node.work import Attempt, End
from arcray.testing.builders import a_model
from arcray.wire.system import SystemClock

if TYPE_CHECKING:
    from arcray.testing.node_fakes import Attempts, MemoryBlobs

MODULE = """
import asyncio, ctypes, os, subprocess, sys, threading, time
import numpy

class Doubler:
    def __init__(self):
        self.made = os.getpid()
    def predict(self, value):
        return [value * 2, self.made]

instance = Doubler()
together = threading.Barrier(3)

def double(value): return value * 2
def none(value): return value is None
def array(value): return {"a": numpy.arange(3, dtype="float32"), "b": numpy.int64(7)}
def fail(value): raise ValueError("no such digit")
class Unspeakable(Exception):
    def __str__(self): raise RuntimeError("no words")
def unspeakable(value): raise Unspeakable
class Rude(Exception):
    def __str__(self): sys.exit(9)
def rude(value): raise Rude
def silent(value): sys.stderr.close(); raise ValueError("unheard")
def quit(value): sys.exit(7) if value == "bad" else None
def repeat(value): raise ValueError(f"unknown word {value}")
async def repeat_async(value):
    if value == "good": return value
    raise ValueError(f"unknown word {value}")
async def quit_async(value):
    if value == "bad": sys.exit(7)
    return value
def spawn(value): return subprocess.Popen(["sleep", "987"]).pid
def large(value): return "x" * (30 * 2**20)
def nan(value): return float("nan")
def opaque(value): return object()
def die(value): os._exit(3)
def meet(value): together.wait(timeout=20); return threading.active_count() >= 3
def talk(value): print("said", value); return None
def environment(value): return dict(os.environ)
def standing(value):
    status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines())
    files = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    return [status["NoNewPrivs"], os.getsid(0) == os.getpid(), status["Uid"].split()[0], files]
def modules(value): return sorted({"ray", "docker", "pydantic"} & {name.partition(".")[0] for name in sys.modules})
def sleep(value): time.sleep(value); return "slept"
def mixed(value):
    time.sleep(value); return value
async def nap(value):
    try: await asyncio.sleep(value)
    except asyncio.CancelledError: print("cancelled"); raise
    return "napped"
async def block(value): time.sleep(value); return "blocked"
def hold(value): ctypes.PyDLL(None).sleep(value); return "held"
async def meet_async(value, seen=[]):
    seen.append(value)
    while len(seen) < 3: await asyncio.sleep(0.001)
    return len(seen)
"""

SHARED = Allocation(gpus=(GpuShare(index=0, memory_bytes=2**30, whole=False),))
TOO_MUCH = f"used more than {2**30} bytes of the memory of GPU 0"


def held_by_all_below_us() -> tuple[GpuHolding, ...]:
    below = psutil.Process().children(recursive=True)
    return tuple(GpuHolding(index=0, pid=process.pid, memory_bytes=2**30 + 1) for process in below)


class Bench:
    """A registry and a runner, with what they told."""

    def __init__(self, blobs: MemoryBlobs, attempts: Attempts, tmp_path: Path) -> None:
        self.blobs, self.attempts, self.tmp_path = blobs, attempts, tmp_path
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / "some_models.py").write_text(MODULE)
        self.settings = ModelSettings(
            python_path=(tmp_path / "code",), allow=("absent_module:*", "os:*"), max_concurrency=8, max_restarts=2
        )
        self.ends: dict[str, End] = {}
        self.models: list[tuple[ModelSlots, ...]] = []
        self.changed = asyncio.Condition()
        self.registry = ModelRegistry(
            clock=SystemClock(), changed=self._on_changed, began=lambda *_: None, ended=self._on_end
        )
        self.devices = GpuDevices(minors={})
        self.holdings: Callable[[], tuple[GpuHolding, ...]] = tuple
        self.allocation: Allocation | None = None
        self.attempt: Attempt | None = None
        self._requests = 0
        self._tells: set[asyncio.Task[None]] = set()

    def _on_changed(self) -> None:
        self.models.append(self.registry.slots)
        self._tell()

    def _on_end(self, workload_id: WorkloadId, attempt: int, end: End) -> None:
        assert workload_id not in self.ends, "an end is told once"
        assert attempt == 1
        self.ends[workload_id] = end
        self._tell()

    def _tell(self) -> None:
        async def tell() -> None:
            async with self.changed:
                self.changed.notify_all()

        task = asyncio.ensure_future(tell())
        self._tells.add(task)
        task.add_done_callback(self._tells.discard)

    async def until_ready(self, times: int = 1) -> None:
        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(lambda: sum(bool(models) for models in self.models) >= times)

    @property
    def pid(self) -> int:
        (slots,) = self.registry.slots
        assert slots.pid is not None
        return slots.pid

    def runner(self) -> ModelRunner:
        return ModelRunner(
            blobs=self.blobs,
            settings=self.settings,
            registry=self.registry,
            directory=self.tmp_path / "models",
            devices=self.devices,
            shares=GpuShares(self.holdings, SystemClock()),
        )

    def start(self, source: str, **fields: Any) -> asyncio.Task[End]:
        if ":" not in source and "format" not in fields:
            source = f"some_models:{source}"
        model = a_model("m", source=source, **fields)
        self.attempt = self.attempts.of(model, allocation=self.allocation)
        return asyncio.create_task(self.runner().run(self.attempt))

    @asynccontextmanager
    async def loaded(self, source: str, **fields: Any) -> AsyncIterator[asyncio.Task[End]]:
        """Yields once it is ready; ends it afterwards."""
        task = self.start(source, **fields)
        sweep = asyncio.create_task(self.registry.sweep_forever())
        try:
            ready = asyncio.ensure_future(self.until_ready())
            await asyncio.wait({ready, task}, return_when=asyncio.FIRST_COMPLETED)
            assert ready.done(), (task.result(), self.log)
            yield task
        finally:
            assert self.attempt is not None
            self.attempt.stop(1)
            await asyncio.wait_for(task, 20)
            sweep.cancel()

    def send(self, value: Any, *, timeout_s: float = 20.0, model: str = "m") -> str:
        self._requests += 1
        name = f"r{self._requests}"
        self.registry.run(
            RunInference(
                workload_id=WorkloadId(name),
                attempt=1,
                model_id=ModelId(model),
                input=value if isinstance(value, bytes) else json.dumps(value).encode(),
                context_window_tokens=1,
                timeout_s=timeout_s,
            )
        )
        return name

    async def end(self, name: str) -> End:
        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(lambda: name in self.ends)
        return self.ends[name]

    async def ask(self, value: Any, **options: Any) -> Any:
        end = await self.end(self.send(value, **options))
        assert end.phase is Phase.SUCCEEDED, end
        assert end.result.output is not None
        return json.loads(end.result.output)

    @property
    def log(self) -> str:
        assert self.attempt is not None
        return self.blobs.data.get(log_key(self.attempt.workload_id), b"").decode()


@pytest.fixture
def bench(blobs: MemoryBlobs, attempts: Attempts, tmp_path: Path) -> Bench:
    return Bench(blobs, attempts, tmp_path)


async def test_function_answers_and_says_which_process_did(bench: Bench) -> None:
    async with bench.loaded("double"):
        end = await bench.end(bench.send(21))
        assert end.result.output == b"42"
        assert end.result.pid == bench.pid != os.getpid()
        assert end.result.duration_ms is not None
        assert 0 < end.result.duration_ms < 1000
    assert bench.attempts.phases.told == [Phase.STARTING, Phase.RUNNING]


async def test_class_is_made_once_and_predicts(bench: Bench) -> None:
    async with bench.loaded("Doubler"):
        assert await bench.ask(1) == [2, bench.pid]
        assert await bench.ask(2) == [4, bench.pid]


async def test_object_predicts(bench: Bench) -> None:
    async with bench.loaded("instance"):
        assert await bench.ask(1) == [2, bench.pid]


async def test_no_input_is_null(bench: Bench) -> None:
    async with bench.loaded("none"):
        assert await bench.ask(None) is True


async def test_arrays_become_json(bench: Bench) -> None:
    async with bench.loaded("array"):
        assert await bench.ask(0) == {"a": [0.0, 1.0, 2.0], "b": 7}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fail", "ValueError: no such digit"),
        ("nan", "ValueError: Out of range float values are not JSON compliant"),
        ("opaque", "TypeError: the output holds a object, which is no JSON"),
    ],
)
async def test_failing_request_fails_alone_and_says_why(bench: Bench, name: str, message: str) -> None:
    async with bench.loaded(name):
        end = await bench.end(bench.send(1))
        assert end.phase is Phase.FAILED
        assert end.message.startswith(message)
        again = await bench.end(bench.send(b"not json"))
        assert again.message.startswith("JSONDecodeError")
    assert "Traceback" in bench.log


async def test_blocking_models_get_as_many_threads_as_they_need(bench: Bench) -> None:
    async with bench.loaded("meet"):
        names = [bench.send(0) for _ in range(3)]
        assert [(await bench.end(name)).result.output for name in names] == [b"true"] * 3


async def test_slow_request_does_not_hold_back_the_answer_before_it(bench: Bench) -> None:
    async with bench.loaded("mixed", max_concurrency=1):
        fast, slow = bench.send(0), bench.send(2)
        await bench.end(fast)
        assert slow not in bench.ends


async def test_coroutines_run_together(bench: Bench) -> None:
    async with bench.loaded("meet_async"):
        names = [bench.send(each) for each in range(3)]
        assert [(await bench.end(name)).result.output for name in names] == [b"3"] * 3


async def test_every_request_is_answered_once_under_load(bench: Bench) -> None:
    async with bench.loaded("double", max_concurrency=512):
        names = [bench.send(each) for each in range(1000)]
        answers = [(await bench.end(name)).result.output for name in names]
    assert answers == [str(each * 2).encode() for each in range(1000)]


async def test_request_without_a_model_is_refused_for_another_node(bench: Bench) -> None:
    end = await bench.end(bench.send(1, model="other"))
    assert (end.phase, end.refused) == (Phase.FAILED, True)
    assert end.message == "model other is not loaded here"


async def test_requests_beyond_the_queue_are_refused(bench: Bench) -> None:
    async with bench.loaded("nap", max_concurrency=1):
        names = [bench.send(60) for _ in range(65)]
        end = await bench.end(names[-1])
        assert (end.refused, end.message) == (True, "model m has 64 requests in flight")


async def test_late_answer_is_a_failure_and_frees_the_slot(bench: Bench) -> None:
    async with bench.loaded("nap", max_concurrency=1):
        end = await bench.end(bench.send(60, timeout_s=0.1))
        assert (end.phase, end.message) == (Phase.FAILED, "no answer of the model in time")
        assert await bench.ask(0) == "napped"
    assert "cancelled" in bench.log


async def test_stopped_request_is_cancelled(bench: Bench) -> None:
    async with bench.loaded("nap", max_concurrency=1):
        name = bench.send(60)
        assert bench.registry.stop(WorkloadId(name), 1)
        assert not bench.registry.stop(WorkloadId(name), 1)
        assert (await bench.end(name)).phase is Phase.STOPPED
        assert await bench.ask(0) == "napped"


async def test_process_whose_slots_all_hang_is_replaced(bench: Bench) -> None:
    """Waits for the first restart's back-off, half a second."""
    async with bench.loaded("sleep", max_concurrency=1):
        before = bench.pid
        await bench.end(bench.send(600, timeout_s=0.1))
        await bench.until_ready(times=2)
        assert bench.pid != before
        assert await bench.ask(0) == "slept"


@pytest.mark.parametrize("model", ["block", "hold"])
async def test_process_that_gives_no_sign_of_life_is_replaced(bench: Bench, model: str) -> None:
    """Waits for the silence, and for the first restart's back-off, half a second."""
    bench.settings = bench.settings.model_copy(update={"silence_s": 1.0})
    async with bench.loaded(model):
        before = bench.pid
        end = await bench.end(bench.send(600))
        assert (end.phase, end.refused) == (Phase.FAILED, False)
        assert end.message == "the model's process gave no sign of life for 1 s and was ended"
        await bench.until_ready(times=2)
        assert bench.pid != before
    assert end.message in bench.log


async def test_process_that_works_for_long_gives_signs_of_life(bench: Bench) -> None:
    """Works three times as long as the silence that would end it."""
    bench.settings = bench.settings.model_copy(update={"silence_s": 0.5})
    async with bench.loaded("sleep"):
        assert await bench.ask(1.5) == "slept"


async def test_death_fails_what_is_in_flight_and_is_met_with_a_restart(bench: Bench) -> None:
    """Waits for the first restart's back-off, half a second."""
    async with bench.loaded("nap"):
        before = bench.pid
        name = bench.send(60)
        os.kill(before, signal.SIGKILL)
        end = await bench.end(name)
        assert (end.phase, end.message, end.refused) == (Phase.FAILED, "the model's process died", False)
        assert bench.models[-1] == ()
        await bench.until_ready(times=2)
        assert bench.pid != before
        assert await bench.ask(0) == "napped"
    assert bench.attempts.phases.told.count(Phase.RUNNING) == 1
    assert "died with exit code 137; restart 1" in bench.log


async def test_model_that_keeps_dying_fails(bench: Bench) -> None:
    bench.settings = bench.settings.model_copy(update={"max_restarts": 0})
    task = bench.start("die")
    await bench.until_ready()
    bench.send(1)
    end = await asyncio.wait_for(task, 20)
    assert (end.phase, end.result.exit_code) == (Phase.FAILED, 3)
    assert end.message == "its process died 1 times, the last time with exit code 3"


async def test_model_that_takes_more_of_a_gpu_than_its_share_is_ended_and_says_so(bench: Bench) -> None:
    """Looked at after half a second."""
    bench.settings = bench.settings.model_copy(update={"max_restarts": 0})
    bench.allocation = SHARED
    bench.holdings = lambda: tuple(
        GpuHolding(index=0, pid=slots.pid, memory_bytes=2**30 + 1) for slots in bench.registry.slots if slots.pid
    )
    async with asyncio.timeout(30):
        end = await bench.start("environment")
    assert (end.phase, end.result.exit_code) == (Phase.FAILED, 137)
    assert end.message == f"its process died 1 times, the last time with exit code 137: it {TOO_MUCH}"
    assert f"the model's process was ended: it {TOO_MUCH}" in bench.log
    assert bench.registry.slots == ()
    assert len(bench.registry) == 0


async def test_model_that_takes_more_of_a_gpu_than_its_share_while_it_is_loaded_is_ended(bench: Bench) -> None:
    """Looked at after half a second."""
    (bench.tmp_path / "code" / "slow_model.py").write_text("import time\ntime.sleep(60)")
    bench.allocation = SHARED
    bench.holdings = held_by_all_below_us
    async with asyncio.timeout(30):
        end = await bench.start("slow_model:Slow")
    assert end.phase is Phase.FAILED
    assert end.message == f"the model cannot be loaded: it {TOO_MUCH}"
    assert bench.models == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("absent_module:name", "ModuleNotFoundError: No module named 'absent_module'"),
        ("some_models:absent", "AttributeError: module 'some_models' has no attribute 'absent'"),
        ("some_models:MODULE", "AttributeError"),
        ("os:sep", "TypeError: os:sep is neither callable nor has a predict method"),
    ],
)
async def test_model_that_cannot_be_loaded_fails_with_the_reason(bench: Bench, source: str, message: str) -> None:
    end = await asyncio.wait_for(bench.start(source), 20)
    assert end.phase is Phase.FAILED
    assert end.message.startswith(f"the model cannot be loaded: {message}")
    assert bench.models == []


async def test_unknown_entry_point_says_what_a_source_may_be(bench: Bench) -> None:
    end = await asyncio.wait_for(bench.start("nothing", format=ModelFormat.PYTHON), 20)
    assert "neither module:name nor an entry point of group arcray.models" in end.message


async def test_model_that_loads_too_slowly_is_ended(bench: Bench) -> None:
    (bench.tmp_path / "code" / "slow_model.py").write_text("import time\ntime.sleep(60)")
    bench.settings = bench.settings.model_copy(update={"start_timeout_s": 0.3})
    end = await asyncio.wait_for(bench.start("slow_model:f"), 20)
    assert end.message == "the model cannot be loaded: it was not ready after 0.3 s"


async def test_loading_can_be_stopped(bench: Bench) -> None:
    (bench.tmp_path / "code" / "slow_model.py").write_text("print('loading')\nimport time\ntime.sleep(60)")
    task = bench.start("slow_model:f")
    assert bench.attempt is not None
    await bench.blobs.holds(log_key(bench.attempt.workload_id), b"loading")
    bench.attempt.stop(1)
    assert (await asyncio.wait_for(task, 20)).phase is Phase.STOPPED


async def test_only_allowed_modules_are_loaded(bench: Bench) -> None:
    elsewhere = {"python_path": (bench.tmp_path / "other",), "allow": ("trusted.*:*",)}
    bench.settings = bench.settings.model_copy(update=elsewhere)
    with pytest.raises(PermissionDeniedError, match="some_models:double is not below"):
        await bench.start("double")


async def test_modules_of_the_environment_are_no_models_by_default(bench: Bench) -> None:
    with pytest.raises(PermissionDeniedError) as refused:
        await bench.start("subprocess:getoutput")
    assert refused.value.field == "model.source"


async def test_what_a_model_sets_hides_no_driver_and_is_kept_where_we_decide_nothing(bench: Bench) -> None:
    bench.settings = bench.settings.model_copy(update={"env": ("LD_LIBRARY_PATH", "XLA_*")})
    bench.devices = GpuDevices(minors={}, libraries=(Path("/driver"),))
    bench.allocation = SHARED
    own = (("LD_LIBRARY_PATH", "/own"), ("XLA_PYTHON_CLIENT_PREALLOCATE", "true"))
    async with bench.loaded("environment", env=own):
        env = await bench.ask(1)
    assert env["LD_LIBRARY_PATH"] == "/own:/driver"
    assert (env["XLA_PYTHON_CLIENT_PREALLOCATE"], env["TF_FORCE_GPU_ALLOW_GROWTH"]) == ("true", "true")


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONPATH", "PATH", "CUDA_VISIBLE_DEVICES", "OPENSSL_CONF"])
async def test_variables_that_bring_code_are_refused_by_name(bench: Bench, name: str) -> None:
    with pytest.raises(PermissionDeniedError, match=name) as refused:
        await bench.start("double", env=((name, "./model.onnx"),))
    assert refused.value.field == "model.env"


async def test_endpoints_are_allowed_by_their_host(bench: Bench) -> None:
    with pytest.raises(PermissionDeniedError, match=r"192\.0\.2\.7") as refused:
        await bench.start("http://192.0.2.7:8000", format=ModelFormat.OPENAI)
    assert refused.value.field == "model.source"


async def test_variables_that_are_allowed_decide_nothing_of_ours(bench: Bench) -> None:
    bench.settings = bench.settings.model_copy(update={"env": ("*",)})
    async with bench.loaded("environment", env=(("CUDA_VISIBLE_DEVICES", "0"), ("PATH", "/tmp"), ("A", "1"))):
        env = await bench.ask(0)
    assert (env["CUDA_VISIBLE_DEVICES"], env["A"]) == ("", "1")
    assert env["PATH"] != "/tmp"


@pytest.mark.parametrize(
    ("model", "bad", "said"),
    [
        ("repeat", "\ud800", r"ValueError: unknown word \ud800"),
        ("repeat_async", "\ud800", r"ValueError: unknown word \ud800"),
        ("unspeakable", "", "Unspeakable"),
        ("rude", "", "Rude"),
        ("silent", "", "ValueError: unheard"),
        ("quit", "bad", "SystemExit: 7"),
        ("quit_async", "bad", "SystemExit: 7"),
        ("repeat", "x" * 100_000, "ValueError: unknown word xxx"),
    ],
)
async def test_whatever_a_model_raises_is_told_to_its_caller_alone(
    bench: Bench, model: str, bad: str, said: str
) -> None:
    async with bench.loaded(model):
        pid = bench.pid
        for _ in range(3):
            end = await bench.end(bench.send(bad))
            assert (end.phase, end.message[: len(said)]) == (Phase.FAILED, said)
            assert len(end.message) <= 5_000
        if model.endswith("_async"):
            assert await bench.ask("good") == "good"
        assert bench.pid == pid


async def test_many_large_outputs_at_once_are_all_carried(bench: Bench) -> None:
    """Ten times 30 MiB, more than one frame may have."""
    async with bench.loaded("large"):
        ends = await asyncio.gather(*(bench.ask(number) for number in range(10)))
    assert {len(end) for end in ends} == {30 * 2**20}


async def test_output_of_the_process_is_the_workloads_log(bench: Bench) -> None:
    async with bench.loaded("talk"):
        await bench.ask("hello")
    assert bench.log == "said hello\n"


async def test_environment_is_the_models_own_and_the_child_is_lean(bench: Bench) -> None:
    async with bench.loaded("environment", env=(("MODEL_WEIGHTS", "/w"),)):
        env = await bench.ask(0)
    assert env["MODEL_WEIGHTS"] == "/w"
    assert env["CUDA_VISIBLE_DEVICES"] == ""
    assert not env.keys() & {"USER", "LOGNAME", "PYTEST_CURRENT_TEST"}


async def test_process_stands_alone_and_gains_no_privileges(bench: Bench, tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)  # noqa: FBT003 - the call's own signature
        async with bench.loaded("standing"):
            privileges, leads, _, files = await bench.ask(0)
    assert (privileges, leads) == ("1", True)
    assert not [path for path in files if path.endswith("secret")]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others")
async def test_process_can_run_as_a_user_of_its_machine(bench: Bench) -> None:
    """As root itself: whether others may read this interpreter is for its machine to say."""
    bench.settings = bench.settings.model_copy(update={"user": "root"})
    async with bench.loaded("standing"):
        assert (await bench.ask(0))[2] == "0"
    nobody = User.named("nobody")
    child, output = await spawn_piped(("/bin/sh", "-c", "id -u; id -G"), env={"PATH": "/usr/bin:/bin"}, user=nobody)
    said = bytearray()

    async def take(data: bytes) -> None:
        said.extend(data)

    await output.pump(take)
    output.close()
    assert await child.wait() == 0
    assert said.decode().split() == [str(nobody.uid), *map(str, nobody.groups)]


async def test_user_that_the_machine_does_not_have_is_named(bench: Bench) -> None:
    bench.settings = bench.settings.model_copy(update={"user": "absent-user"})
    with pytest.raises(UnavailableError, match="absent-user"):
        await bench.start("double")


async def test_every_variable_that_a_node_sets_is_reserved(bench: Bench) -> None:
    async with bench.loaded("environment"):
        assert set(await bench.ask(0)) - {"LC_CTYPE", "KMP_INIT_AT_FORK"} <= RESERVED_VARIABLES


async def test_child_imports_nothing_of_the_cluster(bench: Bench) -> None:
    async with bench.loaded("modules"):
        assert await bench.ask(0) == []


async def test_what_a_model_has_started_ends_with_it(bench: Bench) -> None:
    async with bench.loaded("spawn"):
        child = psutil.Process(await bench.ask(0))
    assert psutil.wait_procs([child], timeout=20)[1] == []


async def test_cancelling_ends_the_process(bench: Bench) -> None:
    task = bench.start("nap")
    await bench.until_ready()
    pid = bench.pid
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.registry.slots == ()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_missing_file_is_an_error(bench: Bench) -> None:
    with pytest.raises(NotFoundError, match="no blob models/absent"):
        await bench.start("models/absent", format=ModelFormat.ONNX)


class Endpoint:
    """An HTTP server that answers everything alike, and can go away and come back at its address."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @staticmethod
    async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()


async def test_endpoint_that_has_died_is_not_offered_until_it_is_back(bench: Bench) -> None:
    """Waits for two probes, half a second apart."""
    bench.settings = bench.settings.model_copy(update={"probe_s": 0.05})
    endpoint = Endpoint()
    await endpoint.open()
    async with bench.loaded(f"http://127.0.0.1:{endpoint.port}", format=ModelFormat.OPENAI):
        pid = bench.pid
        await endpoint.close()
        async with asyncio.timeout(20), bench.changed:
            await bench.changed.wait_for(lambda: bench.models[-1] == ())
        end = await bench.end(bench.send("hi"))
        assert (end.refused, end.message) == (True, "model m is not loaded here")
        assert bench.attempt is not None
        await bench.blobs.holds(log_key(bench.attempt.workload_id), b"not offered: the endpoint is away")
        await endpoint.open()
        await bench.until_ready(times=2)
        assert bench.pid == pid
        await endpoint.close()
