"""What to run, both ways: nothing is lost on the way, and what has no word is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from arcray import claw_proto as claw
from arcray.claw_proto import original
from arcray.core.errors import InvalidArgumentError, UnsupportedError
from arcray.core.ids import WorkloadId
from arcray.core.orders import StartWorkload
from arcray.core.quantity import GIB, MIB
from arcray.core.resources import Allocation, Demand
from arcray.core.workload import Container, PortMapping, Program, RestartPolicy, RestartRule, VolumeMount
from arcray.facades.claw.specs import container_of, demand_of, original_spec_of, restart_of, spec_of

FULL = claw.WorkloadSpec(
    image="ghcr.io/a/b:1",
    command=("python", "-u"),
    args=("main.py", "--x"),
    env=(("A", "1"), ("B", "")),
    gpu_count=2,
    gpu_memory_mb=40960,
    cpu_millicores=2500,
    memory_mb=8192,
    ports=(8080, 9090),
    volumes=(claw.VolumeMount(source="/data", target="/in", read_only=True),),
)
CONTAINER = Container(
    image="ghcr.io/a/b:1",
    command=("python", "-u"),
    args=("main.py", "--x"),
    env=(("A", "1"), ("B", "")),
    ports=(PortMapping(container_port=8080), PortMapping(container_port=9090)),
    volumes=(VolumeMount(source="/data", target="/in", read_only=True),),
)
DEMAND = Demand(cpu_milli=2500, memory_bytes=8 * GIB, gpus=2, gpu_memory_bytes=40 * GIB)


def order(payload: Any = CONTAINER, demand: Demand = DEMAND) -> StartWorkload:
    return StartWorkload(
        workload_id=WorkloadId("550e8400-e29b-41d4-a716-446655440000"),
        attempt=1,
        payload=payload,
        demand=demand,
        allocation=Allocation(),
        owner="o",
    )


def test_a_container_goes_to_a_node_and_comes_from_one_unchanged() -> None:
    assert spec_of(order()) == FULL
    assert (container_of(FULL), demand_of(FULL)) == (CONTAINER, DEMAND)


def test_what_is_not_asked_for_is_not_named() -> None:
    bare = spec_of(order(Container(image="i"), Demand()))
    assert bare == claw.WorkloadSpec(image="i")
    assert (container_of(bare), demand_of(bare)) == (Container(image="i"), Demand())


def test_memory_is_given_to_the_mebibyte_above() -> None:
    asked = spec_of(order(demand=Demand(memory_bytes=MIB + 1, gpus=1, gpu_memory_bytes=1)))
    assert (asked.memory_mb, asked.gpu_memory_mb) == (2, 1)


def test_a_node_is_never_asked_to_start_anything_again() -> None:
    assert spec_of(order()).restart_policy == claw.No()


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        (order(Program(blob="b")), "payload"),
        (order(replace(CONTAINER, ports=(PortMapping(container_port=80, host_port=8080),))), "ports"),
        (order(replace(CONTAINER, env=(("my.var", "1"),))), "env"),
        (order(replace(CONTAINER, image="a b")), "image"),
        (order(demand=Demand(cpu_milli=1_024_001)), "cpu_millicores"),
        (order(demand=Demand(memory_bytes=4096 * GIB + 1)), "memory_mb"),
    ],
)
def test_what_the_wire_cannot_say_goes_elsewhere(changed: StartWorkload, field: str) -> None:
    with pytest.raises(UnsupportedError) as refusal:
        spec_of(changed)
    assert refusal.value.field == field


def test_the_port_that_the_container_has_may_be_the_hosts_too() -> None:
    same = order(replace(CONTAINER, ports=(PortMapping(container_port=80, host_port=80),)))
    assert spec_of(same).ports == (80,)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (replace(FULL, image=""), "image"),
        (replace(FULL, image="a\0b"), "image"),
        (replace(FULL, command=("a\0",)), "command"),
        (replace(FULL, args=("\0",)), "args"),
        (replace(FULL, env=(("A", "\0"),)), "env"),
        (replace(FULL, volumes=(claw.VolumeMount(source="/a\0", target="/b"),)), "volumes"),
        (replace(FULL, gpu_count=65), "gpu_count"),
        (replace(FULL, ports=(0,)), "ports"),
    ],
)
def test_what_breaks_a_rule_is_refused_by_name(spec: claw.WorkloadSpec, field: str) -> None:
    with pytest.raises(InvalidArgumentError) as refusal:
        container_of(spec)
    assert refusal.value.field == field


def test_memory_of_gpus_needs_a_gpu() -> None:
    with pytest.raises(InvalidArgumentError, match="gpu_memory_mb: needs gpu_count of at least 1"):
        demand_of(replace(FULL, gpu_count=0))
    assert demand_of(replace(FULL, gpu_count=0, gpu_memory_mb=0)).gpu_memory_bytes is None


@pytest.mark.parametrize("kind", [claw.MountType.VOLUME, claw.MountType.TMPFS])
def test_only_what_the_host_has_is_mounted(kind: claw.MountType) -> None:
    volumes = (FULL.volumes[0], claw.VolumeMount(source="v", target="/v", mount_type=kind))
    with pytest.raises(UnsupportedError, match=r"volumes\.1\.mount_type: must be bind"):
        container_of(replace(FULL, volumes=volumes))


@pytest.mark.parametrize(
    ("policy", "restart"),
    [
        (claw.No(), RestartPolicy(rule=RestartRule.NEVER)),
        (claw.UnlessStopped(), RestartPolicy(rule=RestartRule.ALWAYS, max_restarts=None)),
        (claw.OnFailure(max_retries=3), RestartPolicy(rule=RestartRule.ON_FAILURE, max_restarts=3)),
        (claw.OnFailure(max_retries=0), RestartPolicy(rule=RestartRule.ON_FAILURE, max_restarts=None)),
    ],
)
def test_a_restart_policy_is_in_cores_words(policy: claw.RestartPolicy, restart: RestartPolicy) -> None:
    assert restart_of(policy) == restart


def test_always_is_until_somebody_stops_it() -> None:
    assert restart_of(claw.Always()) == restart_of(claw.UnlessStopped())


# -- the first implementation ------------------------------------------------------------------------------------------

PLAIN = Container(image="nginx", command=("a",), args=("b", "c"), env=(("K", "1"), ("K", "2")))


def test_its_node_gets_one_command_whole_cores_and_a_map() -> None:
    asked = original_spec_of(order(PLAIN, Demand(cpu_milli=1001, memory_bytes=GIB, gpus=2)))
    assert asked == original.WorkloadSpec(
        image="nginx", command=("a", "b", "c"), env=(("K", "2"),), gpu_count=2, memory_mb=1024, cpu_cores=2
    )


def test_its_defaults_stand_for_what_is_not_asked_for() -> None:
    asked = original_spec_of(order(PLAIN, Demand()))
    assert (asked.cpu_cores, asked.memory_mb, asked.gpu_count) == (1, 512, 0)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        (order(Program(blob="b")), "payload"),
        (order(replace(PLAIN, ports=(PortMapping(container_port=80),)), Demand()), "ports"),
        (order(replace(PLAIN, volumes=CONTAINER.volumes), Demand()), "volumes"),
        (order(PLAIN, Demand(gpus=1, gpu_memory_bytes=GIB)), "gpu_memory_mb"),
        (order(PLAIN, Demand(memory_bytes=1_024_001 * MIB)), "memory_mb"),
        (order(PLAIN, Demand(cpu_milli=1_024_001)), "cpu_cores"),
        (order(replace(PLAIN, image=":x"), Demand()), "image"),
    ],
)
def test_what_that_dialect_does_not_have_goes_elsewhere(changed: StartWorkload, field: str) -> None:
    with pytest.raises(UnsupportedError) as refusal:
        original_spec_of(changed)
    assert refusal.value.field == field
