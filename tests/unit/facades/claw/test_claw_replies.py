"""The same word in two dialects, attempts by ids of their own, reports and the audit log."""

from __future__ import annotations

from typing import Any

import pytest

from arcray import claw_proto as claw
from arcray.claw_proto import original
from arcray.claw_proto.frames import Dialect, Form, write_to_node
from arcray.core import events as ev
from arcray.core.commands import ReportEnd, ReportPhase, Running
from arcray.core.errors import ArcrayError, Code, InvalidArgumentError, NotFoundError, UnavailableError
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.resources import Allocation, Demand, GpuShare
from arcray.core.workload import Container, Phase, Result
from arcray.facades.claw import replies
from arcray.facades.claw.audit import audited
from arcray.facades.claw.refusals import CODES, error_of
from arcray.facades.claw.reports import PHASES, log_of, report_of, state_of
from arcray.testing.builders import T0, a_workload

ID = "550e8400-e29b-41d4-a716-446655440000"
NODE, WORK = claw.NodeId(ID), WorkloadId(ID)
AT = claw.Timestamp.of(T0)
GPUS = Allocation(gpus=(GpuShare(index=1, memory_bytes=0, whole=True), GpuShare(index=3, memory_bytes=0, whole=True)))


def order(attempt: int = 1) -> StartWorkload:
    return StartWorkload(
        workload_id=WORK,
        attempt=attempt,
        payload=Container(image="busybox"),
        demand=Demand(gpus=2),
        allocation=GPUS,
        owner="o",
        name="job",
    )


SAID: list[tuple[Any, Any, Any]] = [
    (
        lambda dialect: replies.registered(
            dialect, NODE, heartbeat_s=30, metrics_s=10, config=claw.NodeConfig(log_level="debug")
        ),
        claw.Registered(
            heartbeat_interval_secs=30, metrics_interval_secs=10, config=claw.NodeConfig(log_level="debug")
        ),
        original.Registered(node_id=NODE, heartbeat_interval_secs=30, metrics_interval_secs=10),
    ),
    (
        lambda dialect: replies.acknowledged(dialect, T0),
        claw.HeartbeatAck(timestamp=AT),
        original.HeartbeatAck(server_time=AT),
    ),
    (
        lambda dialect: replies.deployed(dialect, order(), T0),
        claw.DeployWorkload(
            workload=claw.Workload(
                id=claw.WorkloadId(ID),
                name="job",
                spec=claw.WorkloadSpec(image="busybox", gpu_count=2),
                status=claw.WorkloadStatus(gpu_ids=(1, 3)),
                created_at=AT,
                updated_at=AT,
            )
        ),
        original.StartWorkload(
            workload_id=claw.WorkloadId(ID), spec=original.WorkloadSpec(image="busybox", gpu_count=2)
        ),
    ),
    (
        lambda dialect: replies.stopped(dialect, StopAttempt(workload_id=WORK, attempt=1, grace_s=9.5)),
        claw.StopWorkload(workload_id=claw.WorkloadId(ID), force=False),
        original.StopWorkload(workload_id=claw.WorkloadId(ID), grace_period_secs=10),
    ),
    (
        lambda dialect: replies.stopped(dialect, StopAttempt(workload_id=WORK, attempt=1, grace_s=0.0)),
        claw.StopWorkload(workload_id=claw.WorkloadId(ID), force=True),
        original.StopWorkload(workload_id=claw.WorkloadId(ID), grace_period_secs=0),
    ),
    (
        lambda dialect: replies.configured(dialect, claw.NodeConfig(max_concurrent_workloads=2)),
        claw.UpdateConfig(config=claw.NodeConfig(max_concurrent_workloads=2)),
        original.ConfigUpdate(config=claw.NodeConfig(max_concurrent_workloads=2)),
    ),
    (
        lambda dialect: replies.status_asked(dialect, claw.WorkloadId(ID)),
        claw.GetWorkloadStatus(workload_id=claw.WorkloadId(ID)),
        None,
    ),
    (lambda dialect: replies.pinged(dialect, T0), claw.Ping(timestamp=AT), None),
    (
        lambda dialect: replies.shut_down(dialect, "bye", graceful=True),
        claw.Shutdown(reason="bye", graceful=True),
        None,
    ),
    (
        lambda dialect: replies.refused(dialect, NotFoundError("no such workload", field="workload_id")),
        None,
        original.Error(code=1002, message="workload_id: no such workload"),
    ),
]


@pytest.mark.parametrize(("say", "document", "first"), SAID)
def test_a_word_is_said_in_the_dialect_of_the_node(say: Any, document: Any, first: Any) -> None:
    assert say(Dialect.DOCUMENT) == document
    assert say(Dialect.ORIGINAL) == first
    for message in filter(None, (document, first)):
        assert write_to_node(message, Form.INTERNAL)


def test_another_attempt_is_another_workload_on_the_wire() -> None:
    first, second = replies.wire_id(WORK, 1), replies.wire_id(WORK, 2)
    assert str(first) == WORK
    assert len({first, second, replies.wire_id(WORK, 3)}) == 3
    assert second == replies.wire_id(WORK, 2)
    message = replies.deployed(Dialect.DOCUMENT, order(attempt=2), T0)
    assert isinstance(message, claw.DeployWorkload)
    assert message.workload.id == second


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_their_codes_are_total() -> None:
    assert CODES.keys() == set(Code)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFoundError(field="node_id"), 1001),
        (NotFoundError(field="nodeId"), 1001),
        (NotFoundError(), 1002),
        (InvalidArgumentError(field="state"), 1003),
        (claw.ValidationError("must be 1, got 2", field="protocol_version"), 1008),
        (UnavailableError(), 1006),
    ],
)
def test_a_refusal_has_their_code(error: ArcrayError, code: int) -> None:
    assert error_of(error) == original.Error(code=code, message=str(error))


