"""Frames: the first says dialect and form, and none is larger than a message may be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from arcray.claw_proto import (
    Heartbeat,
    HeartbeatAck,
    InvalidMessageError,
    NodeCapabilities,
    NodeId,
    Ping,
    ProtoError,
    Register,
    SerializationError,
    Shutdown,
    Timestamp,
    UnknownMessageTypeError,
    ValidationError,
    WorkloadId,
    WorkloadLogs,
    original,
)
from arcray.claw_proto.frames import (
    MAX_MESSAGE_BYTES,
    AnyGatewayMessage,
    AnyNodeMessage,
    Dialect,
    Form,
    Opening,
    is_too_large,
    read_from_gateway,
    read_from_node,
    read_opening,
    write_to_gateway,
    write_to_node,
)

NODE = NodeId("550e8400-e29b-41d4-a716-446655440000")
AT = Timestamp.parse("2026-02-03T12:34:56.5Z")
REGISTER = Register(node_id=NODE, name="n", capabilities=NodeCapabilities(), protocol_version=1)
ORIGINAL = original.Register(
    node_id=NODE, name="n", capabilities=original.NodeCapabilities(cpu_cores=8), protocol_version=1
)


@pytest.mark.parametrize("form", Form)
def test_a_node_of_the_document_opens_in_any_form(form: Form) -> None:
    frame = write_to_gateway(REGISTER, form)
    assert isinstance(frame, bytes) == (form is Form.BINARY)
    assert read_opening(frame) == Opening(register=REGISTER, dialect=Dialect.DOCUMENT, form=form)


@pytest.mark.parametrize("form", [Form.INTERNAL, Form.EXTERNAL])
def test_what_a_node_has_says_that_it_is_of_the_first_implementation(form: Form) -> None:
    frame = write_to_gateway(ORIGINAL, form)
    assert read_opening(frame) == Opening(register=ORIGINAL, dialect=Dialect.ORIGINAL, form=form)


def test_who_has_what_both_have_is_of_the_document() -> None:
    document = json.loads(write_to_gateway(REGISTER, Form.INTERNAL))
    document["capabilities"]["memory_mib"] = 7
    assert read_opening(json.dumps(document)).dialect is Dialect.DOCUMENT


def test_who_has_neither_is_told_what_the_document_asks() -> None:
    document = json.loads(write_to_gateway(REGISTER, Form.INTERNAL)) | {"capabilities": {}}
    with pytest.raises(InvalidMessageError, match=r"capabilities\.total_vram_mb: is required"):
        read_opening(json.dumps(document))


@pytest.mark.parametrize(
    ("frame", "kind", "field"),
    [
        ('{"type":"nope"}', UnknownMessageTypeError, "type"),
        ('{"type":"hello","version":"0.1.0","protocol_version":1}', UnknownMessageTypeError, "type"),
        (write_to_gateway(Heartbeat(node_id=NODE, timestamp=AT), Form.INTERNAL), InvalidMessageError, "type"),
        (write_to_gateway(Heartbeat(node_id=NODE, timestamp=AT), Form.BINARY), InvalidMessageError, "type"),
        (b"garbage", UnknownMessageTypeError, "type"),
        (b"", SerializationError, "message"),
        ("", SerializationError, "message"),
        ('{"type":"register","capabilities":7}', InvalidMessageError, "node_id"),
        ('{"Register":7}', InvalidMessageError, "message"),
    ],
)
def test_what_is_no_registration_opens_nothing(frame: str | bytes, kind: type[ProtoError], field: str) -> None:
    with pytest.raises(ProtoError) as refusal:
        read_opening(frame)
    assert (type(refusal.value), refusal.value.field) == (kind, field)


@pytest.mark.parametrize("form", Form)
def test_a_frame_is_answered_in_the_form_that_it_came_in(form: Form) -> None:
    said: AnyNodeMessage = Heartbeat(node_id=NODE, timestamp=AT)
    message, came_in = read_from_node(write_to_gateway(said, form), Dialect.DOCUMENT)
    assert (message, came_in) == (said, form)
    answer: AnyGatewayMessage = HeartbeatAck(timestamp=AT)
    assert read_from_gateway(write_to_node(answer, came_in)) == (answer, form)


def test_the_dialect_of_a_frame_is_that_of_its_message() -> None:
    told = original.HeartbeatAck(server_time=AT)
    frame = write_to_node(told, Form.INTERNAL)
    assert frame == '{"type":"heartbeat_ack","server_time":"2026-02-03T12:34:56.500Z"}'
    assert read_from_gateway(frame, Dialect.ORIGINAL) == (told, Form.INTERNAL)
    with pytest.raises(InvalidMessageError, match="timestamp: is required"):
        read_from_gateway(frame)


def test_the_first_implementation_has_no_binary_frames() -> None:
    with pytest.raises(SerializationError, match="exists as text only"):
        write_to_node(original.RequestMetrics(), Form.BINARY)
    with pytest.raises(SerializationError, match="exists as text only"):
        write_to_gateway(ORIGINAL, Form.BINARY)
    with pytest.raises(InvalidMessageError, match="must be text"):
        read_from_node(write_to_gateway(Heartbeat(node_id=NODE, timestamp=AT), Form.BINARY), Dialect.ORIGINAL)


def test_what_the_document_adds_is_unknown_to_the_first_implementation() -> None:
    with pytest.raises(UnknownMessageTypeError):
        read_from_gateway(write_to_node(Ping(timestamp=AT), Form.INTERNAL), Dialect.ORIGINAL)


# -- limits ------------------------------------------------------------------------------------------------------------


def logs(line: str, number: int = 1) -> WorkloadLogs:
    return WorkloadLogs(workload_id=WorkloadId(NODE), lines=(line,) * number, is_stderr=False)


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("character", ["x", "é", "€", "😀"])
def test_a_message_has_at_most_a_mebibyte(form: Form, character: str) -> None:
    room = MAX_MESSAGE_BYTES - len(encoded(write_to_gateway(logs(""), form)))
    wide = len(character.encode())
    fits = logs(character * (room // wide) + "x" * (room % wide))
    frame = write_to_gateway(fits, form)
    assert len(encoded(frame)) == MAX_MESSAGE_BYTES
    assert read_from_node(frame, Dialect.DOCUMENT)[0] == fits
    with pytest.raises(SerializationError, match="has more than 1048576 bytes"):
        write_to_gateway(logs(fits.lines[0] + "x"), form)


def encoded(frame: str | bytes) -> bytes:
    return frame if isinstance(frame, bytes) else frame.encode()


@pytest.mark.parametrize("frame", ["x" * (MAX_MESSAGE_BYTES + 1), "é" * (MAX_MESSAGE_BYTES // 2 + 1), bytes(1 << 21)])
def test_a_frame_that_is_too_large_is_not_read(frame: str | bytes) -> None:
    assert is_too_large(frame)
    reads: list[Any] = [read_opening, read_from_gateway, lambda frame: read_from_node(frame, Dialect.DOCUMENT)]
    for read in reads:
        with pytest.raises(InvalidMessageError, match="message: has more than 1048576 bytes"):
            read(frame)


@pytest.mark.parametrize("form", Form)
def test_a_frame_of_too_many_lines_breaks_a_rule(form: Form) -> None:
    assert read_from_node(write_to_gateway(logs("", 10_000), form), Dialect.DOCUMENT)
    with pytest.raises(ValidationError, match="lines: must be at most 10000 lines"):
        read_from_node(write_to_gateway(logs("", 10_001), form), Dialect.DOCUMENT)


def test_a_side_does_not_send_what_the_other_says() -> None:
    told: Any = Shutdown(reason="", graceful=True)
    for form in Form:
        with pytest.raises(SerializationError):
            write_to_gateway(told, form)
