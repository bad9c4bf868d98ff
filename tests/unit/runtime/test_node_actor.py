from __future__ import annotations

from dataclasses import replace

from arcray.runtime.node_actor import within
from arcray.runtime.ray_nodes import node_of
from arcray.runtime.reconcile import RayNode
from arcray.testing.builders import a_capacity, a_node


def a_ray_node(*, cpu_milli: int, memory_bytes: int, gpus: int = 0) -> RayNode:
    return RayNode(id="a" * 56, host="h", head=True, cpu_milli=cpu_milli, memory_bytes=memory_bytes, gpus=gpus)


def test_a_node_offers_no_more_than_its_ray_node_declared() -> None:
    machine = a_node(capacity=a_capacity(cores=8, memory_gib=32))
    offered = within(machine, a_ray_node(cpu_milli=2000, memory_bytes=4 << 30)).capacity
    assert (offered.cpu_milli, offered.memory_bytes) == (2000, 4 << 30)


def test_a_ray_node_offers_as_many_gpus_as_it_declared_of_those_that_it_sees() -> None:
    whole = a_capacity(gpus=4)
    machine = a_node(capacity=replace(whole, gpus=whole.gpus[1:]))
    offered = within(machine, a_ray_node(cpu_milli=8000, memory_bytes=32 << 30, gpus=2)).capacity
    assert [gpu.index for gpu in offered.gpus] == [1, 2]


def test_a_ray_node_that_declares_more_than_there_is_adds_nothing() -> None:
    machine = a_node(capacity=a_capacity(cores=8, memory_gib=32))
    assert within(machine, a_ray_node(cpu_milli=64_000, memory_bytes=1 << 40)) == machine


def test_what_ray_says_of_a_node_is_read_in_our_units() -> None:
    entry = {
        "NodeID": "f" * 56,
        "NodeManagerHostname": "gpu-7",
        "Alive": True,
        "Resources": {"CPU": 7.5, "memory": 1024.0, "GPU": 4.0, "node:__internal_head__": 1.0},
    }
    node = node_of(entry)
    assert (node.host, node.head, node.cpu_milli, node.memory_bytes, node.gpus) == ("gpu-7", True, 7500, 1024, 4)


def test_a_ray_node_without_resources_offers_nothing() -> None:
    node = node_of({"NodeID": "f" * 56, "NodeManagerHostname": "h", "Alive": True, "Resources": {}})
    assert (node.head, node.cpu_milli, node.memory_bytes, node.gpus) == (False, 0, 0, 0)
