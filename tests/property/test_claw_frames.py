"""Whatever claw-proto can say comes back as it was, in every encoding; and whatever comes in is said or refused.

Bytes at random are refused at their first field. So frames are mostly made from whole ones: bits and bytes changed, cut
off, repeated, put together of two; in text, values replaced by others that JSON has.
"""

from __future__ import annotations

import json
import random
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arcray.claw_proto import codec, events, messages, original, types
from arcray.claw_proto.codec import Codec, MessageCodec, codec_of
from arcray.claw_proto.errors import ProtoError
from arcray.claw_proto.frames import (
    MAX_MESSAGE_BYTES,
    Dialect,
    Frame,
    read_from_gateway,
    read_from_node,
    read_opening,
    write_to_gateway,
    write_to_node,
)
from arcray.claw_proto.shapes import Record, shape_of
from arcray.claw_proto.tagging import Tagging
from tests.claw_values import values_of
from tests.rounds import LookedAt

TYPES: Final[list[Any]] = [
    *(getattr(types, name) for name in types.__all__),
    *(getattr(events, name) for name in events.__all__),
    *(
        getattr(original, name)
        for name in original.__all__
        if name not in ("ErrorCode", "NodeMessage", "GatewayMessage")
    ),
]
SIDES: Final[dict[str, tuple[MessageCodec[Any], Any]]] = {
    "node": (codec.NODE_MESSAGE, messages.NodeMessage),
    "gateway": (codec.GATEWAY_MESSAGE, messages.GatewayMessage),
    "original node": (codec.ORIGINAL_NODE_MESSAGE, original.NodeMessage),
    "original gateway": (codec.ORIGINAL_GATEWAY_MESSAGE, original.GatewayMessage),
}
MESSAGES: Final = [(side, kind) for side, (_, declared) in SIDES.items() for kind in get_args(declared)]


def test_every_message_is_looked_at() -> None:
    assert {kind for _, kind in MESSAGES} == {
        getattr(module, name)
        for module in (messages, original)
        for name in module.__all__
        if isinstance(getattr(module, name), type)
        and any(getattr(module, name) in each.kinds for each, _ in SIDES.values())
    }
    assert len(MESSAGES) == 5 + 8 + 5 + 8


@pytest.mark.parametrize("declared", TYPES, ids=[getattr(each, "__name__", str(each)) for each in TYPES])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_every_type_comes_back_as_it_was(declared: Any, data: st.DataObject) -> None:
    value, of = data.draw(values_of(declared)), Codec[Any](declared)
    for tagging in Tagging:
        assert of.from_json(of.to_json(value, tagging)) == value
    assert of.from_bincode(of.to_bincode(value)) == value
    assert of.to_bincode(of.from_json(of.to_json(value))) == of.to_bincode(value)


