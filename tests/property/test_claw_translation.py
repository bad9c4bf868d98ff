"""Whatever a claw node says is what core can take, or is refused by name; what core asks is sendable, or is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arcray import claw_proto as claw
from arcray.claw_proto import original
from arcray.claw_proto.codec import ORIGINAL_GATEWAY_MESSAGE
from arcray.claw_proto.frames import Dialect, Form, read_from_gateway, write_to_node
from arcray.core.commands import Running
from arcray.core.errors import ArcrayError
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.quantity import MAX_QUANTITY
from arcray.core.resources import MAX_GPUS_PER_NODE, Allocation, Demand, GpuShare
from arcray.core.workload import Container, PortMapping, VolumeMount
from arcray.facades.claw import nodes, replies, reports, specs
from arcray.facades.claw.attempts import Attempts
from arcray.testing.builders import T0
from tests.claw_values import values_of

_T = TypeVar("_T")

ID = "550e8400-e29b-41d4-a716-446655440000"
QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
REGISTERS: st.SearchStrategy[Any] = values_of(claw.Register) | values_of(original.Register)
METRICS: st.SearchStrategy[Any] = values_of(claw.Metrics) | values_of(original.Metrics)
TEXTS = st.text(max_size=8) | st.sampled_from(["A", "nginx", "/data", "\0", "\ud800", " "])
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), max_size=3).map(tuple)
PORTS = st.none() | st.integers(1, 65_535)
QUANTITIES = st.sampled_from([0, 1, 10**3, 2**20, 2**30, 2**42, MAX_QUANTITY])
CONTAINERS = st.builds(
    Container,
    image=TEXTS,
    command=st.lists(TEXTS, max_size=2).map(tuple),
    args=st.lists(TEXTS, max_size=2).map(tuple),
    env=PAIRS,
    ports=st.lists(st.builds(PortMapping, container_port=st.integers(1, 65_535), host_port=PORTS), max_size=2).map(
        tuple
    ),
    volumes=st.lists(st.builds(VolumeMount, source=TEXTS, target=TEXTS, read_only=st.booleans()), max_size=2).map(
        tuple
    ),
)
DEMANDS = st.builds(
    Demand,
    cpu_milli=QUANTITIES,
    memory_bytes=QUANTITIES,
    gpus=st.integers(1, 64),
    gpu_memory_bytes=st.none() | st.just(1),
)
ORDERS = st.builds(
    StartWorkload,
    workload_id=st.just(WorkloadId(ID)),
    attempt=st.integers(1, 10**6),
    payload=CONTAINERS,
    demand=DEMANDS,
    allocation=st.lists(st.integers(0, 63), max_size=3).map(
        lambda found: Allocation(gpus=tuple(GpuShare(index=each, memory_bytes=0, whole=True) for each in found))
    ),
    owner=st.just("o"),
    name=TEXTS,
)


def outcome(make: Callable[[], _T]) -> _T | None:
    """What is made, None where it is refused by name."""
    found: _T | ArcrayError
    try:
        found = make()
    except ArcrayError as refusal:
        found = refusal
    if not isinstance(found, ArcrayError):
        return found
    assert found.field, found
    return None


@QUICK
@given(REGISTERS, METRICS)
def test_a_registration_is_a_node_that_core_can_hold_or_is_refused(register: Any, metrics: Any) -> None:
    found = outcome(lambda: nodes.registration_of(register))
    if found is None:
        return
    capacity = found.capacity
    indices = [gpu.index for gpu in capacity.gpus]
    assert indices == sorted(set(indices))
    assert len(indices) <= MAX_GPUS_PER_NODE
    assert all(0 <= gpu.memory_bytes <= MAX_QUANTITY for gpu in capacity.gpus)
    assert 0 <= capacity.memory_bytes <= MAX_QUANTITY
    assert "\0" not in "".join(
        (found.name, *found.labels, *found.labels.values(), *(gpu.name for gpu in capacity.gpus))
    )
    reading = nodes.reading_of(metrics, found, T0)
    sizes = {gpu.index: gpu.memory_bytes for gpu in capacity.gpus}
    assert all(0 <= each.utilization <= 1 and each.memory_used_bytes <= sizes[each.index] for each in reading.gpus)


@QUICK
@given(values_of(claw.WorkloadSpec))
def test_a_specification_is_a_container_or_is_refused(spec: claw.WorkloadSpec) -> None:
    container, demand = outcome(lambda: specs.container_of(spec)), outcome(lambda: specs.demand_of(spec))
    assert specs.restart_of(spec.restart_policy).max_restarts != 0  # on the wire 0 is without limit
    if container is None or demand is None:
        return
    order = StartWorkload(
        workload_id=WorkloadId(ID), attempt=1, payload=container, demand=demand, allocation=Allocation(), owner="o"
    )
    again = specs.spec_of(order)
    assert (specs.container_of(again), specs.demand_of(again)) == (container, demand)
    assert again.restart_policy == claw.No()


@QUICK
@given(ORDERS)
def test_an_order_is_sent_in_both_dialects_or_is_refused(order: StartWorkload) -> None:
    for dialect in Dialect:
        message = outcome(lambda dialect=dialect: replies.deployed(dialect, order, T0))  # type: ignore[misc]  # bound now
        if message is None:
            continue
        for form in Form if dialect is Dialect.DOCUMENT else (Form.INTERNAL, Form.EXTERNAL):
            frame = outcome(lambda form=form, message=message: write_to_node(message, form))  # type: ignore[misc]
            assert frame is None or read_from_gateway(frame, dialect) == (message, form)


@QUICK
@given(st.integers(1, 10**6), st.floats(0, 1e12))
def test_a_stop_is_sent_in_both_dialects(attempt: int, grace_s: float) -> None:
    order = StopAttempt(workload_id=WorkloadId(ID), attempt=attempt, grace_s=grace_s)
    assert write_to_node(replies.stopped(Dialect.DOCUMENT, order), Form.BINARY)
    told = replies.stopped(Dialect.ORIGINAL, order)
    assert isinstance(told, original.StopWorkload)
    assert ORIGINAL_GATEWAY_MESSAGE.from_json(ORIGINAL_GATEWAY_MESSAGE.to_json(told)) == told


@QUICK
@given(values_of(claw.WorkloadUpdate) | values_of(original.WorkloadUpdate), values_of(claw.WorkloadLogs))
def test_what_is_told_of_work_can_be_stored(update: Any, logs: claw.WorkloadLogs) -> None:
    work = Running(workload_id=WorkloadId(update.workload_id), attempt=1)
    found = reports.report_of(reports.state_of(update), update.message, work, node_id=NodeId(ID), epoch=1)
    assert found is None or "\0" not in found.message
    assert reports.log_of(logs.lines).count(b"\n") >= len(logs.lines)


STATES = st.sampled_from(list(claw.WorkloadState))
WORDS = st.lists(st.tuples(st.sampled_from(["give", "stop", "withdraw"]) | STATES, st.integers(1, 3)), max_size=30)


@QUICK
@given(st.sampled_from(Dialect), WORDS)
def test_an_attempt_is_given_once_and_ends_once_whatever_its_node_says(
    dialect: Dialect, words: list[tuple[str, int]]
) -> None:
    attempts, given_times, ends = Attempts(dialect), Counter[int](), Counter[int]()
    for word, attempt in words:
        work = Running(workload_id=WorkloadId(ID), attempt=attempt)
        match word:
            case claw.WorkloadState():
                name = replies.wire_id(work.workload_id, attempt)
                step = outcome(lambda name=name, state=word: attempts.told(name, state))  # type: ignore[misc]
                ends[attempt] += step is not None and step.state.is_terminal
                assert step is None or step.work == work
            case "give":
                order = StartWorkload(
                    workload_id=work.workload_id, attempt=attempt, payload=Container(image="i"), demand=Demand(),
                    allocation=Allocation(), owner="o",
                )  # fmt: skip
                given_times[attempt] += attempts.give(order)
            case "stop":
                told = attempts.stop(StopAttempt(workload_id=work.workload_id, attempt=attempt, grace_s=0))
                assert told == (work in attempts.inventory())
            case _:
                given_times[attempt] -= work in attempts.inventory()
                attempts.withdraw(work)
    for attempt in (1, 2, 3):
        assert 0 <= ends[attempt] <= given_times[attempt] <= 1
        is_live = Running(workload_id=WorkloadId(ID), attempt=attempt) in attempts.inventory()
        assert is_live == (given_times[attempt] > ends[attempt])
