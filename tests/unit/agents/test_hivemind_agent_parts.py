"""Parts of the HiveMind agent that need no pool."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from arcray.agents.hivemind import host_and_port
from arcray.agents.hivemind_tasks import LiveTasks
from arcray.agents.hivemind_worker import container_order_of, is_among, order_of
from arcray.core.errors import ConflictError, InvalidArgumentError
from arcray.core.ids import WorkloadId
from arcray.core.quantity import GIB
from arcray.core.resources import Allocation, Demand, GpuShare
from arcray.core.workload import Program
from arcray.facades.hivemind import tasks
from arcray.facades.hivemind.containers import Asked
from arcray.testing.builders import a_container
from arcray.testing.clock import FakeClock

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1"))
ALLOWED = Allocation(
    cpu_milli=8_000, memory_bytes=32 * GIB, gpus=(GpuShare(index=1, memory_bytes=80 * GIB, whole=True),)
)


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("ipv4:127.0.0.1:40000", True),
        ("ipv4:10.0.0.1:40000", False),
        ("ipv6:[::1]:40000", True),
        ("ipv6:%5B::1%5D:40000", True),
        ("ipv6:[::ffff:127.0.0.1]:40000", True),
        ("ipv6:[fe80::1%25eth0]:40000", False),
        ("unix:/run/x", False),
        ("", False),
    ],
)
def test_callers_are_told_by_their_address(peer: str, expected: bool) -> None:
    assert is_among(peer, LOOPBACK) is expected


@pytest.mark.parametrize(
    ("text", "expected"), [("pool:50051", ("pool", 50051)), ("[::1]:0", ("::1", 0)), ("0.0.0.0:1", ("0.0.0.0", 1))]
)
def test_addresses_are_a_host_and_a_port(text: str, expected: tuple[str, int]) -> None:
    assert host_and_port(text, "pool") == expected


@pytest.mark.parametrize("text", ["", "pool", ":1", "pool:", "pool:x", "pool:65536", "pool:-1"])
def test_what_is_no_address_is_refused_by_its_option(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="pool: must be HOST:PORT"):
        host_and_port(text, "pool")


async def test_a_task_that_comes_again_is_a_higher_attempt_also_after_a_restart() -> None:
    clock = FakeClock()
    live = LiveTasks(clock)
    first = live.add("t")
    with pytest.raises(ConflictError):
        live.add("t")
    live.remove(first)
    assert first.ended.is_set()
    second = live.add("t")
    assert second.attempt == first.attempt + 1
    assert live.of(second.workload_id, second.attempt) is second
    assert live.of(first.workload_id, first.attempt) is None
    await clock.advance(5.0)
    assert LiveTasks(clock).add("t").attempt > second.attempt


def test_a_task_may_use_what_it_is_allowed() -> None:
    task = LiveTasks(FakeClock()).add("t")
    order = order_of(task, archive=False, allowed=ALLOWED)
    assert order.workload_id == tasks.workload_id_of("t")
    assert isinstance(order.payload, Program)
    assert order.payload.env == (("TASK_ID", "t"),)
    assert (order.demand.cpu_milli, order.demand.memory_bytes, order.demand.gpus) == (8_000, 32 * GIB, 1)
    assert order.allocation == ALLOWED


def test_a_container_gets_what_it_has_asked_for() -> None:
    task = LiveTasks(FakeClock()).add("arcray-00000000-0000-0000-0000-0000b0000001")
    asked = Asked(container=a_container(), demand=Demand(cpu_milli=500, memory_bytes=GIB))
    order = container_order_of(task, asked, allowed=ALLOWED)
    assert order.workload_id == WorkloadId("00000000-0000-0000-0000-0000b0000001")
    assert (order.payload, order.demand) == (a_container(), asked.demand)
    assert order.allocation.gpus == ()
