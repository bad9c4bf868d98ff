from __future__ import annotations

from collections.abc import Sequence

import pytest

from arcray.core.errors import UnavailableError
from arcray.runtime.reconcile import RayNode, Reconciler, actor_name, roles
from arcray.testing.clock import FakeClock


def a_ray_node(letter: str, *, host: str | None = None, head: bool = False) -> RayNode:
    return RayNode(
        id=letter * 56, host=host or f"host-{letter}", head=head, cpu_milli=2000, memory_bytes=1 << 30, gpus=0
    )


class Machines:
    """A Ray cluster of which the test says which nodes live."""

    def __init__(self, *nodes: RayNode) -> None:
        self.nodes = list(nodes)
        self.away = False
        self.done: list[tuple[str, str]] = []

    async def alive(self) -> Sequence[RayNode]:
        if self.away:
            raise UnavailableError("no head")
        return tuple(self.nodes)

    async def ensure(self, node: RayNode, name: str, role: str) -> None:
        assert name == actor_name(node.id)
        self.done.append(("ensure", f"{name} {role}".strip()))

    async def retire(self, name: str) -> None:
        self.done.append(("retire", name))


async def test_every_alive_node_gets_one_actor_and_only_one() -> None:
    machines = Machines(a_ray_node("a", head=True), a_ray_node("b"))
    reconciler = Reconciler(machines, FakeClock())
    await reconciler.turn()
    await reconciler.turn()
    assert machines.done == [("ensure", "arcray-node-aaaaaaaaaaaa"), ("ensure", "arcray-node-bbbbbbbbbbbb")]


async def test_the_actor_of_a_node_that_is_gone_is_retired_once() -> None:
    machines = Machines(a_ray_node("a"), a_ray_node("b"))
    reconciler = Reconciler(machines, FakeClock())
    await reconciler.turn()
    machines.nodes.pop()
    machines.done.clear()
    await reconciler.turn()
    await reconciler.turn()
    assert machines.done == [("retire", "arcray-node-bbbbbbbbbbbb")]


async def test_what_fails_is_done_in_a_later_turn() -> None:
    machines = Machines(a_ray_node("a"))
    machines.away = True
    reconciler = Reconciler(machines, FakeClock())
    with pytest.raises(UnavailableError):
        await reconciler.turn()
    machines.away = False
    await reconciler.turn()
    assert machines.done == [("ensure", actor_name("a" * 56))]


def test_the_first_ray_node_of_a_host_is_the_machine_itself_and_the_head_goes_first() -> None:
    nodes = [a_ray_node("a", host="h"), a_ray_node("b", host="h", head=True), a_ray_node("c")]
    assert roles(nodes) == {"b" * 56: "", "a" * 56: "a" * 12, "c" * 56: ""}
