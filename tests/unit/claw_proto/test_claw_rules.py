"""The document's rules, the table of states, the version."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from arcray.claw_proto import (
    InvalidMessageError,
    ProtoError,
    SerializationError,
    Timestamp,
    UnknownMessageTypeError,
    ValidationError,
    WorkloadId,
    WorkloadLogs,
    WorkloadSpec,
    WorkloadState,
    WorkloadStatus,
    advance,
    moved,
    original,
    validate_workload_spec,
)
from arcray.claw_proto.lifecycle import ORIGINAL_TRANSITIONS, TRANSITIONS
from arcray.claw_proto.validation import validate_node_message, validate_original_spec
from arcray.claw_proto.version import agree

GOOD = WorkloadSpec(image="nginx")
S = WorkloadState


def refusal_of(spec: WorkloadSpec) -> str:
    with pytest.raises(ValidationError) as refusal:
        validate_workload_spec(spec)
    return str(refusal.value)


def test_errors_are_of_the_documents_four_kinds() -> None:
    assert set(ProtoError.__subclasses__()) == {
        InvalidMessageError, ValidationError, SerializationError, UnknownMessageTypeError,
    }  # fmt: skip


def test_the_library_is_had_without_a_server() -> None:
    """Starts a Python of its own, which takes a quarter of a second."""
    heavy = {"fastapi", "starlette", "pydantic", "asyncio", "ray", "numpy"}
    script = f"import sys, arcray.claw_proto.frames; print({heavy} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", script], timeout=60, text=True) == "set()\n"


@pytest.mark.parametrize(
    "image",
    [
        "nginx", "nginx:latest", "python:3.11-slim", "docker.io/library/nginx:latest", "gcr.io/project/image:v1.0",
        "localhost:5000/myapp:latest", "nginx@sha256:abc123def456", "a/b@sha512:0",
    ],
)  # fmt: skip
def test_images_have_names(image: str) -> None:
    validate_workload_spec(replace(GOOD, image=image))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("", "must not be empty"),
        (" ", "must have no white space"),
        ("nginx latest", "must have no white space"),
        ("nginx\tlatest", "must have no white space"),
        ("nginx\u2003latest", "must have no white space"),
        (":latest", "must not begin with ':' or '@'"),
        ("@sha256:abc", "must not begin with ':' or '@'"),
        ("nginx:", "must not end with ':' or '/'"),
        ("nginx/", "must not end with ':' or '/'"),
        ("/", "must not end with ':' or '/'"),
        ("nginx@md5:abc123", "must have a digest that begins with 'sha256:' or 'sha512:'"),
        ("nginx@", "must have a digest that begins with 'sha256:' or 'sha512:'"),
    ],
)
def test_what_is_no_name_of_an_image_is_refused(image: str, reason: str) -> None:
    assert refusal_of(replace(GOOD, image=image)) == f"image: {reason}"


@pytest.mark.parametrize(
    ("field", "high"),
    [("gpu_count", 64), ("gpu_memory_mb", 1_048_576), ("cpu_millicores", 1_024_000), ("memory_mb", 4_194_304)],
)
def test_resources_have_limits(field: str, high: int) -> None:
    def with_value(value: int) -> WorkloadSpec:
        members: dict[str, Any] = {field: value}
        return replace(GOOD, **members)

    for value in (0, high):
        validate_workload_spec(with_value(value))
    for value in (-1, high + 1):
        assert refusal_of(with_value(value)) == f"{field}: must be between 0 and {high}, got {value}"


def test_ports_are_from_1_to_65535() -> None:
    validate_workload_spec(replace(GOOD, ports=(1, 65535)))
    for port in (0, 65536):
        assert refusal_of(replace(GOOD, ports=(80, port))) == (f"ports: must each be between 1 and 65535, got {port}")


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A.B", "A B", "Ä", "A=", "A\n"])
def test_names_of_variables_have_a_form(name: str) -> None:
    validate_workload_spec(replace(GOOD, env=(("PATH", "x"), ("_a1", ""))))
    assert refusal_of(replace(GOOD, env=(("A", "b"), (name, "v")))).startswith("env: must have names of letters")


def test_the_first_rule_that_is_broken_is_told() -> None:
    bad = WorkloadSpec(image="", gpu_count=65, memory_mb=2**63, ports=(0,), env=(("1", ""),))
    assert refusal_of(bad).startswith("image: ")
    assert refusal_of(replace(bad, image="i")).startswith("gpu_count: ")
    assert refusal_of(replace(bad, image="i", gpu_count=1)).startswith("memory_mb: ")
    assert refusal_of(replace(bad, image="i", gpu_count=1, memory_mb=1)).startswith("ports: ")
    assert refusal_of(replace(bad, image="i", gpu_count=1, memory_mb=1, ports=())).startswith("env: ")


@pytest.mark.parametrize(("field", "high"), [("memory_mb", 1_024_000), ("cpu_cores", 1024), ("gpu_count", 64)])
def test_the_first_implementation_has_limits_of_its_own(field: str, high: int) -> None:
    def with_value(value: int) -> original.WorkloadSpec:
        members: dict[str, Any] = {field: value}
        return replace(original.WorkloadSpec(image="nginx", env=(("A", "b"),)), **members)

    validate_original_spec(with_value(high))
    with pytest.raises(ValidationError) as refusal:
        validate_original_spec(with_value(high + 1))
    assert str(refusal.value) == f"{field}: must be between 0 and {high}, got {high + 1}"


@pytest.mark.parametrize("change", [{"image": ""}, {"env": (("1", ""),)}])
def test_its_images_and_variables_have_the_same_form(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        validate_original_spec(replace(original.WorkloadSpec(image="nginx"), **change))


def test_a_message_of_logs_has_at_most_10000_lines() -> None:
    logs = WorkloadLogs(workload_id=WorkloadId.new(), lines=("",) * 10_000, is_stderr=False)
    validate_node_message(logs)
    with pytest.raises(ValidationError, match="lines: must be at most 10000 lines, got 10001"):
        validate_node_message(replace(logs, lines=("",) * 10_001))


# -- states ------------------------------------------------------------------------------------------------------------

ALLOWED = {
    (S.PENDING, S.PENDING), (S.PENDING, S.PULLING), (S.PENDING, S.STARTING), (S.PENDING, S.STOPPED),
    (S.PENDING, S.FAILED),
    (S.PULLING, S.STARTING), (S.PULLING, S.STOPPING), (S.PULLING, S.STOPPED), (S.PULLING, S.FAILED),
    (S.STARTING, S.RUNNING), (S.STARTING, S.STOPPING), (S.STARTING, S.STOPPED), (S.STARTING, S.FAILED),
    (S.RUNNING, S.RUNNING), (S.RUNNING, S.STOPPING), (S.RUNNING, S.COMPLETED), (S.RUNNING, S.FAILED),
    (S.STOPPING, S.STOPPED), (S.STOPPING, S.FAILED),
}  # fmt: skip
ORIGINAL_ALLOWED = {
    (S.PENDING, S.PENDING), (S.PENDING, S.STARTING), (S.PENDING, S.STOPPED), (S.PENDING, S.FAILED),
    (S.STARTING, S.RUNNING), (S.STARTING, S.STOPPED), (S.STARTING, S.FAILED),
    (S.RUNNING, S.RUNNING), (S.RUNNING, S.STOPPING), (S.RUNNING, S.COMPLETED), (S.RUNNING, S.FAILED),
    (S.STOPPING, S.STOPPED), (S.STOPPING, S.FAILED),
}  # fmt: skip


@pytest.mark.parametrize(
    ("table", "allowed"),
    [(TRANSITIONS, ALLOWED), (ORIGINAL_TRANSITIONS, ORIGINAL_ALLOWED)],
    ids=["document", "original"],
)
def test_exactly_these_steps_are_allowed(table: Any, allowed: set[tuple[S, S]]) -> None:
    assert table.keys() == set(S)
    for state in S:
        for to in S:
            if (state, to) in allowed:
                assert advance(state, to, table) is to
            elif (state, to) != (S.STOPPING, S.COMPLETED):
                with pytest.raises(ValidationError) as refusal:
                    advance(state, to, table)
                assert str(refusal.value) == f"state: {state} does not lead to {to}"


def test_what_completes_while_it_is_stopped_has_stopped() -> None:
    assert advance(S.STOPPING, S.COMPLETED) is S.STOPPED


def test_ends_have_no_exits() -> None:
    for state in S:
        assert state.is_terminal == (not TRANSITIONS[state])


def test_a_status_tells_when_it_first_ran_and_when_it_ended() -> None:
    at = [Timestamp(datetime(2026, 2, 3, tzinfo=UTC) + timedelta(seconds=second)) for second in range(4)]
    status = moved(WorkloadStatus(), S.STARTING, at[0])
    assert (status.started_at, status.finished_at) == (None, None)
    status = moved(moved(status, S.RUNNING, at[1]), S.RUNNING, at[2])
    assert (status.state, status.started_at, status.finished_at) == (S.RUNNING, at[1], None)
    status = moved(status, S.COMPLETED, at[3], exit_code=0)
    assert (status.state, status.started_at, status.finished_at, status.exit_code) == (S.COMPLETED, at[1], at[3], 0)
    with pytest.raises(ValidationError):
        moved(status, S.RUNNING, at[3])


def test_only_version_1_is_agreed_on() -> None:
    assert agree(1) == 1
    for other in (0, 2, 2**32 - 1):
        with pytest.raises(ValidationError) as refusal:
            agree(other)
        assert str(refusal.value) == f"protocol_version: must be 1, got {other}"
