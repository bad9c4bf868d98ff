"""Golden frames of claw-proto: the document's in both JSON forms and in bincode, and the first implementation's.

The bytes were worked out by hand from bincode's rules. Text is compared as it stands: order, names, forms of times.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import pytest

from arcray.claw_proto import messages as doc
from arcray.claw_proto import original
from arcray.claw_proto.codec import (
    GATEWAY_MESSAGE,
    NODE_MESSAGE,
    ORIGINAL_GATEWAY_MESSAGE,
    ORIGINAL_NODE_MESSAGE,
    MessageCodec,
    codec_of,
)
from arcray.claw_proto.errors import SerializationError, UnknownMessageTypeError
from arcray.claw_proto.events import Completed, Created, EventMetadata, Scheduled, WorkloadEvent
from arcray.claw_proto.ids import NodeId, WorkloadId
from arcray.claw_proto.tagging import Tagging
from arcray.claw_proto.timestamp import Timestamp
from arcray.claw_proto.types import (
    Always,
    GpuCapability,
    GpuMetricsProto,
    MountType,
    No,
    NodeCapabilities,
    NodeConfig,
    OnFailure,
    RestartPolicy,
    UnlessStopped,
    VolumeMount,
    Workload,
    WorkloadSpec,
    WorkloadState,
    WorkloadStatus,
)

ID: Final = "550e8400-e29b-41d4-a716-446655440000"
NODE, WORK = NodeId(ID), WorkloadId(ID)
AT: Final = Timestamp(datetime(2026, 2, 3, 12, 34, 56, tzinfo=UTC))

UUID: Final = "1000000000000000 550e8400e29b41d4a716446655440000"
TIME: Final = "1400000000000000 323032362d30322d30335431323a33343a35365a"
N: Final = f'"node_id":"{ID}"'
W: Final = f'"workload_id":"{ID}"'
T: Final = '"timestamp":"2026-02-03T12:34:56Z"'

H100: Final = GpuCapability(
    index=0, name="NVIDIA H100", vram_mb=81920, compute_capability="9.0", driver_version="535.104.05"
)
H100_JSON: Final = (
    '{"index":0,"name":"NVIDIA H100","vram_mb":81920,"compute_capability":"9.0","driver_version":"535.104.05"}'
)
READING: Final = GpuMetricsProto(
    index=0,
    utilization_percent=75,
    memory_used_mb=40960,
    memory_total_mb=81920,
    temperature_celsius=65,
    power_watts=300,
)
READING_JSON: Final = (
    '{"index":0,"utilization_percent":75,"memory_used_mb":40960,"memory_total_mb":81920,"temperature_celsius":65,'
    '"power_watts":300}'
)


# -- bincode -----------------------------------------------------------------------------------------------------------

NODE_BYTES: Final[list[tuple[str, doc.NodeMessage]]] = [
    (f"01000000 {UUID} {TIME}", doc.Heartbeat(node_id=NODE, timestamp=AT)),
    (
        (
            f"00000000 {UUID} 0200000000000000 6e31"
            " 0000000000000000 00000000 0000000000000000 00000000 0000000000000000 01000000"
        ),
        doc.Register(node_id=NODE, name="n1", capabilities=NodeCapabilities(), protocol_version=1),
    ),
    (
        f"03000000 {UUID} 03000000 01 0200000000000000 6f6b {TIME}",
        doc.WorkloadUpdate(workload_id=WORK, state=WorkloadState.RUNNING, message="ok", timestamp=AT),
    ),
    (
        f"04000000 {UUID} 0200000000000000 0100000000000000 61 0200000000000000 6263 01",
        doc.WorkloadLogs(workload_id=WORK, lines=("a", "bc"), is_stderr=True),
    ),
    (
        (
            f"02000000 {UUID} 0100000000000000 00000000 4b000000 00a0000000000000 0040010000000000 41000000 2c010000"
            f" {TIME}"
        ),
        doc.Metrics(node_id=NODE, gpu_metrics=(READING,), timestamp=AT),
    ),
]
GATEWAY_BYTES: Final[list[tuple[str, doc.GatewayMessage]]] = [
    ("00000000 1e000000 0a000000 00", doc.Registered(heartbeat_interval_secs=30, metrics_interval_secs=10)),
    (
        "00000000 1e000000 0a000000 01 00 00 00 01 0500000000000000 6465627567",
        doc.Registered(heartbeat_interval_secs=30, metrics_interval_secs=10, config=NodeConfig(log_level="debug")),
    ),
    (f"01000000 {TIME}", doc.HeartbeatAck(timestamp=AT)),
    (f"03000000 {UUID} 01", doc.StopWorkload(workload_id=WORK, force=True)),
    (f"03000000 {UUID} 00", doc.StopWorkload(workload_id=WORK, force=False)),
    (f"04000000 {UUID}", doc.GetWorkloadStatus(workload_id=WORK)),
    ("05000000 00 00 00 00", doc.UpdateConfig(config=NodeConfig())),
    (
        "06000000 1800000000000000 323032362d30322d30335431323a33343a35362e3738395a",
        doc.Ping(timestamp=Timestamp.parse("2026-02-03T12:34:56.789Z")),
    ),
    ("07000000 0100000000000000 78 01", doc.Shutdown(reason="x", graceful=True)),
    (
        (
            f"02000000 {UUID} 0100000000000000 77"  # id, name
            " 0700000000000000 62757379626f78"  # image
            " 01 0100000000000000 0400000000000000 74727565 00"  # command, args
            " 0100000000000000 0100000000000000 41 0100000000000000 62"  # env
            " 02000000 01 00a0000000000000 01 f4010000 00"  # GPUs, their memory, millicores, memory
            " 0100000000000000 901f"  # ports
            " 0100000000000000 0100000000000000 73 0100000000000000 74 01 01000000"  # a volume, read-only
            " 02000000 03000000"  # on failure, three times
            " 00000000 00 00 00 0000000000000000"  # status
            f" {TIME} {TIME}"
        ),
        doc.DeployWorkload(
            workload=Workload(
                id=WORK,
                name="w",
                spec=WorkloadSpec(
                    image="busybox",
                    command=("true",),
                    env=(("A", "b"),),
                    gpu_count=2,
                    gpu_memory_mb=40960,
                    cpu_millicores=500,
                    ports=(8080,),
                    volumes=(VolumeMount(source="s", target="t", read_only=True, mount_type=MountType.VOLUME),),
                    restart_policy=OnFailure(max_retries=3),
                ),
                created_at=AT,
                updated_at=AT,
            )
        ),
    ),
]
LENGTHS: Final = {"Heartbeat": 56, "Register": 74, "WorkloadUpdate": 71, "WorkloadLogs": 56, "Metrics": 96}

VECTORS: Final[list[tuple[MessageCodec[Any], bytes, Any]]] = [
    *((NODE_MESSAGE, bytes.fromhex(data), message) for data, message in NODE_BYTES),
    *((GATEWAY_MESSAGE, bytes.fromhex(data), message) for data, message in GATEWAY_BYTES),
]
each_vector: Final = pytest.mark.parametrize(
    ("codec", "data", "message"), VECTORS, ids=[type(message).__name__ for _, _, message in VECTORS]
)


@each_vector
def test_bytes_are_those_of_bincode(codec: MessageCodec[Any], data: bytes, message: Any) -> None:
    assert codec.to_bincode(message) == data
    assert codec.from_bincode(data) == message
    assert len(data) == LENGTHS.get(type(message).__name__, len(data))


@each_vector
def test_what_follows_the_bytes_is_not_looked_at(codec: MessageCodec[Any], data: bytes, message: Any) -> None:
    assert codec.from_bincode(data + b"\0") == message


@each_vector
def test_bytes_that_are_cut_off_are_refused(codec: MessageCodec[Any], data: bytes, message: Any) -> None:
    assert message is not None
    for end in range(len(data)):
        with pytest.raises(SerializationError):
            codec.from_bincode(data[:end])


def test_variants_that_no_message_has_are_unknown() -> None:
    for codec in (NODE_MESSAGE, GATEWAY_MESSAGE):
        with pytest.raises(UnknownMessageTypeError) as refusal:
            codec.from_bincode(bytes.fromhex("09000000") + bytes(100))
        assert refusal.value.field == "type"


@pytest.mark.parametrize(
    ("data", "field", "reason"),
    [
        (f"04000000 {UUID} 0000000000000000 02", "is_stderr", "is neither 0 nor 1 but 2"),
        (f"03000000 {UUID} 09000000 00 {TIME}", "state", "must be a variant below 8, got 9"),
        (f"03000000 {UUID} 03000000 02 {TIME}", "message", "is neither 0 nor 1 but 2"),
        (f"01000000 0f00000000000000 {'00' * 16} {TIME}", "node_id", "is not a UUID"),
        (f"01000000 {UUID} 0100000000000000 78", "timestamp", "must be a time as RFC 3339 has it"),
        (f"04000000 {UUID} ffffffffffffffff", "lines", "is cut off"),
        (f"04000000 {UUID} 0200000000000000 0000000000000000 0100000000000000 ff 00", "lines.1", "is not UTF-8"),
    ],
)
def test_a_field_of_bincode_that_is_wrong_is_named(data: str, field: str, reason: str) -> None:
    with pytest.raises(SerializationError) as refusal:
        NODE_MESSAGE.from_bincode(bytes.fromhex(data))
    assert refusal.value.field == field
    assert reason in refusal.value.message


# -- JSON --------------------------------------------------------------------------------------------------------------

SPEC: Final = WorkloadSpec(
    image="clawbernetes/llama:70b",
    env=(("MODEL_PATH", "/models/llama-70b"),),
    gpu_count=4,
    gpu_memory_mb=40960,
    ports=(8080,),
)
SPEC_HEAD: Final = (
    '{"image":"clawbernetes/llama:70b","command":null,"args":null,"env":[["MODEL_PATH","/models/llama-70b"]],'
    '"gpu_count":4,"gpu_memory_mb":40960,"cpu_millicores":null,"memory_mb":null,"ports":[8080],"volumes":[],'
)
STATUS_TAIL: Final = '"started_at":null,"finished_at":null,"exit_code":null,"gpu_ids":[]}'
TIMES: Final = '"created_at":"2026-02-03T12:34:56Z","updated_at":"2026-02-03T12:34:56Z"'

NODE_TEXTS: Final[list[tuple[str, str, doc.NodeMessage]]] = [
    (
        (
            f'{{"type":"register",{N},"name":"h100-cluster-01","capabilities":{{"total_vram_mb":81920,"gpu_count":8,"gpus":'
            f'[{H100_JSON}],"max_concurrent_workloads":16,"supported_runtimes":["docker","containerd"]}},"protocol_version":1}}'
        ),
        (
            f'{{"Register":{{{N},"name":"h100-cluster-01","capabilities":{{"total_vram_mb":81920,"gpu_count":8,"gpus":'
            f'[{H100_JSON}],"max_concurrent_workloads":16,"supported_runtimes":["docker","containerd"]}},'
            '"protocol_version":1}}'
        ),
        doc.Register(
            node_id=NODE,
            name="h100-cluster-01",
            capabilities=NodeCapabilities(
                total_vram_mb=81920,
                gpu_count=8,
                gpus=(H100,),
                max_concurrent_workloads=16,
                supported_runtimes=("docker", "containerd"),
            ),
            protocol_version=1,
        ),
    ),
    (
        f'{{"type":"heartbeat",{N},{T}}}',
        f'{{"Heartbeat":{{{N},{T}}}}}',
        doc.Heartbeat(node_id=NODE, timestamp=AT),
    ),
    (
        f'{{"type":"metrics",{N},"gpu_metrics":[{READING_JSON}],{T}}}',
        f'{{"Metrics":{{{N},"gpu_metrics":[{READING_JSON}],{T}}}}}',
        doc.Metrics(node_id=NODE, gpu_metrics=(READING,), timestamp=AT),
    ),
    (
        f'{{"type":"workload_update",{W},"state":"running","message":null,{T}}}',
        f'{{"WorkloadUpdate":{{{W},"state":"Running","message":null,{T}}}}}',
        doc.WorkloadUpdate(workload_id=WORK, state=WorkloadState.RUNNING, timestamp=AT),
    ),
    (
        f'{{"type":"workload_logs",{W},"lines":["a","é\\u0007"],"is_stderr":false}}',
        f'{{"WorkloadLogs":{{{W},"lines":["a","é\\u0007"],"is_stderr":false}}}}',
        doc.WorkloadLogs(workload_id=WORK, lines=("a", "é\a"), is_stderr=False),
    ),
]
GATEWAY_TEXTS: Final[list[tuple[str, str, doc.GatewayMessage]]] = [
    (
        '{"type":"registered","heartbeat_interval_secs":30,"metrics_interval_secs":10,"config":null}',
        '{"Registered":{"heartbeat_interval_secs":30,"metrics_interval_secs":10,"config":null}}',
        doc.Registered(heartbeat_interval_secs=30, metrics_interval_secs=10),
    ),
    (f'{{"type":"heartbeat_ack",{T}}}', f'{{"HeartbeatAck":{{{T}}}}}', doc.HeartbeatAck(timestamp=AT)),
    (
        (
            f'{{"type":"deploy_workload","workload":{{"id":"{ID}","name":"llama-70b-inference","spec":{SPEC_HEAD}'
            f'"restart_policy":{{"on_failure":{{"max_retries":3}}}}}},"status":{{"state":"pending",{STATUS_TAIL},{TIMES}}}}}'
        ),
        (
            f'{{"DeployWorkload":{{"workload":{{"id":"{ID}","name":"llama-70b-inference","spec":{SPEC_HEAD}'
            f'"restart_policy":{{"OnFailure":{{"max_retries":3}}}}}},"status":{{"state":"Pending",{STATUS_TAIL},{TIMES}}}}}}}'
        ),
        doc.DeployWorkload(
            workload=Workload(
                id=WORK,
                name="llama-70b-inference",
                spec=WorkloadSpec(
                    image=SPEC.image,
                    env=SPEC.env,
                    gpu_count=4,
                    gpu_memory_mb=40960,
                    ports=(8080,),
                    restart_policy=OnFailure(max_retries=3),
                ),
                status=WorkloadStatus(),
                created_at=AT,
                updated_at=AT,
            )
        ),
    ),
    (
        f'{{"type":"stop_workload",{W},"force":true}}',
        f'{{"StopWorkload":{{{W},"force":true}}}}',
        doc.StopWorkload(workload_id=WORK, force=True),
    ),
    (
        f'{{"type":"get_workload_status",{W}}}',
        f'{{"GetWorkloadStatus":{{{W}}}}}',
        doc.GetWorkloadStatus(workload_id=WORK),
    ),
    (
        (
            '{"type":"update_config","config":{"heartbeat_interval_secs":5,"metrics_interval_secs":null,'
            '"max_concurrent_workloads":null,"log_level":"debug"}}'
        ),
        (
            '{"UpdateConfig":{"config":{"heartbeat_interval_secs":5,"metrics_interval_secs":null,'
            '"max_concurrent_workloads":null,"log_level":"debug"}}}'
        ),
        doc.UpdateConfig(config=NodeConfig(heartbeat_interval_secs=5, log_level="debug")),
    ),
    (f'{{"type":"ping",{T}}}', f'{{"Ping":{{{T}}}}}', doc.Ping(timestamp=AT)),
    (
        '{"type":"shutdown","reason":"x","graceful":true}',
        '{"Shutdown":{"reason":"x","graceful":true}}',
        doc.Shutdown(reason="x", graceful=True),
    ),
]
TEXTS: Final[list[tuple[MessageCodec[Any], str, str, Any]]] = [
    *((NODE_MESSAGE, *each) for each in NODE_TEXTS),
    *((GATEWAY_MESSAGE, *each) for each in GATEWAY_TEXTS),
]


@pytest.mark.parametrize(
    ("codec", "internal", "external", "message"), TEXTS, ids=[type(each[-1]).__name__ for each in TEXTS]
)
def test_text_is_that_of_serde(codec: MessageCodec[Any], internal: str, external: str, message: Any) -> None:
    assert codec.to_json(message) == internal
    assert codec.to_json(message, Tagging.EXTERNAL) == external
    assert codec.from_json(internal) == message
    assert codec.from_json(external) == message


@pytest.mark.parametrize(
    ("policy", "internal", "external"),
    [
        (No(), '"no"', '"No"'),
        (Always(), '"always"', '"Always"'),
        (OnFailure(max_retries=3), '{"on_failure":{"max_retries":3}}', '{"OnFailure":{"max_retries":3}}'),
        (UnlessStopped(), '"unless_stopped"', '"UnlessStopped"'),
    ],
)
def test_an_enum_inside_is_spelled_as_its_form_spells_names(
    policy: RestartPolicy, internal: str, external: str
) -> None:
    codec, spec = codec_of(WorkloadSpec), WorkloadSpec(image="i", restart_policy=policy)
    assert codec.to_json(spec).endswith(f'"restart_policy":{internal}}}')
    assert codec.to_json(spec, Tagging.EXTERNAL).endswith(f'"restart_policy":{external}}}')
    other_way = codec.to_json(spec).replace(internal, external)
    assert codec.from_json(other_way) == spec


def test_a_policy_is_read_with_its_type_beside_its_fields_too() -> None:
    codec, spec = codec_of(WorkloadSpec), WorkloadSpec(image="i", restart_policy=OnFailure(max_retries=3))
    text = codec.to_json(spec)
    assert codec.from_json(text.replace('{"on_failure":{', '{"type":"on_failure",').replace("}}}", "}}")) == spec
    assert codec.from_json(
        codec.to_json(WorkloadSpec(restart_policy=Always())).replace('"always"', '{"type":"always"}')
    ) == WorkloadSpec(restart_policy=Always())


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            WorkloadEvent(kind=Created(), workload_id=WORK, timestamp=AT),
            (
                f'{{"kind":"created",{W},"metadata":{{"message":null,"exit_code":null,"error":null,"gpu_ids":[],'
                f'"node_id":null}},{T}}}'
            ),
        ),
        (
            WorkloadEvent(
                kind=Scheduled(node_id=NODE),
                workload_id=WORK,
                metadata=EventMetadata(gpu_ids=(0, 3), node_id=ID),
                timestamp=AT,
            ),
            (
                f'{{"kind":{{"scheduled":{{{N}}}}},{W},"metadata":{{"message":null,"exit_code":null,"error":null,'
                f'"gpu_ids":[0,3],"node_id":"{ID}"}},{T}}}'
            ),
        ),
        (
            WorkloadEvent(
                kind=Completed(exit_code=-1),
                workload_id=WORK,
                metadata=EventMetadata(exit_code=-1),
                timestamp=AT,
            ),
            (
                f'{{"kind":{{"completed":{{"exit_code":-1}}}},{W},"metadata":{{"message":null,"exit_code":-1,"error":null,'
                f'"gpu_ids":[],"node_id":null}},{T}}}'
            ),
        ),
    ],
    ids=["Created", "Scheduled", "Completed"],
)
def test_events_are_text_and_back(event: WorkloadEvent, text: str) -> None:
    codec = codec_of(WorkloadEvent)
    assert codec.to_json(event) == text
    assert codec.from_json(text) == event
    assert codec.from_bincode(codec.to_bincode(event)) == event


def test_bytes_of_an_event_are_those_of_bincode() -> None:
    event = WorkloadEvent(kind=Completed(exit_code=-1), workload_id=WORK, timestamp=AT)
    assert codec_of(WorkloadEvent).to_bincode(event) == bytes.fromhex(
        f"05000000 ffffffff {UUID} 00 00 00 0000000000000000 00 {TIME}"
    )


# -- the first implementation ------------------------------------------------------------------------------------------

ORIGINAL: Final[list[tuple[MessageCodec[Any], str, Any]]] = [
    (
        ORIGINAL_NODE_MESSAGE,
        (
            f'{{"type":"register",{N},"name":"gpu-1","capabilities":{{"gpus":[],"memory_mib":16384,"cpu_cores":8,'
            '"runtimes":[]},"protocol_version":1,"wireguard_public_key":null,"wireguard_endpoint":null}'
        ),
        original.Register(
            node_id=NODE,
            name="gpu-1",
            capabilities=original.NodeCapabilities(memory_mib=16384, cpu_cores=8),
            protocol_version=1,
        ),
    ),
    (ORIGINAL_NODE_MESSAGE, f'{{"type":"heartbeat",{N},{T}}}', doc.Heartbeat(node_id=NODE, timestamp=AT)),
    (
        ORIGINAL_NODE_MESSAGE,
        (
            f'{{"type":"metrics",{N},"gpu_metrics":[{{"index":0,"utilization_percent":75,"memory_used_mib":40960,'
            f'"memory_total_mib":81920,"temperature_celsius":65,"power_watts":300.5}}],{T}}}'
        ),
        original.Metrics(
            node_id=NODE,
            gpu_metrics=(
                original.GpuMetricsProto(
                    index=0,
                    utilization_percent=75,
                    memory_used_mib=40960,
                    memory_total_mib=81920,
                    temperature_celsius=65,
                    power_watts=300.5,
                ),
            ),
            timestamp=AT,
        ),
    ),
    (
        ORIGINAL_NODE_MESSAGE,
        f'{{"type":"workload_update",{W},"state":"running","message":null,{T}}}',
        original.WorkloadUpdate(workload_id=WORK, state=original.WorkloadState.RUNNING, timestamp=AT),
    ),
    (
        ORIGINAL_GATEWAY_MESSAGE,
        f'{{"type":"registered",{N},"heartbeat_interval_secs":30,"metrics_interval_secs":10}}',
        original.Registered(node_id=NODE, heartbeat_interval_secs=30, metrics_interval_secs=10),
    ),
    (
        ORIGINAL_GATEWAY_MESSAGE,
        '{"type":"heartbeat_ack","server_time":"2026-02-03T12:34:56.123456789Z"}',
        original.HeartbeatAck(server_time=Timestamp.parse("2026-02-03T12:34:56.123456789Z")),
    ),
    (
        ORIGINAL_GATEWAY_MESSAGE,
        (
            f'{{"type":"start_workload",{W},"spec":{{"image":"nginx","command":["a"],"env":{{"K":"v"}},"gpu_count":1,'
            '"memory_mb":512,"cpu_cores":1}}'
        ),
        original.StartWorkload(
            workload_id=WORK,
            spec=original.WorkloadSpec(image="nginx", command=("a",), env=(("K", "v"),), gpu_count=1),
        ),
    ),
    (
        ORIGINAL_GATEWAY_MESSAGE,
        f'{{"type":"stop_workload",{W},"grace_period_secs":30}}',
        original.StopWorkload(workload_id=WORK, grace_period_secs=30),
    ),
    (
        ORIGINAL_GATEWAY_MESSAGE,
        (
            '{"type":"config_update","config":{"heartbeat_interval_secs":null,"metrics_interval_secs":null,'
            '"max_concurrent_workloads":4,"log_level":null}}'
        ),
        original.ConfigUpdate(config=NodeConfig(max_concurrent_workloads=4)),
    ),
    (ORIGINAL_GATEWAY_MESSAGE, '{"type":"request_metrics"}', original.RequestMetrics()),
    (ORIGINAL_GATEWAY_MESSAGE, '{"type":"request_capabilities"}', original.RequestCapabilities()),
    (
        ORIGINAL_GATEWAY_MESSAGE,
        '{"type":"error","code":1008,"message":"no"}',
        original.Error(code=original.ErrorCode.PROTOCOL_MISMATCH.value, message="no"),
    ),
]


@pytest.mark.parametrize(("codec", "text", "message"), ORIGINAL, ids=[type(each[-1]).__name__ for each in ORIGINAL])
def test_text_of_the_first_implementation(codec: MessageCodec[Any], text: str, message: Any) -> None:
    assert codec.to_json(message) == text
    assert codec.from_json(text) == message


def test_its_labels_are_written_where_there_are_some() -> None:
    codec = codec_of(original.NodeCapabilities)
    text = '{"gpus":[],"memory_mib":1,"cpu_cores":1,"runtimes":[],"labels":{"zone":"a"}}'
    assert codec.from_json(text) == original.NodeCapabilities(memory_mib=1, cpu_cores=1, labels=(("zone", "a"),))
    assert codec.to_json(codec.from_json(text)) == text


def test_its_conditions_are_ignored_and_its_mesh_is_unknown() -> None:
    text = '{"gpus":[],"memory_mib":1,"cpu_cores":1,"runtimes":[],"conditions":[{"condition_type":"x"}]}'
    assert codec_of(original.NodeCapabilities).from_json(text) == original.NodeCapabilities(memory_mib=1, cpu_cores=1)
    with pytest.raises(UnknownMessageTypeError):
        ORIGINAL_NODE_MESSAGE.from_json(f'{{"type":"mesh_ready",{N},"mesh_ip":"10.0.0.1","peer_count":1}}')


def test_a_message_without_fields_is_its_name_in_the_other_form() -> None:
    assert ORIGINAL_GATEWAY_MESSAGE.to_json(original.RequestMetrics(), Tagging.EXTERNAL) == '"RequestMetrics"'
    assert ORIGINAL_GATEWAY_MESSAGE.from_json('"RequestMetrics"') == original.RequestMetrics()
