"""What is wrong with a text is said, and where; integers stay integers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from arcray.claw_proto import (
    GATEWAY_MESSAGE,
    NODE_MESSAGE,
    Heartbeat,
    InvalidMessageError,
    Metrics,
    NodeCapabilities,
    NodeConfig,
    NodeId,
    SerializationError,
    StopWorkload,
    Tagging,
    UnknownMessageTypeError,
    VolumeMount,
    WorkloadId,
    WorkloadLogs,
    WorkloadSpec,
    WorkloadUpdate,
    codec_of,
    original,
)
from arcray.claw_proto.codec import ORIGINAL_NODE_MESSAGE
from arcray.claw_proto.errors import ProtoError
from arcray.core.errors import Code

ID = "550e8400-e29b-41d4-a716-446655440000"
AT = "2026-02-03T12:34:56Z"


def changed(**members: Any) -> str:
    """A heartbeat with other members."""
    return json.dumps({"type": "heartbeat", "node_id": ID, "timestamp": AT} | members)


def refusal_of(text: str | bytes) -> ProtoError:
    with pytest.raises(ProtoError) as refusal:
        NODE_MESSAGE.from_json(text)
    return refusal.value


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("", SerializationError, "message: is not JSON"),
        (b"\xff", SerializationError, "message: is not UTF-8"),
        ('{"type":"heartbeat"', SerializationError, "message: is not JSON"),
        ('{"type":"heartbeat","x":NaN}', SerializationError, "message: is not JSON: NaN is not JSON"),
        ('{"type":"heartbeat","x":' + "[" * 1_000, SerializationError, "message: is nested more than 64 levels deep"),
        ("[]", InvalidMessageError, "message: must be an object"),
        ("null", InvalidMessageError, "message: must be an object"),
        ("{}", InvalidMessageError, "type: is required"),
        ('{"a":1,"b":2}', InvalidMessageError, "type: is required"),
        ('{"type":7}', InvalidMessageError, "type: must be a string"),
        ('{"type":null}', InvalidMessageError, "type: must be a string"),
        ('{"type":"heartbeat","type":"metrics"}', InvalidMessageError, "type: comes twice"),
        ('{"Heartbeat":{},"Heartbeat":{}}', InvalidMessageError, "type: comes twice"),
        ('{"type":"nope"}', UnknownMessageTypeError, "type: 'nope' is no message of this protocol"),
        ('{"type":"Heartbeat"}', UnknownMessageTypeError, "type: 'Heartbeat' is no message of this protocol"),
        ('{"heartbeat":{}}', UnknownMessageTypeError, "type: 'heartbeat' is no message of this protocol"),
        ('{"type":"registered"}', UnknownMessageTypeError, "type: 'registered' is no message of this protocol"),
        ('{"type":"hello","protocol_version":1}', UnknownMessageTypeError, "type: 'hello'"),
        ('"Heartbeat"', InvalidMessageError, "node_id: is required"),
        ('{"Heartbeat":[]}', InvalidMessageError, "message: must be an object"),
        ('{"Heartbeat":null}', InvalidMessageError, "message: is required"),
        (changed(node_id=None), InvalidMessageError, "node_id: is required"),
        (changed(node_id=7), InvalidMessageError, "node_id: must be a string"),
        (changed(node_id="x"), InvalidMessageError, "node_id: is not a UUID"),
        (changed(timestamp=1770122096), InvalidMessageError, "timestamp: must be a string"),
        (changed(timestamp="2026-02-03T12:34:56"), InvalidMessageError, "timestamp: must be a time as RFC 3339"),
        (f'{{"type":"heartbeat","node_id":"{ID}","node_id":"{ID}"}}', InvalidMessageError, "node_id: comes twice"),
    ],
)
def test_what_is_wrong_with_a_message_is_said(text: str | bytes, kind: type[ProtoError], told: str) -> None:
    refusal = refusal_of(text)
    assert type(refusal) is kind
    assert str(refusal).startswith(told)
    assert refusal.code is Code.INVALID_ARGUMENT


def test_a_strangers_word_is_not_repeated_at_length() -> None:
    assert len(str(refusal_of(json.dumps({"type": "x" * 1_000_000})))) < 120


def test_lists_and_objects_are_counted_and_those_in_strings_are_not() -> None:
    assert str(refusal_of('{"type":"heartbeat","x":[' + "{}," * 9_999 + "0]}")).startswith(
        "message: has more than 10000"
    )
    lines = ['{"[[": "{{\\"[" ' * 10_000, "["]
    logs = json.dumps({"type": "workload_logs", "workload_id": ID, "lines": lines, "is_stderr": False})
    assert NODE_MESSAGE.from_json(logs) == WorkloadLogs(workload_id=WorkloadId(ID), lines=tuple(lines), is_stderr=False)


def register(**capabilities: Any) -> str:
    found = {"total_vram_mb": 1, "gpu_count": 1, "gpus": [], "max_concurrent_workloads": 1, "supported_runtimes": []}
    document = {"type": "register", "node_id": ID, "name": "n", "protocol_version": 1}
    return json.dumps(document | {"capabilities": found | capabilities})


GPU = {"index": 0, "name": "g", "vram_mb": 1, "compute_capability": "9.0", "driver_version": "1"}


@pytest.mark.parametrize(
    ("capabilities", "told"),
    [
        ({"gpu_count": 5.0}, "capabilities.gpu_count: must be an integer"),
        ({"gpu_count": True}, "capabilities.gpu_count: must be an integer"),
        ({"gpu_count": "5"}, "capabilities.gpu_count: must be an integer"),
        ({"gpu_count": -1}, "capabilities.gpu_count: must be between 0 and 4294967295"),
        ({"gpu_count": 2**32}, "capabilities.gpu_count: must be between 0 and 4294967295"),
        ({"total_vram_mb": 2**64}, "capabilities.total_vram_mb: must be between 0 and 18446744073709551615"),
        ({"total_vram_mb": 1e20}, "capabilities.total_vram_mb: must be an integer"),
        ({"gpus": {}}, "capabilities.gpus: must be a list"),
        ({"gpus": [GPU, 7]}, "capabilities.gpus.1: must be an object"),
        ({"gpus": [GPU, GPU | {"vram_mb": None}]}, "capabilities.gpus.1.vram_mb: is required"),
        ({"supported_runtimes": ["docker", None]}, "capabilities.supported_runtimes.1: is required"),
        ({"supported_runtimes": ["\ud800"]}, "capabilities.supported_runtimes.0: holds half of a surrogate pair"),
        ({"gpus": None}, "capabilities.gpus: is required"),
    ],
)
def test_a_field_deep_inside_is_named(capabilities: dict[str, Any], told: str) -> None:
    assert str(refusal_of(register(**capabilities))) == told


def test_a_name_that_comes_twice_deep_inside_is_named() -> None:
    assert str(refusal_of(register(gpus=[GPU]).replace('"name": "g"', '"name": "g", "name": "h"'))) == (
        "capabilities.gpus.0.name: comes twice"
    )


@pytest.mark.parametrize("number", [0, 2**53 - 1, 2**53 + 1, 2**63, 2**64 - 1])
def test_integers_are_exact_beyond_what_a_float_holds(number: int) -> None:
    codec, value = codec_of(NodeCapabilities), NodeCapabilities(total_vram_mb=number)
    assert codec.from_json(codec.to_json(value)).total_vram_mb == number
    assert codec.from_bincode(codec.to_bincode(value)).total_vram_mb == number


def test_unknown_fields_are_ignored_also_where_they_come_twice() -> None:
    text = changed(future={"a": [1.5, None]}).replace("}", ', "future": 1}', 1)
    assert isinstance(NODE_MESSAGE.from_json(text), Heartbeat)


def test_an_option_may_be_absent_and_nothing_else() -> None:
    update = {"type": "workload_update", "workload_id": ID, "state": "running", "timestamp": AT}
    found = NODE_MESSAGE.from_json(json.dumps(update))
    assert isinstance(found, WorkloadUpdate)
    assert found.message is None
    for name in ("workload_id", "state", "timestamp"):
        assert str(refusal_of(json.dumps({k: v for k, v in update.items() if k != name}))) == f"{name}: is required"


def test_an_unknown_state_is_told_those_that_there_are() -> None:
    update = {"type": "workload_update", "workload_id": ID, "state": "paused", "timestamp": AT}
    assert str(refusal_of(json.dumps(update))) == (
        "state: must be one of pending, pulling, starting, running, stopping, stopped, failed, completed"
    )


def test_the_first_implementation_has_no_pulling() -> None:
    update = {"type": "workload_update", "workload_id": ID, "state": "pulling", "timestamp": AT}
    with pytest.raises(InvalidMessageError, match="state: must be one of"):
        ORIGINAL_NODE_MESSAGE.from_json(json.dumps(update))


@pytest.mark.parametrize(
    ("member", "value", "told"),
    [
        ("env", [["A"]], "env.0: must be a list of two strings"),
        ("env", [["A", "b"], ["A", 7]], "env.1.1: must be a string"),
        ("env", {"A": "b"}, "env: must be a list"),
        ("ports", [80, 65536], "ports.1: must be between 0 and 65535"),
        ("restart_policy", "sometimes", "restart_policy: must be one of no, always, on_failure, unless_stopped"),
        ("restart_policy", {"on_failure": {}}, "restart_policy.max_retries: is required"),
        ("restart_policy", {"a": 1, "b": 2}, "restart_policy: must be one of no"),
        ("restart_policy", {"type": ["no"]}, "restart_policy: must be one of no"),
        ("restart_policy", "on_failure", "restart_policy: is required"),
        ("volumes", [{"source": "/a"}], "volumes.0.target: is required"),
        ("volumes", [{"source": "/a", "target": "/b", "mount_type": "nfs"}], "volumes.0.mount_type: must be one of"),
        ("command", ["a", None], "command.1: is required"),
    ],
)
def test_a_field_of_a_specification_is_named(member: str, value: Any, told: str) -> None:
    codec = codec_of(WorkloadSpec)
    document = json.loads(codec.to_json(WorkloadSpec(image="i"))) | {member: value}
    with pytest.raises(InvalidMessageError) as refusal:
        codec.from_json(json.dumps(document))
    assert str(refusal.value).startswith(told)


def test_a_mount_is_of_the_host_and_writable_unless_it_says_otherwise() -> None:
    codec = codec_of(VolumeMount)
    assert codec.from_json('{"source":"/a","target":"/b"}') == VolumeMount(source="/a", target="/b")
    assert codec.to_json(VolumeMount(source="/a", target="/b")) == (
        '{"source":"/a","target":"/b","read_only":false,"mount_type":"bind"}'
    )


def test_variables_of_the_first_implementation_are_a_map_whose_last_value_counts() -> None:
    codec = codec_of(original.WorkloadSpec)
    text = codec.to_json(original.WorkloadSpec(image="i", env=(("A", "1"),)))
    assert codec.from_json(text.replace('"A":"1"', '"A":"1","B":"2","A":"3"')).env == (("A", "3"), ("B", "2"))
    with pytest.raises(SerializationError, match="env: has a name twice"):
        codec.to_json(original.WorkloadSpec(image="i", env=(("A", "1"), ("A", "2"))))


@pytest.mark.parametrize("watts", ["1e39", "1e400", "-1e39", '"5"', "true"])
def test_watts_are_numbers_of_32_bits(watts: str) -> None:
    text = (
        '{"index":0,"utilization_percent":1,"memory_used_mib":1,"memory_total_mib":1,"temperature_celsius":1,'
        f'"power_watts":{watts}}}'
    )
    with pytest.raises(InvalidMessageError, match="power_watts: must be a number"):
        codec_of(original.GpuMetricsProto).from_json(text)


def test_watts_are_as_wide_as_the_wire_says() -> None:
    text = (
        '{"index":0,"utilization_percent":1,"memory_used_mib":1,"memory_total_mib":1,"temperature_celsius":1,'
        '"power_watts":0.1}'
    )
    codec = codec_of(original.GpuMetricsProto)
    found = codec.from_json(text)
    assert found.power_watts == pytest.approx(0.1)
    assert codec.from_bincode(codec.to_bincode(found)) == found
    assert codec.from_json(text.replace("0.1", "300")).power_watts == 300.0


# -- what is written ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (StopWorkload(workload_id=ID, force=True), "workload_id: must be a WorkloadId"),  # type: ignore[arg-type]
        (StopWorkload(workload_id=NodeId(ID), force=True), "workload_id: must be a WorkloadId"),  # type: ignore[arg-type]
        (Heartbeat(node_id=NodeId(ID), timestamp=AT), "timestamp: must be a Timestamp"),  # type: ignore[arg-type]
    ],
)
def test_nothing_goes_out_that_could_not_come_in(message: Any, told: str) -> None:
    codec = GATEWAY_MESSAGE if isinstance(message, StopWorkload) else NODE_MESSAGE
    for write in (codec.to_json, codec.to_bincode):
        with pytest.raises(SerializationError) as refusal:
            write(message)
        assert str(refusal.value) == told


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (NodeConfig(heartbeat_interval_secs=-1), "heartbeat_interval_secs: must be between 0 and 4294967295"),
        (NodeConfig(metrics_interval_secs=2**32), "metrics_interval_secs: must be between 0 and 4294967295"),
        (NodeConfig(metrics_interval_secs=True), "metrics_interval_secs: must be an integer"),
        (NodeConfig(log_level="\ud800"), "log_level: holds half of a surrogate pair"),
        (NodeConfig(log_level=7), "log_level: must be a string"),  # type: ignore[arg-type]
    ],
)
def test_a_value_that_has_no_place_is_refused_when_it_is_written(config: NodeConfig, told: str) -> None:
    codec = codec_of(NodeConfig)
    for write in (codec.to_json, codec.to_bincode):
        with pytest.raises(SerializationError) as refusal:
            write(config)
        assert str(refusal.value) == told


def test_a_message_of_the_other_side_is_not_written() -> None:
    stop: Any = StopWorkload(workload_id=ID, force=True)  # type: ignore[arg-type]
    for tagging in Tagging:
        with pytest.raises(SerializationError, match="a StopWorkload is no message of this side"):
            NODE_MESSAGE.to_json(stop, tagging)
    with pytest.raises(SerializationError, match="must be one of Register"):
        NODE_MESSAGE.to_bincode(stop)


@pytest.mark.parametrize(
    "message",
    [
        WorkloadLogs(workload_id=ID, lines=["a"], is_stderr=False),  # type: ignore[arg-type]
        Metrics(node_id=NodeId(ID), gpu_metrics=(7,), timestamp=AT),  # type: ignore[arg-type]
    ],
)
def test_a_list_is_a_tuple_of_what_it_is_a_list_of(message: Any) -> None:
    for write in (NODE_MESSAGE.to_json, NODE_MESSAGE.to_bincode):
        with pytest.raises(SerializationError):
            write(message)
