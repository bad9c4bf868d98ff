from __future__ import annotations

import pickle
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from arcray.core.commands import ReportEnd, Schedule, SubmitWorkload
from arcray.core.errors import NoCandidatesError
from arcray.core.events import WorkloadPlaced
from arcray.core.ports import EventBatch
from arcray.core.resources import Allocation, GpuShare
from arcray.core.workload import Phase, Result
from arcray.drivers.frames import decode, encode
from arcray.testing.builders import a_model, a_node, a_workload, an_inference, node_id

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = a_workload(payload=an_inference(input=b'{"x": [1, 2]}'), waiting=True)
VALUES = [
    SubmitWorkload(spec=SPEC),
    Schedule(),  # no fields
    EventBatch(events=()),
    a_node(labels={"zone": "a"}),
    a_model(env=(("A", "1"),)),
    ReportEnd(
        node_id=node_id(1), epoch=2, workload_id=SPEC.id, attempt=1, phase=Phase.FAILED, result=Result(exit_code=3)
    ),
    WorkloadPlaced(
        workload_id=SPEC.id,
        attempt=1,
        node_id=node_id(1),
        allocation=Allocation(cpu_milli=5, gpus=(GpuShare(index=0, memory_bytes=7, whole=False),)),
        durable=True,
        at=NOW,
    ),
]


@dataclass(frozen=True, slots=True)
class Derived(GpuShare):
    """A dataclass whose slots are not all its own."""

    extra: int = 0


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_comes_back_equal_and_of_its_own_type(value: object) -> None:
    back = decode(encode([value, value]))
    assert back == [value, value]
    assert type(back[0]) is type(value)
    assert back[0] is back[1]  # one value, sent once


def test_an_error_keeps_its_field_and_details() -> None:
    back = decode(encode(NoCandidatesError("none", field="demand", details={"nodes": 3})))
    assert (type(back), back.message, back.field, back.details) == (NoCandidatesError, "none", "demand", {"nodes": 3})


def test_a_class_that_has_no_short_cut_goes_the_usual_way() -> None:
    value = Derived(index=1, memory_bytes=2, whole=True, extra=3)
    assert decode(encode(value)) == value


def test_the_blob_is_ordinary_pickle() -> None:
    assert pickle.loads(encode(VALUES)) == VALUES
