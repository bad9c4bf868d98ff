"""Identity, GPUs and readings of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from arcray.config import NodeSettings, Settings
from arcray.core.errors import InvalidArgumentError
from arcray.core.ids import NodeId
from arcray.core.resources import Allocation, Gpu, GpuShare
from arcray.core.workload import VolumeMount
from arcray.node.container import resolve_volumes
from arcray.node.docker_engine import _after
from arcray.node.engine import Mount
from arcray.node.gpu import GpuDevices
from arcray.node.identity import hostname, machine_node_id
from arcray.node.machine import Machine
from arcray.node.sampler import Sampler, measure_capacity
from arcray.testing.clock import FakeClock, SequenceIds

if TYPE_CHECKING:
    from arcray.testing.node_fakes import FakeEngine, FakeGpus


def test_node_id_stays_for_the_life_of_the_state_directory(tmp_path: Path) -> None:
    ids = SequenceIds()
    first = machine_node_id(tmp_path, ids)
    assert machine_node_id(tmp_path, ids) == first
    assert machine_node_id(tmp_path, ids, role="second") != first
    assert machine_node_id(tmp_path / "other", ids) != first


def test_damaged_node_id_is_named(tmp_path: Path) -> None:
    machine_node_id(tmp_path, SequenceIds())
    (tmp_path / "node" / f"node-id.{hostname()}").write_text("nonsense")
    with pytest.raises(InvalidArgumentError, match="holds no node id; remove it"):
        machine_node_id(tmp_path, SequenceIds())


def test_reading_has_every_figure_in_its_range(gpus: FakeGpus, tmp_path: Path) -> None:
    clock = FakeClock()
    reading = Sampler(gpus=gpus, clock=clock, disk=tmp_path).read()
    assert reading.at == clock.now()
    assert 0.0 <= reading.cpu_utilization <= 1.0
    assert 0.0 <= reading.battery_level <= 1.0
    assert reading.memory_used_bytes > 0
    assert reading.disk_used_bytes > 0
    assert [gpu.index for gpu in reading.gpus] == [0, 1]


def test_capacity_keeps_back_what_is_reserved(tmp_path: Path) -> None:
    everything = measure_capacity(NodeSettings(reserved_memory_bytes=0), gpus=(), disk=tmp_path)
    less = measure_capacity(NodeSettings(reserved_memory_bytes=2**20, reserved_cpu_milli=100), gpus=(), disk=tmp_path)
    assert everything.memory_bytes - less.memory_bytes == 2**20
    assert everything.cpu_milli - less.cpu_milli == 100


def test_settings_say_the_capacity_when_they_do(tmp_path: Path) -> None:
    capacity = measure_capacity(NodeSettings(cpu_milli=1, memory_bytes=2), gpus=(), disk=tmp_path)
    assert (capacity.cpu_milli, capacity.memory_bytes) == (1, 2)


def test_gpus_of_an_allocation_are_named_by_uuid_and_by_device_file() -> None:
    devices = GpuDevices(
        gpus=(Gpu(index=0, memory_bytes=1, uuid="GPU-a"), Gpu(index=1, memory_bytes=1)), minors={0: 3, 1: 1}
    )
    shares = tuple(GpuShare(index=index, memory_bytes=1, whole=True) for index in (0, 1))
    assert devices.environment(Allocation(gpus=shares), own={}) == {"CUDA_VISIBLE_DEVICES": "GPU-a,1"}
    assert [str(path) for path in devices.files(Allocation(gpus=shares[:1]))][-1] == "/dev/nvidia3"
    assert devices.environment(Allocation(), own={}) == {"CUDA_VISIBLE_DEVICES": ""}
    assert devices.files(Allocation()) == ()


def test_device_files_that_are_not_there_are_known_but_for_what_only_tools_need() -> None:
    devices = GpuDevices(gpus=(Gpu(index=0, memory_bytes=1),), minors={0: 999})
    assert Path("/dev/nvidia999") in devices.absent()
    assert Path("/dev/nvidia-uvm-tools") not in devices.absent()
    assert GpuDevices(minors={}).absent() == ()


async def test_machine_whose_gpus_have_no_device_files_says_what_to_do(
    gpus: FakeGpus, engine: FakeEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings.model_validate({"state_dir": tmp_path, "node": {"programs": {"sandbox": "none"}}})
    machine = Machine(node_id=NodeId("n"), settings=settings, clock=FakeClock(), probe=gpus, engine=engine)
    await machine.look()
    await machine.close()
    (warning,) = (record for record in caplog.records if record.message == "programs will not find the GPUs")
    assert "/dev/nvidia900, /dev/nvidia901" in warning.__dict__["absent"]
    assert "nvidia-modprobe" in warning.__dict__["remedy"]


def test_what_has_a_gpu_is_led_to_the_libraries_of_its_driver() -> None:
    devices = GpuDevices(gpus=(Gpu(index=0, memory_bytes=1),), minors={0: 0}, libraries=(Path("/opt/driver/lib"),))
    allocation = Allocation(gpus=(GpuShare(index=0, memory_bytes=1, whole=True),))
    assert devices.environment(allocation, own={})["LD_LIBRARY_PATH"] == "/opt/driver/lib"
    assert "LD_LIBRARY_PATH" not in devices.environment(Allocation(), own={})


def test_volumes_are_resolved_before_they_are_allowed(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    (allowed / "sub").mkdir(parents=True)
    (tmp_path / "way-in").symlink_to(allowed)
    (allowed / "way-out").symlink_to(tmp_path)
    given = (VolumeMount(source=str(tmp_path / "way-in" / "sub"), target="/d", read_only=True),)
    assert resolve_volumes(given, (allowed,)) == (Mount(source=str(allowed / "sub"), target="/d", read_only=True),)
    for source, reason in (
        (str(allowed / "way-out"), "not below"),
        (str(tmp_path), "not below"),
        (str(allowed / "absent"), "does not exist"),
        ("relative", "absolute"),
    ):
        with pytest.raises(InvalidArgumentError, match=reason) as refusal:
            resolve_volumes((given[0], VolumeMount(source=source, target="/d")), (allowed,))
        assert refusal.value.field == "payload.volumes.1.source"
    for target in ("d", "/", "/a/../.."):
        with pytest.raises(InvalidArgumentError):
            resolve_volumes((VolumeMount(source=str(allowed), target=target),), (allowed,))


def test_log_goes_on_after_the_last_known_entry_whatever_its_digits() -> None:
    stream = [b"2026-01-01T00:00:00.1Z a\n", b"2026-01-01T00:00:00.100000001Z b\n", b"2026-01-01T00:00:00.2Z c\n"]
    assert [data for _, data in _after("", stream)] == [b"a\n", b"b\n", b"c\n"]
    assert [data for _, data in _after("2026-01-01T00:00:00.1Z", stream)] == [b"b\n", b"c\n"]
    with pytest.raises(ValueError, match="error grabbing logs"):
        list(_after("", [b"error grabbing logs: no such file"]))