@pytest.mark.parametrize(("side", "kind"), MESSAGES, ids=[f"{side} {kind.__name__}" for side, kind in MESSAGES])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_every_message_comes_back_as_it_was(side: str, kind: Any, data: st.DataObject) -> None:
    value, of = data.draw(values_of(kind)), SIDES[side][0]
    for tagging in Tagging:
        text = of.to_json(value, tagging)
        assert of.from_json(text) == value
        assert of.from_json(json.dumps(json.loads(text), indent=1)) == value
    assert of.from_bincode(of.to_bincode(value) + b"\0") == value


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values_of(messages.NodeMessage), st.binary(max_size=3))
def test_bytes_that_are_read_are_written_again_as_they_were(message: messages.NodeMessage, tail: bytes) -> None:
    data = codec.NODE_MESSAGE.to_bincode(message)
    for end in range(0, len(data), 7):
        with pytest.raises(ProtoError):
            codec.NODE_MESSAGE.from_bincode(data[:end])
    assert codec.NODE_MESSAGE.to_bincode(codec.NODE_MESSAGE.from_bincode(data + tail)) == data


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["running", "No"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("declared", TYPES, ids=[getattr(each, "__name__", str(each)) for each in TYPES])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_nothing_but_a_value_of_a_type_is_read_as_one(declared: Any, data: st.DataObject) -> None:
    of = Codec[Any](declared)
    document = json.loads(of.to_json(data.draw(values_of(declared))))
    if isinstance(document, dict) and document:
        document[data.draw(st.sampled_from(sorted(document)))] = data.draw(JSON)
    else:
        document = data.draw(JSON)
    for found in (
        outcome(of.from_json, json.dumps(document)),
        outcome(of.from_bincode, data.draw(st.binary(max_size=64))),
    ):
        if isinstance(found, ProtoError):
            assert found.field
        else:
            assert of.from_bincode(of.to_bincode(found)) == found


@given(st.data())
def test_what_is_no_value_is_not_written(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([kind for kind in TYPES if isinstance(kind, type) and hasattr(kind, "__slots__")]))
    names = [member.name for member in shape.members] if isinstance(shape := shape_of(kind), Record) else []
    if not names:
        return
    value = data.draw(values_of(kind))
    odd = replace(value, **{data.draw(st.sampled_from(names)): data.draw(JSON | st.binary(max_size=2))})
    of = Codec[Any](kind)
    found = outcome(of.to_json, odd)
    packed = outcome(of.to_bincode, odd)
    assert isinstance(found, ProtoError) == isinstance(packed, ProtoError), odd
    assert isinstance(found, ProtoError) or of.from_json(found) == odd


# -- frames that were damaged ------------------------------------------------------------------------------------------

ID: Final = "550e8400-e29b-41d4-a716-446655440000"
AT: Final = "2026-02-03T12:34:56.123456789Z"
GPU: Final = {"index": 0, "name": "g", "vram_mb": 1, "compute_capability": "9.0", "driver_version": "1"}
READING: Final = {
    "index": 0, "utilization_percent": 75, "memory_used_mb": 1, "memory_total_mb": 2, "temperature_celsius": 65,
    "power_watts": 300,
}  # fmt: skip
SPEC: Final = {
    "image": "i", "command": ["a"], "args": None, "env": [["A", "b"]], "gpu_count": 1, "gpu_memory_mb": 1,
    "cpu_millicores": None, "memory_mb": 2, "ports": [80], "volumes": [{"source": "/a", "target": "/b"}],
    "restart_policy": {"on_failure": {"max_retries": 3}},
}  # fmt: skip
CAPABILITIES: Final = {
    "total_vram_mb": 1, "gpu_count": 1, "gpus": [GPU, GPU], "max_concurrent_workloads": 4,
    "supported_runtimes": ["docker"],
}  # fmt: skip
STATUS: Final = {"state": "pending", "started_at": None, "finished_at": AT, "exit_code": -1, "gpu_ids": [0, 1]}
WORKLOAD: Final = {"id": ID, "name": "w", "spec": SPEC, "status": STATUS, "created_at": AT, "updated_at": AT}
ORIGINALS: Final = {"gpus": [], "memory_mib": 16384, "cpu_cores": 8, "runtimes": [], "labels": {"a": "b"}}
ORIGINAL_READING: Final = {
    "index": 0, "utilization_percent": 75, "memory_used_mib": 1, "memory_total_mib": 2, "temperature_celsius": 65,
    "power_watts": 300.5,
}  # fmt: skip
CONFIG: Final = {"heartbeat_interval_secs": 5, "metrics_interval_secs": None, "log_level": "debug"}

NODE_WORDS: Final[list[dict[str, Any]]] = [
    {"type": "register", "node_id": ID, "name": "n", "capabilities": CAPABILITIES, "protocol_version": 1},
    {"type": "heartbeat", "node_id": ID, "timestamp": AT},
    {"type": "metrics", "node_id": ID, "gpu_metrics": [READING], "timestamp": AT},
    {"type": "workload_update", "workload_id": ID, "state": "running", "message": "m", "timestamp": AT},
    {"type": "workload_logs", "workload_id": ID, "lines": ["a", "é"], "is_stderr": True},
]
ORIGINAL_WORDS: Final[list[dict[str, Any]]] = [
    {"type": "register", "node_id": ID, "name": "n", "capabilities": ORIGINALS, "protocol_version": 1},
    {"type": "metrics", "node_id": ID, "gpu_metrics": [ORIGINAL_READING], "timestamp": AT},
]
GATEWAY_WORDS: Final[list[dict[str, Any]]] = [
    {"type": "registered", "heartbeat_interval_secs": 30, "metrics_interval_secs": 10, "config": CONFIG},
    {"type": "heartbeat_ack", "timestamp": AT},
    {"type": "deploy_workload", "workload": WORKLOAD},
    {"type": "stop_workload", "workload_id": ID, "force": True},
    {"type": "get_workload_status", "workload_id": ID},
    {"type": "update_config", "config": CONFIG},
    {"type": "ping", "timestamp": AT},
    {"type": "shutdown", "reason": "r", "graceful": False},
]
ODD: Final = [
    "null", "true", "0", "-1", "1.0", "1e999", "18446744073709551616", "9" * 400, "NaN", "Infinity", '""', '"\\ud800"',
    '"é"', "[]", "{}", "[[]]", '{"type":1}', '{"a":1,"a":2}', "[" * 70 + "]" * 70, '"' + "x" * 1000 + '"', '"running"',
    '"Running"', '"no"', '{"OnFailure":{"max_retries":0}}', "",
]  # fmt: skip
TOKEN: Final = re.compile(r'"[^"\\]*"|-?[0-9.]+|true|false|null|[\[\]{},:]')
READS: Final[list[Callable[[Frame], Any]]] = [
    read_opening,
    lambda frame: read_from_node(frame, Dialect.DOCUMENT),
    lambda frame: read_from_node(frame, Dialect.ORIGINAL),
    read_from_gateway,
    lambda frame: read_from_gateway(frame, Dialect.ORIGINAL),
]


SPOKEN: Final[list[tuple[MessageCodec[Any], str]]] = [
    (of, json.dumps(word, ensure_ascii=False))
    for of, words in (
        (codec.NODE_MESSAGE, NODE_WORDS),
        (codec.ORIGINAL_NODE_MESSAGE, ORIGINAL_WORDS),
        (codec.GATEWAY_MESSAGE, GATEWAY_WORDS),
    )
    for word in words
]
TEXTS: Final = [text for _, text in SPOKEN] + [of.to_json(of.from_json(text), Tagging.EXTERNAL) for of, text in SPOKEN]
BINARIES: Final = [of.to_bincode(of.from_json(text)) for of, text in SPOKEN if of is not codec.ORIGINAL_NODE_MESSAGE]


def damaged_text(chance: random.Random) -> str:
    """A frame in which tokens were replaced, dropped, repeated or taken from another."""
    tokens = TOKEN.findall(chance.choice(TEXTS))
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(tokens))
        match chance.randrange(5):
            case 0:
                tokens[at] = chance.choice(ODD)
            case 1:
                tokens[at : at + chance.randint(1, 4)] = []
            case 2:
                tokens[at:at] = tokens[at : at + chance.randint(1, 8)]
            case 3:
                tokens[at] = chance.choice(TOKEN.findall(chance.choice(TEXTS)))
            case _:
                tokens[at:] = TOKEN.findall(chance.choice(TEXTS))[at:]
        if not tokens:
            break
    text = "".join(tokens)
    return text if chance.randrange(8) else text[: chance.randint(0, len(text))]


