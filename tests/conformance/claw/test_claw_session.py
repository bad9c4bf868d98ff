"""A claw connection without a socket: golden frames in and out. Numbers are cases of the protocol notes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from arcray import claw_proto as claw
from arcray.claw_proto import WorkloadState, original
from arcray.claw_proto.frames import MAX_MESSAGE_BYTES, Dialect, Form, Frame, read_from_gateway, write_to_gateway
from arcray.core.commands import Running
from arcray.core.ids import WorkloadId
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.resources import Allocation, Demand
from arcray.core.workload import Container, Payload, Phase, PortMapping
from arcray.facades.claw.replies import wire_id
from arcray.facades.claw.session import (
    Action,
    Beat,
    ClawSession,
    Close,
    Join,
    Latency,
    Refused,
    Rejected,
    Send,
    Terms,
    Told,
    Wrote,
)
from tests.conformance.claw.claw_rig import AT, ID

NOW: Final = datetime(2026, 2, 3, 12, 34, 56, tzinfo=UTC)
WORK: Final = WorkloadId("7c9e6679-7425-40de-944b-e07fc1f90ae7")
DOING: Final = Running(workload_id=WORK, attempt=1)
NAME: Final = claw.WorkloadId(WORK)
S: Final = WorkloadState

ORIGINAL_REGISTER: Final = (
    '{"type":"register","node_id":"550e8400-e29b-41d4-a716-446655440000","name":"gpu-1","capabilities":{"gpus":[],'
    '"memory_mib":16384,"cpu_cores":8,"runtimes":[]},"protocol_version":1,"wireguard_public_key":null,'
    '"wireguard_endpoint":null}'
)
DEFAULT: Final = '{"total_vram_mb":0,"gpu_count":0,"gpus":[],"max_concurrent_workloads":4,"supported_runtimes":[]}'
INTERNAL_REGISTER: Final = (
    f'{{"type":"register","node_id":"{ID}","name":"n1","capabilities":{DEFAULT},"protocol_version":1}}'
)
EXTERNAL_REGISTER: Final = (
    f'{{"Register":{{"node_id":"{ID}","name":"n1","capabilities":{DEFAULT},"protocol_version":1}}}}'
)
BINARY_REGISTER: Final = bytes.fromhex(
    "00000000 1000000000000000 550e8400e29b41d4a716446655440000 0200000000000000 6e31"
    "0000000000000000 00000000 0000000000000000 00000000 0000000000000000 01000000"
)
TIME: Final = "1400000000000000 323032362d30322d30335431323a33343a35365a"
DEPLOY: Final = (
    f'{{"type":"deploy_workload","workload":{{"id":"{WORK}","name":"web","spec":{{"image":"nginx","command":null,'
    '"args":null,"env":[],"gpu_count":0,"gpu_memory_mb":null,"cpu_millicores":null,"memory_mb":null,"ports":[],'
    '"volumes":[],"restart_policy":"no"},"status":{"state":"pending","started_at":null,"finished_at":null,'
    '"exit_code":null,"gpu_ids":[]},"created_at":"2026-02-03T12:34:56Z","updated_at":"2026-02-03T12:34:56Z"}}'
)
START: Final = (
    f'{{"type":"start_workload","workload_id":"{WORK}","spec":{{"image":"nginx","command":[],"env":{{}},'
    '"gpu_count":0,"memory_mb":512,"cpu_cores":1}}'
)


def a_session() -> ClawSession:
    return ClawSession(Terms(heartbeat_s=30, metrics_s=10))


def frames(actions: Sequence[Action]) -> list[Frame]:
    return [action.frame for action in actions if isinstance(action, Send)]


def registered(frame: Frame = INTERNAL_REGISTER) -> ClawSession:
    session = a_session()
    (join,) = session.receive(frame, NOW)
    assert isinstance(join, Join)
    session.welcome()
    return session


def said(session: ClawSession, message: Any, form: Form = Form.INTERNAL) -> Sequence[Action]:
    return session.receive(write_to_gateway(message, form), NOW)


def updated(session: ClawSession, state: WorkloadState, name: claw.WorkloadId = NAME) -> Sequence[Action]:
    if session.dialect is Dialect.ORIGINAL:
        word = original.WorkloadState(state.value)
        return said(session, original.WorkloadUpdate(workload_id=name, state=word, timestamp=AT))
    return said(session, claw.WorkloadUpdate(workload_id=name, state=state, timestamp=AT))


def a_start(payload: Payload | None = None, attempt: int = 1) -> StartWorkload:
    return StartWorkload(
        workload_id=WORK,
        attempt=attempt,
        payload=payload or Container(image="nginx"),  # type: ignore[arg-type]  # what is given is a payload of an order
        demand=Demand(),
        allocation=Allocation(),
        owner="o",
        name="web",
    )


def a_stop(grace_s: float = 10.0) -> StopAttempt:
    return StopAttempt(workload_id=WORK, attempt=1, grace_s=grace_s)


@pytest.mark.parametrize(
    ("register", "answer"),
    [
        pytest.param(
            ORIGINAL_REGISTER,
            '{"type":"registered","node_id":"550e8400-e29b-41d4-a716-446655440000","heartbeat_interval_secs":30,'
            '"metrics_interval_secs":10}',
            id="case 1: the first implementation",
        ),
        pytest.param(
            INTERNAL_REGISTER,
            '{"type":"registered","heartbeat_interval_secs":30,"metrics_interval_secs":10,"config":null}',
            id="the document, internal",
        ),
        pytest.param(
            EXTERNAL_REGISTER,
            '{"Registered":{"heartbeat_interval_secs":30,"metrics_interval_secs":10,"config":null}}',
            id="the document, external",
        ),
        pytest.param(BINARY_REGISTER, bytes.fromhex("00000000 1e000000 0a000000 00"), id="the document, binary"),
    ],
)
def test_registration_is_answered_in_its_dialect_and_form(register: Frame, answer: Frame) -> None:
    session = a_session()
    (join,) = session.receive(register, NOW)
    assert isinstance(join, Join)
    assert (join.registration.id, join.registration.facade) == (ID, "claw")
    assert session.welcome() == (Send(answer),)
    assert session.welcome() == ()


@pytest.mark.parametrize(
    ("register", "heartbeat", "answer"),
    [
        (
            ORIGINAL_REGISTER,
            f'{{"type":"heartbeat","node_id":"{ID}","timestamp":"2026-02-03T12:34:56Z"}}',
            '{"type":"heartbeat_ack","server_time":"2026-02-03T12:34:56Z"}',
        ),
        (
            INTERNAL_REGISTER,
            f'{{"Heartbeat":{{"node_id":"{ID}","timestamp":"2026-02-03T14:34:56+02:00"}}}}',
            '{"HeartbeatAck":{"timestamp":"2026-02-03T12:34:56Z"}}',
        ),
        (
            BINARY_REGISTER,
            f'{{"type":"heartbeat","node_id":"{ID.upper()}","timestamp":"2026-02-03T12:34:56Z"}}',
            bytes.fromhex(f"01000000 {TIME}"),
        ),
        (
            EXTERNAL_REGISTER,
            bytes.fromhex(f"01000000 1000000000000000 550e8400e29b41d4a716446655440000 {TIME}"),
            bytes.fromhex(f"01000000 {TIME}"),
        ),
    ],
)
def test_case_3_heartbeat_is_acknowledged_in_its_form(register: Frame, heartbeat: Frame, answer: Frame) -> None:
    assert registered(register).receive(heartbeat, NOW) == (Send(answer), Beat())


@pytest.mark.parametrize(
    "frame",
    ['{"type":"nope"}', "", "{", b"\xff\xff", b"", "[]", INTERNAL_REGISTER[:-1], '{"type":"heartbeat"}'],
)
def test_case_5_what_begins_otherwise_ends_the_connection(frame: Frame) -> None:
    refused, close = a_session().receive(frame, NOW)
    assert isinstance(refused, Refused)
    assert isinstance(close, Close)
    assert close.code == 1002


def test_case_7_id_is_told_in_lower_case() -> None:
    session = a_session()
    session.receive(ORIGINAL_REGISTER.replace(ID, ID.upper()), NOW)
    (answer,) = frames(session.welcome())
    assert f'"node_id":"{ID}"' in str(answer)


def test_case_9_message_may_be_absent_and_state_may_not() -> None:
    session = registered()
    session.deliver(a_start(), NOW)
    update = (
        f'{{"type":"workload_update","workload_id":"{WORK}","state":"starting","timestamp":"2026-02-03T12:34:56Z"}}'
    )
    (refused,) = session.receive(update.replace('"state":"starting",', ""), NOW)
    assert isinstance(refused, Refused)
    assert refused.error.field == "state"
    assert session.receive(update, NOW) == (Told(DOING, S.STARTING),)


@pytest.mark.parametrize("form", [INTERNAL_REGISTER, EXTERNAL_REGISTER])
def test_case_17_message_that_is_too_large_is_let_pass_three_times(form: str) -> None:
    session = registered(form)
    large = " " * (MAX_MESSAGE_BYTES + 1)
    for _ in range(3):
        (refused,) = session.receive(large, NOW)
        assert isinstance(refused, Refused)
    *_, close = session.receive(large, NOW)
    assert isinstance(close, Close)
    assert close.code == 1009


def test_case_23_document_closes_on_another_version_without_a_frame() -> None:
    actions = a_session().receive(INTERNAL_REGISTER.replace('"protocol_version":1', '"protocol_version":2'), NOW)
    assert frames(actions) == []
    assert actions[-1] == Close(1002, "protocol_version: must be 1, got 2")


def test_case_23_first_implementation_is_told_of_another_version() -> None:
    actions = a_session().receive(ORIGINAL_REGISTER.replace('"protocol_version":1', '"protocol_version":2'), NOW)
    assert frames(actions) == ['{"type":"error","code":1008,"message":"protocol_version: must be 1, got 2"}']
    assert actions[-1] == Close(1002, "protocol_version: must be 1, got 2")


def test_a_node_that_registers_again_tells_of_itself_anew() -> None:
    session = registered()
    (join,) = session.receive(INTERNAL_REGISTER.replace('"name":"n1"', '"name":"n2"'), NOW)
    assert isinstance(join, Join)
    assert join.registration.name == "n2"
    assert len(frames(session.welcome())) == 1


def test_a_connection_is_of_one_node() -> None:
    other = ID.replace("5", "6")
    session = registered(ORIGINAL_REGISTER)
    for frame in (
        ORIGINAL_REGISTER.replace(ID, other),
        f'{{"type":"heartbeat","node_id":"{other}","timestamp":"2026-02-03T12:34:56Z"}}',
        f'{{"type":"metrics","node_id":"{other}","gpu_metrics":[],"timestamp":"2026-02-03T12:34:56Z"}}',
    ):
        refused, answer = session.receive(frame, NOW)
        assert isinstance(refused, Refused)
        assert '"code":1001' in str(frames([answer]))


@pytest.mark.parametrize("frame", ['{"type":"mesh_ready"}', "{", b"\x09\0\0\0", '{"type":"heartbeat"}'])
def test_a_frame_that_is_wrong_later_changes_nothing(frame: Frame) -> None:
    (refused,) = registered().receive(frame, NOW)
    assert isinstance(refused, Refused)
    told = registered(ORIGINAL_REGISTER).receive(frame, NOW)
    assert '"code":1003' in str(frames(told))
    assert not any(isinstance(action, Close) for action in told)


@pytest.mark.parametrize(
    ("register", "frame"),
    [
        (
            INTERNAL_REGISTER,
            DEPLOY,
        ),
        (
            ORIGINAL_REGISTER,
            START,
        ),
    ],
)
def test_order_is_told_in_the_words_of_the_node_once(register: Frame, frame: str) -> None:
    session = registered(register)
    assert session.deliver(a_start(), NOW) == (Send(frame),)
    assert session.deliver(a_start(), NOW) == ()


@pytest.mark.parametrize(
    ("register", "grace_s", "frame"),
    [
        (INTERNAL_REGISTER, 10.0, f'{{"type":"stop_workload","workload_id":"{WORK}","force":false}}'),
        (EXTERNAL_REGISTER, 0.0, f'{{"StopWorkload":{{"workload_id":"{WORK}","force":true}}}}'),
        (ORIGINAL_REGISTER, 9.5, f'{{"type":"stop_workload","workload_id":"{WORK}","grace_period_secs":10}}'),
        (
            BINARY_REGISTER,
            0.0,
            bytes.fromhex("03000000 1000000000000000 7c9e6679742540de944be07fc1f90ae7 01"),
        ),
    ],
)
def test_stop_is_told_in_the_words_of_the_node(register: Frame, grace_s: float, frame: Frame) -> None:
    session = registered(register)
    session.deliver(a_start(), NOW)
    assert session.deliver(a_stop(grace_s), NOW) == (Send(frame),)


def test_stop_of_what_is_not_there_is_done() -> None:
    assert registered().deliver(a_stop(), NOW) == (Told(DOING, S.STOPPED, "was not on its node"),)


def test_what_the_wire_cannot_say_goes_elsewhere() -> None:
    session = registered(ORIGINAL_REGISTER)
    (rejected,) = session.deliver(a_start(Container(image="i", ports=(PortMapping(container_port=80),))), NOW)
    assert isinstance(rejected, Rejected)
    assert rejected.error.field == "ports"
    assert len(session) == 0


def test_first_implementation_runs_and_stops() -> None:
    session = registered(ORIGINAL_REGISTER)
    session.deliver(a_start(), NOW)
    assert updated(session, S.RUNNING) == (Told(DOING, S.RUNNING),)
    session.deliver(a_stop(), NOW)
    assert updated(session, S.STOPPED) == (Told(DOING, S.STOPPED),)


def test_a_step_that_the_table_does_not_have_is_refused() -> None:
    session = registered()
    session.deliver(a_start(), NOW)
    (refused,) = updated(session, S.COMPLETED)
    assert isinstance(refused, Refused)
    assert str(refused.error) == "state: pending does not lead to completed"
    assert session.inventory() == (DOING,)


def test_what_nobody_wants_is_ended() -> None:
    _, fence = updated(registered(), S.RUNNING)
    assert fence == Send(f'{{"type":"stop_workload","workload_id":"{WORK}","force":true}}')


def test_an_end_of_what_nobody_knows_is_only_refused() -> None:
    (refused,) = updated(registered(), S.STOPPED)
    assert isinstance(refused, Refused)


def test_logs_are_of_work_that_it_has_or_has_just_ended() -> None:
    session = registered()
    logs = claw.WorkloadLogs(workload_id=NAME, lines=("a", "bc"), is_stderr=True)
    (refused,) = said(session, logs)
    assert isinstance(refused, Refused)
    session.deliver(a_start(), NOW)
    assert said(session, logs) == (Wrote(DOING, b"a\nbc\n"),)
    updated(session, S.FAILED)
    assert said(session, logs) == (Wrote(DOING, b"a\nbc\n"),)


def test_more_lines_than_a_message_may_have_are_refused() -> None:
    session = registered()
    session.deliver(a_start(), NOW)
    (refused,) = said(session, claw.WorkloadLogs(workload_id=NAME, lines=("",) * 10_001, is_stderr=False))
    assert isinstance(refused, Refused)
    assert refused.error.field == "lines"


def test_reading_is_a_sign_of_life() -> None:
    metrics = claw.Metrics(node_id=claw.NodeId(ID), gpu_metrics=(), timestamp=AT)
    (beat,) = said(registered(), metrics)
    assert isinstance(beat, Beat)
    assert beat.telemetry is not None
    assert beat.telemetry.at == NOW


def test_ping_is_measured_by_the_heartbeat_that_answers_it() -> None:
    session = registered()
    assert session.ping(NOW) == (Send('{"type":"ping","timestamp":"2026-02-03T12:34:56Z"}'),)
    assert session.ping(NOW) == ()
    beat = write_to_gateway(claw.Heartbeat(node_id=claw.NodeId(ID), timestamp=AT), Form.INTERNAL)
    *_, latency = session.receive(beat, NOW + timedelta(milliseconds=250))
    assert latency == Latency(0.25)
    assert registered(ORIGINAL_REGISTER).ping(NOW) == ()


def test_configuration_is_part_of_the_welcome_or_told_when_it_changes() -> None:
    config = claw.NodeConfig(log_level="debug")
    session = a_session()
    session.receive(BINARY_REGISTER, NOW)
    assert session.configure(config) == ()
    welcome = "00000000 1e000000 0a000000 01 00 00 00 01 0500000000000000 6465627567"
    assert session.welcome() == (Send(bytes.fromhex(welcome)),)
    assert session.configure(config) == ()
    assert session.configure(claw.NodeConfig(heartbeat_interval_secs=5)) == (
        Send(bytes.fromhex("05000000 01 05000000 00 00 00")),
    )


def test_what_is_not_wanted_of_a_node_any_more_is_as_it_was_before() -> None:
    session = registered()
    session.configure(claw.NodeConfig(heartbeat_interval_secs=5, max_concurrent_workloads=1, log_level="debug"))
    (told,) = frames(session.configure(claw.NodeConfig(metrics_interval_secs=7)))
    assert read_from_gateway(told)[0] == claw.UpdateConfig(
        config=claw.NodeConfig(heartbeat_interval_secs=30, metrics_interval_secs=7, max_concurrent_workloads=4)
    )
    (told,) = frames(session.configure(None))
    assert read_from_gateway(told)[0] == claw.UpdateConfig(config=claw.NodeConfig(metrics_interval_secs=10))
    assert session.configure(None) == ()


def test_first_implementation_is_told_its_configuration_after_the_welcome() -> None:
    session = a_session()
    session.receive(ORIGINAL_REGISTER, NOW)
    session.configure(claw.NodeConfig(metrics_interval_secs=5))
    assert len(frames(session.welcome())) == 2


def test_document_has_a_word_for_leaving_and_the_first_implementation_is_hung_up_on() -> None:
    (told,) = registered(BINARY_REGISTER).shut_down("x", graceful=True)
    assert told == Send(bytes.fromhex("07000000 0100000000000000 78 01"))
    (close,) = registered(ORIGINAL_REGISTER).shut_down("x", graceful=True)
    assert close == Close(1008, "x")


@pytest.mark.parametrize("register", [INTERNAL_REGISTER, ORIGINAL_REGISTER])
def test_what_was_fenced_is_not_there_any_more_once_it_has_stopped(register: str) -> None:
    session = registered(register)
    session.deliver(a_start(), NOW)
    if register is INTERNAL_REGISTER:
        updated(session, S.STARTING)
    updated(session, S.RUNNING)
    session.fence(DOING)
    assert updated(session, S.STOPPED) == (Told(DOING, S.STOPPED),)
    assert session.inventory() == ()


OTHER: Final = Running(workload_id=WorkloadId(ID), attempt=2)


def test_a_node_that_comes_back_is_asked_what_it_still_has() -> None:
    session = registered(BINARY_REGISTER)
    questions = session.recall([(DOING, Phase.RUNNING), (OTHER, Phase.PLACED)])
    assert frames(questions)[0] == bytes.fromhex("04000000 1000000000000000 7c9e6679742540de944be07fc1f90ae7")
    assert session.unanswered == 2
    assert updated(session, S.RUNNING) == (Told(DOING, S.RUNNING),)
    found, fences = session.recalled()
    assert found == [DOING]
    told, _ = read_from_gateway(frames(fences)[0])
    assert told == claw.StopWorkload(workload_id=wire_id(OTHER.workload_id, 2), force=True)
    assert session.inventory() == (DOING,)


def test_what_has_ended_while_it_was_away_is_told_and_counts_as_had() -> None:
    session = registered()
    session.recall([(DOING, Phase.RUNNING)])
    assert updated(session, S.COMPLETED) == (Told(DOING, S.COMPLETED),)
    assert session.recalled() == ([DOING], [])
    assert session.inventory() == ()


def test_first_implementation_is_taken_to_have_what_has_begun() -> None:
    session = registered(ORIGINAL_REGISTER)
    told = session.recall([(DOING, Phase.RUNNING), (OTHER, Phase.PLACED)])
    assert frames(told) == [
        f'{{"type":"stop_workload","workload_id":"{wire_id(OTHER.workload_id, 2)}","grace_period_secs":0}}'
    ]
    assert session.recalled() == ([DOING], [])
    assert updated(session, S.COMPLETED) == (Told(DOING, S.COMPLETED),)
