"""Programs and models on physical GPUs, through the whole of arcray."""

from __future__ import annotations

import itertools
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from arcray.core.resources import Demand
from arcray.core.workload import Phase
from tests.gpu.on_gpu import PATIENCE_S, driver_says, processes

if TYPE_CHECKING:
    from tests.gpu.on_gpu import OnGpu

pytestmark = [pytest.mark.gpu, pytest.mark.cluster]

_MIB = 2**20
_GIB = 2**30
_SHARED = ["nvidia-uvm", "nvidia-uvm-tools", "nvidiactl"]

needs_bubblewrap = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="without bubblewrap a program sees the machine's device files"
)


def test_pool_has_the_gpus_of_the_machine(on_gpu: OnGpu) -> None:
    (node,) = on_gpu.client.nodes()
    assert node.gpu_count == len(on_gpu.gpus)
    assert node.gpu_memory_total_gb == pytest.approx(sum(gpu.memory_bytes for gpu in on_gpu.gpus) / _GIB, abs=0.01)


def test_program_computes_on_the_gpu_that_it_was_given(on_gpu: OnGpu) -> None:
    done = on_gpu.ended(on_gpu.submit(demand=Demand(gpus=1)))
    found = on_gpu.found(done)
    assert done.phase is Phase.SUCCEEDED
    assert found["squares"] == [9, 16], found
    assert (found["count"], found["device"]) == (1, on_gpu.gpus[0].name)
    assert found["memory_bytes"] == pytest.approx(on_gpu.gpus[0].memory_bytes, abs=_MIB)


@needs_bubblewrap
def test_program_has_the_device_files_of_its_own_gpu_alone(on_gpu: OnGpu) -> None:
    files = on_gpu.found(on_gpu.ended(on_gpu.submit(demand=Demand(gpus=1))))["files"]
    own = [name for name in files if name not in _SHARED]
    assert len(own) == 1
    assert own[0].removeprefix("nvidia").isdigit()


@needs_bubblewrap
@pytest.mark.parametrize("env", [{}, {"CUDA_VISIBLE_DEVICES": "0"}])
def test_program_that_asked_for_no_gpu_has_none(on_gpu: OnGpu, env: dict[str, str]) -> None:
    found = on_gpu.found(on_gpu.ended(on_gpu.submit(demand=Demand(), env=env)))
    assert found["files"] == []
    # Where only our own environment leads to the driver, nothing leads this program there.
    assert found["reason"].startswith(("cuInit: error", "libcuda.so.1: cannot open shared object file"))


def test_programs_that_want_every_gpu_run_one_after_the_other(on_gpu: OnGpu) -> None:
    works = [on_gpu.submit(demand=Demand(gpus=len(on_gpu.gpus))) for _ in range(3)]
    times = sorted((found["began"], found["ended"]) for found in map(on_gpu.found, works))
    assert [work.phase for work in map(on_gpu.ended, works)] == [Phase.SUCCEEDED] * 3
    assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(times)), times


def test_shares_of_a_gpu_are_used_side_by_side_and_no_more_than_there_is(on_gpu: OnGpu) -> None:
    half = on_gpu.gpus[0].memory_bytes // 2 // _MIB * _MIB
    shares = Demand(gpus=len(on_gpu.gpus), gpu_memory_bytes=half)
    with on_gpu.kept("hold", str(_GIB), demand=shares) as one, on_gpu.kept("hold", str(_GIB), demand=shares) as other:
        third = on_gpu.submit(demand=shares)
        assert {on_gpu.client.get(work.id).phase for work in (one, other)} == {Phase.RUNNING}
        assert on_gpu.client.get(third.id).phase is Phase.PENDING
    assert on_gpu.ended(third).phase is Phase.SUCCEEDED


def test_program_that_takes_more_than_its_share_is_ended_and_its_neighbour_is_not(on_gpu: OnGpu) -> None:
    share = Demand(gpus=len(on_gpu.gpus), gpu_memory_bytes=4 * _GIB)
    with on_gpu.kept("hold", str(_GIB), demand=share) as neighbour:
        greedy = on_gpu.submit("hold", str(8 * _GIB), demand=share)
        assert on_gpu.found(greedy)["share"] == str(4 * _GIB)
        assert on_gpu.ended(greedy).message == f"killed: used more than {4 * _GIB} bytes of the memory of GPU 0"
        assert on_gpu.client.get(neighbour.id).phase is Phase.RUNNING


def test_stopped_program_leaves_nothing_on_the_gpu(on_gpu: OnGpu) -> None:
    before = processes()
    with on_gpu.kept("hold", str(4 * _GIB), demand=Demand(gpus=len(on_gpu.gpus))):
        assert len(processes() - before) == 1
        assert sum(int(each["memory.used"]) for each in driver_says("memory.used")) >= 4 * 1024
    assert processes() == before


def test_load_of_a_gpu_is_told(on_gpu: OnGpu) -> None:
    before = on_gpu.client.stats()["gpus"]
    with on_gpu.kept("busy", demand=Demand(gpus=1)):
        # The driver's figure is a mean over the last while, so it climbs.
        on_gpu.cluster.until(lambda: on_gpu.client.stats()["gpus"]["utilization"] > 0.9 / len(on_gpu.gpus), "load")
        assert on_gpu.client.stats()["gpus"]["memoryFreeGb"] < before["memoryFreeGb"]
        assert on_gpu.client.nodes()[0].status == "busy" or len(on_gpu.gpus) > 1


def test_model_answers_from_the_gpu_until_it_is_removed(on_gpu: OnGpu) -> None:
    before = processes()
    on_gpu.client.register_model("square", "python", source="cuda_square:Square", demand=Demand(gpus=1))
    on_gpu.client.wait_model("square", timeout_s=PATIENCE_S)
    assert on_gpu.client.infer("square", [5, 12]).output == {"device": on_gpu.gpus[0].name, "squares": [25, 144]}
    held = processes() - before
    assert len(held) == 1
    on_gpu.client.remove_model("square")
    on_gpu.cluster.until(lambda: processes() == before, "the model is gone from the GPU")
    assert not any(os.path.exists(f"/proc/{pid}") for pid in held)  # noqa: PTH110 - as the driver names it