def damaged_bytes(chance: random.Random) -> bytes:
    """A frame in which bytes were changed, dropped, repeated or taken from another; or any bytes."""
    if not chance.randrange(8):
        return chance.randbytes(chance.randint(0, 200))
    data = bytearray(chance.choice(BINARIES))
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(max(1, len(data)))
        match chance.randrange(6):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                data[at : at + 8] = chance.choice([b"\xff" * 8, bytes(8), (1 << 40).to_bytes(8, "little")])
            case 2:
                data[at:] = b""
            case 3:
                data[at:at] = data[at : at + chance.randint(1, 32)]
            case 4:
                data[at:] = chance.choice(BINARIES)[at:]
            case _:
                data[0:4] = chance.randrange(10).to_bytes(4, "little")
    return bytes(data)


FRAMES_A_ROUND: Final = 2_000


@pytest.mark.chaos
@pytest.mark.rounds(10, 100)
def test_no_frame_is_anything_but_a_message_or_a_refusal_that_names_a_field(seed: int, looked_at: LookedAt) -> None:
    """Takes half a second: 2,000 frames, each read in five ways, and written again where it was a message."""
    chance, taken = random.Random(seed), 0
    for _ in range(FRAMES_A_ROUND):
        frame: Frame = damaged_text(chance) if chance.randrange(2) else damaged_bytes(chance)
        for read in READS:
            found = outcome(read, frame)
            if isinstance(found, ProtoError):
                assert found.field, frame
                assert 0 < len(str(found).encode()) < 400, frame  # which half a surrogate pair could not be
            else:
                taken += 1
                assert_comes_back(found)
    assert taken  # damage that nothing survives would show little
    looked_at(claw_frames=FRAMES_A_ROUND, claw_messages_taken=taken)


