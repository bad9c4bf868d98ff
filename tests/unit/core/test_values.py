from __future__ import annotations

import pickle
from uuid import UUID

import pytest

from arcray.core import errors
from arcray.core.errors import ArcrayError, Code, InvalidArgumentError, NoCandidatesError
from arcray.core.ids import canonical_uuid, foreign_id
from arcray.core.lowering import features, lower, wanted
from arcray.core.model import ModelFormat
from arcray.core.node import DriverCapabilities
from arcray.core.policy import ClusterPolicy
from arcray.core.resources import Demand
from arcray.core.workload import ModelServer, Program
from arcray.testing.builders import a_container, a_model, an_inference

ERRORS = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]


def test_every_code_has_an_error_that_carries_it() -> None:
    assert {error.code for error in ERRORS} == set(Code)


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_says_its_docstring_when_it_is_told_nothing(error: type[ArcrayError]) -> None:
    assert error().message == (error.__doc__ or "").splitlines()[0]


def test_an_error_survives_pickling_with_field_and_details() -> None:
    sent = NoCandidatesError("full", field="demand.gpus", details={"nodes": 3})
    received = pickle.loads(pickle.dumps(sent))
    assert type(received) is NoCandidatesError
    assert (received.message, received.field, received.details) == ("full", "demand.gpus", {"nodes": 3})
    assert str(received) == "demand.gpus: full"


@pytest.mark.parametrize(
    "text",
    [
        "550E8400-E29B-41D4-A716-446655440000",
        "550e8400e29b41d4a716446655440000",
        "{550e8400-e29b-41d4-a716-446655440000}",
        "urn:uuid:550e8400-e29b-41d4-a716-446655440000",
    ],
)
def test_every_spelling_of_a_uuid_becomes_the_canonical_one(text: str) -> None:
    assert canonical_uuid(text) == "550e8400-e29b-41d4-a716-446655440000"


@pytest.mark.parametrize("text", ["", "worker-001", "550e8400"])
def test_what_is_no_uuid_is_refused_by_the_name_of_its_field(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        canonical_uuid(text, "nodeId")
    assert refused.value.field == "nodeId"


def test_a_foreign_name_becomes_the_same_version_5_uuid_every_time_and_differs_by_facade() -> None:
    assert foreign_id("hivemind", "worker-001") == foreign_id("hivemind", "worker-001")
    assert foreign_id("hivemind", "worker-001") != foreign_id("pool", "worker-001")
    assert UUID(foreign_id("pool", "worker-001")).version == 5


def test_a_foreign_uuid_stays_itself() -> None:
    assert foreign_id("claw", "550E8400-e29b-41d4-a716-446655440000") == "550e8400-e29b-41d4-a716-446655440000"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"cpu_milli": -1}, "demand.cpu"),
        ({"memory_bytes": -1}, "demand.memory"),
        ({"memory_bytes": 2**53}, "demand.memory"),
        ({"gpus": 65}, "demand.gpus"),
        ({"gpus": 1, "gpu_memory_bytes": 0}, "demand.gpuMemory"),
        ({"gpu_memory_bytes": 1}, "demand.gpuMemory"),
    ],
)
def test_an_impossible_demand_is_refused_by_the_name_of_its_field(fields: dict[str, int], named: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        Demand(**fields)
    assert refused.value.field == named


def test_a_node_that_offers_what_a_payload_wants_runs_it_unchanged() -> None:
    capabilities = DriverCapabilities(containers=True)
    payload = a_container()
    assert wanted(payload) & features(capabilities)
    assert lower(payload, capabilities) is payload


def test_a_program_runs_where_containers_and_a_runner_image_are() -> None:
    program = Program(blob="programs/x.py")
    assert lower(program, DriverCapabilities(containers=True, runner_image="python:3")) is program


def test_a_program_is_refused_where_there_is_no_runner_image() -> None:
    with pytest.raises(errors.UnsupportedError, match="program"):
        lower(Program(blob="programs/x.py"), DriverCapabilities(containers=True))


def test_a_model_goes_only_where_its_format_is_loaded() -> None:
    server = ModelServer(model=a_model(format=ModelFormat.ONNX, source="models/x.onnx"))
    assert not wanted(server) & features(DriverCapabilities(models=frozenset({ModelFormat.PYTHON})))
    assert wanted(server) & features(DriverCapabilities(models=frozenset({ModelFormat.ONNX})))


def test_an_inference_request_goes_only_to_nodes_that_answer() -> None:
    assert not wanted(an_inference()) & features(DriverCapabilities(containers=True, programs=True))


def test_restart_waits_double_up_to_their_bound() -> None:
    policy = ClusterPolicy()
    waits = [policy.backoff(restarts).total_seconds() for restarts in (0, 1, 2, 8, 9, 10_000)]
    assert waits == [1, 2, 4, 256, 300, 300]
