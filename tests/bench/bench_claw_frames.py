"""Budget: a claw frame of any encoding is read in at most 20 us, a heartbeat in at most 15, on one core.

    python -m pytest tests/bench/bench_claw_frames.py -m bench -s

A thousand nodes that beat and tell of their GPUs every 10 s are 200 frames a second. Each figure is of frames in the
proportion in which nodes send them, read one after the other: for text beside the standard parser, which reads the same
frames into dictionaries, for bytes beside ``struct``, which unpacks the fields of the same frames at places it knows.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Final

import pytest

from arcray.claw_proto import (
    GpuMetricsProto,
    Heartbeat,
    HeartbeatAck,
    Metrics,
    NodeId,
    Timestamp,
    WorkloadId,
    WorkloadLogs,
    WorkloadState,
    WorkloadUpdate,
)
from arcray.claw_proto.frames import (
    AnyNodeMessage,
    Dialect,
    Form,
    Frame,
    read_from_node,
    write_to_gateway,
    write_to_node,
)
from tests.bench.report import BenchRow, alternate, check, row

pytestmark = [pytest.mark.bench, pytest.mark.usefixtures("tuned")]

FRAMES: Final = 20_000
BUDGET_PER_S: Final = 50_000.0
BEATS_PER_S: Final = 66_000.0
NODE: Final = NodeId("550e8400-e29b-41d4-a716-446655440000")
WORK: Final = WorkloadId(NODE)
AT: Final = Timestamp.parse("2026-02-03T12:34:56.123456789Z")
BEAT: Final = Heartbeat(node_id=NODE, timestamp=AT)
READING: Final = GpuMetricsProto(
    index=0,
    utilization_percent=75,
    memory_used_mb=40960,
    memory_total_mb=81920,
    temperature_celsius=65,
    power_watts=300,
)
# Of twenty frames, ten are heartbeats, eight tell of two GPUs each, one of a state, one has ten lines of a log.
MIX: Final[Sequence[AnyNodeMessage]] = [
    *(BEAT,) * 10,
    *(Metrics(node_id=NODE, gpu_metrics=(READING, READING), timestamp=AT),) * 8,
    WorkloadUpdate(workload_id=WORK, state=WorkloadState.RUNNING, message="ok", timestamp=AT),
    WorkloadLogs(workload_id=WORK, lines=("epoch 3, loss 0.0412, 812 samples/s",) * 10, is_stderr=False),
]
# As bincode lays these frames out: number, id with its length, then what the type has.
LAYOUTS: Final[dict[type[Any], struct.Struct]] = {
    Heartbeat: struct.Struct("<IQ16sQ30s"),
    Metrics: struct.Struct("<IQ16sQIIQQIIIIQQIIQ30s"),
    WorkloadUpdate: struct.Struct("<IQ16sIBQ2sQ30s"),
    WorkloadLogs: struct.Struct("<IQ16sQ" + "Q35s" * 10 + "B"),
}


def per_s(frames: Sequence[Frame], read: Callable[[Any], object]) -> float:
    began = perf_counter()
    for frame in frames:
        read(frame)
    return len(frames) / (perf_counter() - began)


def frames_of(messages: Sequence[AnyNodeMessage], form: Form) -> Sequence[Frame]:
    written = [write_to_gateway(message, form) for message in messages]
    return written * (FRAMES // len(written))


def ours(frame: Frame) -> object:
    return read_from_node(frame, Dialect.DOCUMENT)


def unpack(pair: tuple[struct.Struct, bytes]) -> object:
    layout, data = pair
    return layout.unpack_from(data)


def measured(name: str, messages: Sequence[AnyNodeMessage], form: Form, budget: float) -> BenchRow:
    frames = frames_of(messages, form)
    if form is Form.BINARY:
        layouts = [LAYOUTS[type(message)] for message in messages] * (FRAMES // len(messages))
        pairs: Sequence[Any] = list(zip(layouts, frames, strict=True))
        assert all(layout.size == len(data) for layout, data in pairs)
        found = alternate(lambda: per_s(frames, ours), lambda: per_s(pairs, unpack))
    else:
        found = alternate(lambda: per_s(frames, ours), lambda: per_s(frames, json.loads))
    return row(name, found[0], "/s", better="higher", budget=budget, bare=found[1])


def test_frames_are_read_within_their_budget() -> None:
    check(
        [
            measured(f"claw {what} read, {form.value}", messages, form, budget)
            for what, messages, budget in (("heartbeats", [BEAT], BEATS_PER_S), ("frames", MIX, BUDGET_PER_S))
            for form in Form
        ]
    )


def test_answers_are_written_within_their_budget() -> None:
    rows = []
    for form in Form:
        answers: Sequence[Any] = [HeartbeatAck(timestamp=AT)] * FRAMES
        plain = {"type": "heartbeat_ack", "timestamp": str(AT)}

        def written(form: Form = form, answers: Sequence[Any] = answers) -> float:
            return per_s(answers, lambda answer: write_to_node(answer, form))

        def bare(plain: dict[str, str] = plain, answers: Sequence[Any] = answers) -> float:
            return per_s(answers, lambda _: json.dumps(plain))

        found = alternate(written, bare)
        name = f"claw answers to heartbeats written, {form.value}"
        rows.append(row(name, found[0], "/s", better="higher", budget=BEATS_PER_S, bare=found[1]))
    check(rows)