def outcome(step: Callable[[Any], Any], of: Any) -> Any:
    try:
        return step(of)
    except ProtoError as refusal:
        return refusal


def assert_comes_back(found: Any) -> None:
    """What was taken is a message that can be sent, and comes back."""
    if not isinstance(found, tuple):
        assert read_opening(write_to_gateway(found.register, found.form)) == found
        return
    message, form = found
    dialect = Dialect.ORIGINAL if type(message).__module__ == original.__name__ else Dialect.DOCUMENT
    if type(message) in codec.NODE_MESSAGE.kinds | codec.ORIGINAL_NODE_MESSAGE.kinds:
        assert read_from_node(write_to_gateway(message, form), dialect) == (message, form)
    else:
        assert read_from_gateway(write_to_node(message, form), dialect) == (message, form)


# -- memory ------------------------------------------------------------------------------------------------------------

ROOM: Final = MAX_MESSAGE_BYTES - 400
HUGE: Final = (1 << 40).to_bytes(8, "little")
UUID: Final = bytes.fromhex("1000000000000000550e8400e29b41d4a716446655440000")
HOSTILE: Final[dict[str, Frame]] = {
    "lists": f'{{"type":"workload_logs","x":[{"[]," * (ROOM // 3)}0]}}',
    "objects": f'{{"type":"workload_logs","x":[{"{}," * (ROOM // 3)}0]}}',
    "names": '{"type":"x",' + ",".join(f'"{number:x}":0' for number in range(ROOM // 10)) + "}",
    "numbers": f'{{"type":"workload_logs","x":[{"0," * (ROOM // 2)}0]}}',
    "large numbers": f'{{"type":"workload_logs","x":[{(("9" * 4_000) + ",") * (ROOM // 4_001)}0]}}',
    "empty lines": f'{{"type":"workload_logs","workload_id":"{ID}","is_stderr":true,"lines":['
    + '"",' * (ROOM // 3)
    + '""]}',
    "depth": "[" * ROOM,
    "an unended string": '{"type":"' + '\\"' * (ROOM // 2),
    "lines that are not there": b"\4\0\0\0" + UUID + HUGE,
    "a line that is not there": b"\4\0\0\0" + UUID + b"\1" + bytes(7) + HUGE,
    "empty lines of bytes": b"\4\0\0\0" + UUID + (ROOM // 8 - 20).to_bytes(8, "little") + bytes(ROOM),
    "readings that are not there": b"\2\0\0\0" + UUID + HUGE + bytes(ROOM),
    "GPUs without names": b"\0\0\0\0" + UUID + bytes(8 + 12) + (ROOM // 40).to_bytes(8, "little") + bytes(ROOM),
}
MOST_BYTES: Final = 48 * MAX_MESSAGE_BYTES


@pytest.mark.parametrize("name", HOSTILE)
def test_a_frame_costs_memory_in_proportion_to_its_length(name: str) -> None:
    """Takes half a second: the allocator is watched."""
    frame = HOSTILE[name]
    assert len(frame) <= MAX_MESSAGE_BYTES
    tracemalloc.start()
    try:
        for read in READS[:2]:
            outcome(read, frame)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= MOST_BYTES, f"{peak / MAX_MESSAGE_BYTES:.1f} times the largest message"


def test_shapes_are_of_this_package_alone() -> None:
    for declared in (dict, int, list[int], Any, str | int, random.Random):
        with pytest.raises(TypeError, match="nothing on this wire looks like"):
            shape_of(declared)
    assert isinstance(shape_of(types.WorkloadSpec), Record)
    assert codec_of(types.WorkloadSpec) is codec_of(types.WorkloadSpec)
