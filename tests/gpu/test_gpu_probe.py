"""The NVML probe beside ``nvidia-smi``, on physical GPUs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from arcray.core.resources import Allocation, Gpu, GpuShare
from arcray.node.gpu import GpuDevices, NvmlProbe
from tests.gpu.on_gpu import PROGRAM, driver_says

pytestmark = pytest.mark.gpu

_MIB = 2**20


def test_probe_knows_the_gpus_as_the_driver_names_them(gpus: tuple[Gpu, ...]) -> None:
    told = driver_says("index", "uuid", "name")
    assert [{"index": str(gpu.index), "uuid": gpu.uuid, "name": gpu.name} for gpu in gpus] == told


def test_memory_is_what_work_can_have_of_it(gpus: tuple[Gpu, ...]) -> None:
    told = driver_says("memory.total", "memory.reserved")
    for gpu, memory in zip(gpus, told, strict=True):
        assert abs(gpu.memory_bytes // _MIB - int(memory["memory.total"]) + int(memory["memory.reserved"])) <= 1


def test_every_device_file_is_there(gpus: tuple[Gpu, ...]) -> None:
    devices = GpuDevices(gpus=gpus, minors=NvmlProbe().minors())
    shares = tuple(GpuShare(index=gpu.index, memory_bytes=gpu.memory_bytes, whole=True) for gpu in gpus)
    assert [path for path in devices.files(Allocation(gpus=shares)) if not path.is_char_device()] == []


def test_reading_is_in_the_drivers_units(gpus: tuple[Gpu, ...]) -> None:
    readings = NvmlProbe().read()
    assert [reading.index for reading in readings] == [gpu.index for gpu in gpus]
    for reading, told in zip(readings, driver_says("temperature.gpu", "power.draw"), strict=True):
        assert 0.0 <= reading.utilization <= 1.0
        assert reading.temperature_c == pytest.approx(float(told["temperature.gpu"]), abs=20)
        assert reading.power_w == pytest.approx(float(told["power.draw"]), rel=0.9)


def test_driver_is_found_by_who_inherits_nothing_but_what_we_hand_on(gpus: tuple[Gpu, ...]) -> None:
    devices = GpuDevices(gpus=gpus, minors=NvmlProbe().minors(), libraries=NvmlProbe().libraries())
    share = GpuShare(index=gpus[0].index, memory_bytes=gpus[0].memory_bytes, whole=True)
    ran = subprocess.run(
        [sys.executable, "-I", "-S", PROGRAM],
        env=devices.environment(Allocation(gpus=(share,)), own={}),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(ran.stdout)["squares"] == [9, 16], ran.stdout
