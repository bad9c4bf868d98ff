"""Devices as nodes, and nodes as devices: units, and what one side lacks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from arcray.core.errors import ConflictError
from arcray.core.ids import AccountId
from arcray.core.node import GpuTelemetry, Health, NodeView, Telemetry
from arcray.core.resources import Capacity, Gpu
from arcray.facades.pool.messages import Device, Resources
from arcray.facades.pool.nodes import (
    LEASE,
    check_is_device,
    device_of,
    is_shown,
    node_id_of,
    reading_of,
    registration_of,
)
from arcray.facades.pool.session import Member
from arcray.testing.builders import a_node

AT = datetime(2026, 1, 1, tzinfo=UTC)


def a_member(device_id: str = "A", capabilities: tuple[str, ...] = (), **resources: Any) -> Member:
    device = Device(
        id=device_id,
        name="n",
        platform="Windows 11",
        ip_address="10.0.0.1",
        last_seen=AT,
        resources=Resources(**resources),
    )
    return Member(device=device, socket=1, account=AccountId("me"), capabilities=frozenset(capabilities), heard_s=0.0)


def a_view(registration: Any, telemetry: Telemetry | None = None, **fields: Any) -> NodeView:
    given: dict[str, Any] = {
        "epoch": 1,
        "health": Health.HEALTHY,
        "joined_at": AT,
        "last_seen": AT,
        "cordoned": False,
        "draining": False,
        "models": (),
        "workloads": 0,
        "cpu_milli_free": registration.capacity.cpu_milli,
        "memory_bytes_free": registration.capacity.memory_bytes,
    }
    return NodeView(registration=registration, telemetry=telemetry, **(given | fields))


def test_a_device_takes_as_much_work_as_it_says() -> None:
    member = a_member()
    assert registration_of(member, LEASE).max_workloads is None
    assert registration_of(replace(member, max_tasks=3), LEASE).max_workloads == 3


def test_a_device_is_a_node_in_the_cores_units() -> None:
    member = a_member(cpu_cores=8, memory_total=16384, storage_total=1000, has_gpu=True, gpu_name="RTX")
    found = registration_of(member, LEASE, address="here")
    assert found.capacity == Capacity(
        cpu_milli=8000,
        memory_bytes=16384 * 2**20,
        disk_bytes=10**9,
        gpus=(Gpu(index=0, memory_bytes=0, name="RTX"),),
    )
    assert (found.id, found.external_id, found.facade, found.address) == (node_id_of("A"), "A", "pool", "here")
    assert found.labels == {"pool/device": node_id_of("A"), "pool/platform": "Windows11"}


def test_a_device_that_has_told_nothing_counts_as_one_core() -> None:
    assert registration_of(a_member(), LEASE).capacity == Capacity(cpu_milli=1000, memory_bytes=0)


@pytest.mark.parametrize(
    ("capabilities", "programs", "containers"),
    [((), False, False), (("task",), True, False), (("task", "container"), True, True), (("container",), False, False)],
)
def test_a_device_runs_what_it_offers(capabilities: tuple[str, ...], programs: bool, containers: bool) -> None:
    found = registration_of(a_member(capabilities=capabilities), LEASE).capabilities
    assert (found.programs, found.containers) == (programs, containers)


def test_a_reading_is_of_what_the_device_told() -> None:
    member = a_member(cpu_usage=45.5, memory_usage=10, storage_usage=3, has_gpu=True, gpu_usage=30)
    assert reading_of(member) == Telemetry(
        at=AT,
        cpu_utilization=0.455,
        memory_used_bytes=10 * 2**20,
        disk_used_bytes=3 * 10**6,
        gpus=(GpuTelemetry(index=0, utilization=0.3, memory_used_bytes=0),),
    )


def test_quantities_beyond_the_cores_are_cut() -> None:
    found = registration_of(a_member(cpu_cores=2**53 - 1, memory_total=2**53 - 1), LEASE).capacity
    assert max(found.cpu_milli, found.memory_bytes) < 2**53


def test_a_node_of_another_protocol_is_a_device() -> None:
    registration = a_node(
        facade="ray",
        hostname="host",
        capacity=Capacity(
            cpu_milli=8000,
            memory_bytes=100 * 2**20,
            disk_bytes=10**9,
            gpus=(Gpu(index=0, memory_bytes=1, name="H"), Gpu(index=1, memory_bytes=1, name="H")),
        ),
    )
    gpus = tuple(
        GpuTelemetry(index=index, utilization=load, memory_used_bytes=0) for index, load in ((0, 1.0), (1, 0.5))
    )
    reading = Telemetry(at=AT, cpu_utilization=0.25, memory_used_bytes=30 * 2**20, disk_used_bytes=4 * 10**8, gpus=gpus)
    device = device_of(a_view(registration, reading, cpu_milli_free=2000, memory_bytes_free=90 * 2**20))
    assert (device.id, device.ip_address, device.platform) == (registration.id, "host", "linux")
    assert device.resources == Resources(
        cpu_usage=25,
        cpu_available=25,  # three quarters are given away, which is less than what is unused
        cpu_cores=8,
        memory_usage=30,
        memory_available=70,
        memory_total=100,
        storage_usage=400,
        storage_available=600,
        storage_total=1000,
        has_gpu=True,
        gpu_name="H",
        gpu_usage=75,
    )


def test_a_device_of_another_process_keeps_its_id() -> None:
    registration = registration_of(a_member("their", cpu_cores=4), LEASE, address="there")
    assert device_of(a_view(registration)).id == "their"


def test_what_is_lost_is_not_shown() -> None:
    registration = a_node(facade="ray")
    assert is_shown(a_view(registration), cluster=True)
    assert not is_shown(a_view(registration), cluster=False)
    assert not is_shown(a_view(registration, health=Health.LOST), cluster=True)
    assert not is_shown(a_view(registration, health=Health.GONE), cluster=True)


def test_an_id_of_another_node_is_refused() -> None:
    theirs = a_view(a_node(facade="ray"))
    with pytest.raises(ConflictError):
        check_is_device(theirs, theirs.registration.id)
    mine = a_view(registration_of(a_member("550E8400-E29B-41D4-A716-446655440000"), LEASE))
    with pytest.raises(ConflictError):  # whose node would be the same
        check_is_device(mine, "550e8400-e29b-41d4-a716-446655440000")
    check_is_device(mine, "550E8400-E29B-41D4-A716-446655440000")
    check_is_device(None, "A")