# -- reports -----------------------------------------------------------------------------------------------------------

DOING = Running(workload_id=WORK, attempt=2)


def test_every_state_has_its_phase_or_says_nothing_new() -> None:
    assert PHASES.keys() == set(claw.WorkloadState)
    for state, phase in PHASES.items():
        found = report_of(state, "m", DOING, node_id=NodeId(ID), epoch=4)
        if phase is None:
            assert found is None
        else:
            assert isinstance(found, ReportEnd if phase.terminal else ReportPhase)
            assert (found.phase, found.attempt, found.epoch, found.message) == (phase, 2, 4, "m")
        assert state.is_terminal == (phase is not None and phase.terminal)


def test_states_of_both_dialects_are_the_same_words() -> None:
    for state in original.WorkloadState:
        update = original.WorkloadUpdate(workload_id=claw.WorkloadId(ID), state=state, timestamp=AT)
        assert state_of(update) is claw.WorkloadState(state.value)


def test_what_a_node_says_for_people_is_bounded_and_can_be_stored() -> None:
    found = report_of(claw.WorkloadState.FAILED, "\0" + "x" * 10_000, DOING, node_id=NodeId(ID), epoch=1)
    assert found is not None
    assert found.message == "\N{REPLACEMENT CHARACTER}" + "x" * 4095
    quiet = report_of(claw.WorkloadState.FAILED, None, DOING, node_id=NodeId(ID), epoch=1)
    assert quiet is not None
    assert quiet.message == ""


def test_lines_are_lines_of_a_log() -> None:
    assert log_of(["a", "é", ""]) == "a\né\n\n".encode()
    assert log_of([]) == b""


# -- the audit log -----------------------------------------------------------------------------------------------------


def finished(phase: Phase, message: str = "", result: Result | None = None) -> ev.WorkloadFinished:
    return ev.WorkloadFinished(
        workload_id=WORK,
        attempt=1,
        phase=phase,
        message=message,
        result=result,
        node_id=NodeId(ID),
        placed_at=T0,
        started_at=T0,
        at=T0,
    )


@pytest.mark.parametrize(
    ("event", "kind", "metadata"),
    [
        (
            ev.WorkloadSubmitted(spec=a_workload(id=WORK, name="job"), at=T0),
            claw.Created(),
            claw.EventMetadata(message="job"),
        ),
        (
            ev.WorkloadPlaced(workload_id=WORK, attempt=1, node_id=NodeId(ID), allocation=GPUS, durable=True, at=T0),
            claw.Scheduled(node_id=NODE),
            claw.EventMetadata(gpu_ids=(1, 3), node_id=ID),
        ),
        (
            ev.WorkloadPhaseChanged(workload_id=WORK, attempt=1, phase=Phase.RUNNING, durable=True, at=T0),
            claw.Started(),
            claw.EventMetadata(),
        ),
        (
            finished(Phase.SUCCEEDED, result=Result(exit_code=0)),
            claw.Completed(exit_code=0),
            claw.EventMetadata(exit_code=0, node_id=ID),
        ),
        (finished(Phase.SUCCEEDED), claw.Completed(exit_code=0), claw.EventMetadata(node_id=ID)),
        (
            finished(Phase.FAILED, "exit code 137", Result(exit_code=137)),
            claw.Failed(error="exit code 137"),
            claw.EventMetadata(message="exit code 137", exit_code=137, error="exit code 137", node_id=ID),
        ),
        (
            finished(Phase.REJECTED, "nothing fits"),
            claw.Failed(error="nothing fits"),
            claw.EventMetadata(message="nothing fits", error="nothing fits", node_id=ID),
        ),
        (
            finished(Phase.STOPPED, "stopped on request"),
            claw.Stopped(reason="stopped on request"),
            claw.EventMetadata(message="stopped on request", node_id=ID),
        ),
        (
            finished(Phase.STOPPED, "no such file: \udcff"),
            claw.Stopped(reason="no such file: ?"),
            claw.EventMetadata(message="no such file: ?", node_id=ID),
        ),
        (
            finished(Phase.FAILED, "x", Result(exit_code=2**40)),
            claw.Failed(error="x"),
            claw.EventMetadata(message="x", exit_code=2**31 - 1, error="x", node_id=ID),
        ),
    ],
)
def test_what_happens_to_a_workload_is_told(
    event: ev.Event, kind: claw.WorkloadEventKind, metadata: claw.EventMetadata
) -> None:
    told = audited(event)
    assert told == claw.WorkloadEvent(kind=kind, workload_id=claw.WorkloadId(ID), metadata=metadata, timestamp=AT)
    codec = claw.codec_of(claw.WorkloadEvent)
    assert codec.from_bincode(codec.to_bincode(told)) == codec.from_json(codec.to_json(told)) == told


def test_other_events_have_no_word() -> None:
    pulling = ev.WorkloadPhaseChanged(workload_id=WORK, attempt=1, phase=Phase.PULLING, durable=True, at=T0)
    detached = ev.NodeDetached(node_id=NodeId(ID), reason="", at=T0)
    assert audited(pulling) is None
    assert audited(detached) is None
