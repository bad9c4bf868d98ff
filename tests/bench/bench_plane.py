"""Budgets of the single writer, on two cores:

- a request whose sender waits costs it at most 120 us of processor at 64 in flight, from submission to reply, commit
  included: what caller and node cost without any plane is measured beside it and taken off;
- durable submissions through the port come at 5,000/s at least, in batches of 64 and from 64 callers that submit one by
  one; those in batches at 0.2 of the rate at which SQLite alone commits the same rows ready-made.

    python -m pytest tests/bench/bench_plane.py -s

Five alternating pairs each; the median counts. Python is set up as in the scheduler's process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import pytest

from arcray.core.commands import (
    Attached,
    Command,
    ReportEnd,
    SubmitWorkload,
)
from arcray.core.ids import AccountId, NodeId, WorkloadId
from arcray.core.orders import Order, RunInference
from arcray.core.ports import ControlPlane
from arcray.core.workload import Inference, Origin, Phase, Result, WorkloadSpec
from arcray.testing.builders import a_container, a_node
from arcray.testing.plane import in_process_plane
from arcray.wire.system import RandomIds, SystemClock
from tests.bench.report import ROUNDS, check, in_turn, row
from tests.bench.sqlite_alone import rows_by_sqlite_alone
from tests.least_node import ECHO, LeastNode

pytestmark = pytest.mark.bench

BUDGET_US = 120.0
BUDGET_PER_S = 5_000
BUDGET_RATIO = 0.2
BATCH = 64
BATCHES = 100
IN_FLIGHT = 64
REQUESTS = 5_000
CLOCK, IDS = SystemClock(), RandomIds()
ORIGIN = Origin(facade="bench", account=AccountId("bench"))
INPUT = b'{"pixels": [0, 1, 2, 3, 4, 5, 6, 7]}'


def a_submission() -> SubmitWorkload:
    spec = WorkloadSpec(
        id=WorkloadId(IDS.new()), origin=ORIGIN, payload=a_container(), created_at=CLOCK.now(), name="bench"
    )
    return SubmitWorkload(spec=spec)


def a_request() -> SubmitWorkload:
    payload = Inference(model_id=ECHO, input=INPUT)
    spec = WorkloadSpec(id=WorkloadId(IDS.new()), origin=ORIGIN, payload=payload, created_at=CLOCK.now(), waiting=True)
    return SubmitWorkload(spec=spec)


# -- durable submissions ---------------------------------------------------------------------------------------------


async def submissions_through_the_plane(directory: Path) -> float:
    """Returns durable submissions per second, in batches of 64, one batch after the other."""
    async with in_process_plane(nodes=[], state_dir=directory) as cluster:
        batches = [[a_submission() for _ in range(BATCH)] for _ in range(BATCHES)]
        began = perf_counter()
        for batch in batches:
            replies = await cluster.plane.submit(batch)
            assert not any(isinstance(reply, Exception) for reply in replies)
        return BATCH * BATCHES / (perf_counter() - began)


async def submissions_of_callers(directory: Path) -> float:
    """Returns durable submissions per second of 64 callers, each of which waits for one before it sends the next."""
    async with in_process_plane(nodes=[], state_dir=directory) as cluster:
        left = BATCH * BATCHES

        async def caller() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                (reply,) = await cluster.plane.submit([a_submission()])
                assert not isinstance(reply, Exception), reply

        began = perf_counter()
        await asyncio.gather(*(caller() for _ in range(BATCH)))
        return BATCH * BATCHES / (perf_counter() - began)


# -- requests --------------------------------------------------------------------------------------------------------


def instant_node(plane: ControlPlane) -> LeastNode:
    """A node that answers each delivery of requests at once."""
    return LeastNode(a_node(), plane, IN_FLIGHT, _answered)


def _answered(node_id: NodeId, epoch: int, orders: Sequence[Order]) -> list[Command]:
    return [
        ReportEnd(
            node_id=node_id,
            epoch=epoch,
            workload_id=order.workload_id,
            attempt=order.attempt,
            phase=Phase.SUCCEEDED,
            result=Result(output=order.input, duration_ms=0.01, pid=1),
        )
        for order in orders
        if isinstance(order, RunInference)
    ]


class NoPlane:
    """Hands a request to the node and its end to the caller: the work of caller and node without any plane."""

    def __init__(self) -> None:
        self.node: LeastNode | None = None
        self._waiting: dict[str, asyncio.Future[object]] = {}

    async def submit(self, commands: Sequence[Command]) -> list[object]:
        replies: list[object] = []
        for command in commands:
            if isinstance(command, SubmitWorkload):
                replies.append(await self._request(command.spec))
            elif isinstance(command, ReportEnd):
                self._waiting.pop(command.workload_id).set_result(command.result)
                replies.append(None)
            else:
                replies.append(Attached(node_id=NodeId(""), epoch=1))
        return replies

    async def _request(self, spec: WorkloadSpec) -> object:
        assert self.node is not None
        assert isinstance(spec.payload, Inference)
        waiting = self._waiting[spec.id] = asyncio.get_running_loop().create_future()
        order = RunInference(
            workload_id=spec.id,
            attempt=1,
            model_id=ECHO,
            input=spec.payload.input,
            context_window_tokens=1,
            timeout_s=1,
        )
        await self.node.deliver(1, [order])
        return await waiting


async def requests(plane: Any, count: int, in_flight: int) -> tuple[float, float, float]:
    """Returns requests per second, microseconds of processor per request, and the median latency in milliseconds."""
    left = count
    latencies: list[float] = []

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            began = perf_counter()
            (reply,) = await plane.submit([a_request()])
            latencies.append(perf_counter() - began)
            assert getattr(reply, "output", INPUT) == INPUT
            assert not isinstance(reply, Exception), reply

    began, processor = perf_counter(), process_time()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    took, used = perf_counter() - began, process_time() - processor
    return count / took, used / count * 1e6, sorted(latencies)[len(latencies) // 2] * 1e3


async def requests_through_the_plane(directory: Path, in_flight: int = IN_FLIGHT) -> tuple[float, float, float]:
    async with in_process_plane(nodes=[], state_dir=directory) as cluster:
        node = instant_node(cluster.plane)
        cluster.driver.add(node.id, node)
        await node.attach()
        await requests(cluster.plane, 500, in_flight)
        return await requests(cluster.plane, REQUESTS if in_flight > 1 else 500, in_flight)


async def requests_without_a_plane() -> tuple[float, float, float]:
    plane: Any = NoPlane()
    plane.node = instant_node(plane)
    await requests(plane, 500, IN_FLIGHT)
    return await requests(plane, REQUESTS, IN_FLIGHT)


@pytest.mark.usefixtures("tuned")
async def test_a_waiting_request_costs_the_writer_little(tmp_path: Path) -> None:
    async def through() -> tuple[float, float, float]:
        return await requests_through_the_plane(_new(tmp_path))

    found, without = await in_turn(through, requests_without_a_plane)
    one = [await requests_through_the_plane(_new(tmp_path), 1) for _ in range(ROUNDS)]
    rates, costs, medians = (list(values) for values in zip(*found, strict=True))
    bare = [used_us for _, used_us, _ in without]
    more = [cost - alone for cost, alone in zip(costs, bare, strict=True)]
    check(
        [
            row("request through the plane, 64 in flight", rates, "/s", better="higher"),
            row("  processor, more than without plane", more, "us", better="lower", budget=BUDGET_US, bare=bare),
            row("  median latency", medians, "ms", better="lower"),
            row("  median latency, one in flight", [latency for _, _, latency in one], "ms", better="lower"),
        ]
    )


@pytest.mark.usefixtures("tuned")
async def test_durable_submissions_keep_up_with_sqlite(tmp_path: Path) -> None:
    async def together() -> float:
        return await submissions_through_the_plane(_new(tmp_path))

    async def one_by_one() -> float:
        return await submissions_of_callers(_new(tmp_path))

    async def bare() -> float:
        batches = [[a_submission().spec for _ in range(BATCH)] for _ in range(BATCHES)]
        return rows_by_sqlite_alone(_new(tmp_path), batches)

    rates, alone = await in_turn(together, bare)
    callers, beside = await in_turn(one_by_one, bare)
    ratios = [rate / other for rate, other in zip(rates, alone, strict=True)]
    check(
        [
            row("durable submission, batches of 64", rates, "/s", better="higher", budget=BUDGET_PER_S, bare=alone),
            row("  of SQLite alone, rows ready-made", ratios, "x", better="higher", budget=BUDGET_RATIO),
            row("  one by one, 64 callers", callers, "/s", better="higher", budget=BUDGET_PER_S, bare=beside),
        ]
    )


def _new(directory: Path) -> Path:
    made = directory / IDS.new()
    made.mkdir()
    return made
