"""The client's bodies are the REST facade's: each is read by the other's own code."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
from pydantic import BaseModel

from arcray.client import Client, WorkloadInfo, WorkOptions
from arcray.client.types import ModelInfo
from arcray.core.gang import Gang, Layout
from arcray.core.model import ModelFormat
from arcray.core.reservation import ReservationState
from arcray.core.resources import Demand
from arcray.core.workload import PayloadKind, Phase, Priority, RestartPolicy, RestartRule, VolumeMount
from arcray.facades.rest import codec
from arcray.facades.rest import operation_messages as om
from arcray.facades.rest.messages import (
    ContainerBody,
    DemandBody,
    ModelView,
    ProgramBody,
    ReservationView,
    ServerView,
    SliceView,
    WorkloadView,
)

AT = datetime(2026, 11, 21, tzinfo=UTC)
WORKLOAD = WorkloadView(
    id="w1",
    kind=PayloadKind.PROGRAM,
    name="train",
    phase=Phase.SUCCEEDED,
    node_id="n1",
    attempt=2,
    restarts=1,
    message="",
    priority="normal",
    facade="rest",
    external_id=None,
    image=None,
    entry_point="",
    model=None,
    demand=DemandBody(cpu=1.0),
    gpus=[],
    ports=[],
    created_at=AT,
    placed_at=AT,
    started_at=AT,
    finished_at=AT,
    exit_code=0,
    duration_ms=12.5,
    pid=77,
    results=1,
)
MODEL = ModelView(
    name="digits",
    owner="ana",
    format=ModelFormat.ONNX,
    source="blob",
    target="",
    max_concurrency=None,
    demand=DemandBody(),
    created_at=AT,
    ready_on=["n1"],
    servers=[ServerView(id="w2", phase=Phase.RUNNING, node_id="n1", pid=78, message="", restarts=0)],
)
RESERVATION = ReservationView(
    id="r1",
    state=ReservationState.ACTIVE,
    slices=[SliceView(node_id="n1", demand=DemandBody(cpu=2.0), gpus=[], left=DemandBody(cpu=1.0), gpus_left=[])],
    created_at=AT,
    expires_at=AT,
    ended_at=None,
    message="",
)
OPTIONS = WorkOptions(
    name="work",
    demand=Demand(cpu_milli=1500, memory_bytes=2**30, gpus=2, gpu_memory_bytes=2**31),
    priority=Priority.BACKGROUND,
    restart=RestartPolicy(rule=RestartRule.ALWAYS, max_restarts=None),
    node_id="n1",
    selector={"zone": "a"},
    max_duration_s=60,
)


class Recorder:
    def __init__(self) -> None:
        self.body = b""
        self.client = Client("http://pool", transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.body = request.content
        view = {"models": MODEL, "reservations": RESERVATION}.get(request.url.path.rpartition("/")[2], WORKLOAD)
        return httpx.Response(201, content=codec.encode(view))


def check_options(body: ProgramBody | ContainerBody) -> None:
    assert body.demand == DemandBody(cpu=1.5, memory_mb=1024, gpus=2, gpu_memory_mb=2048)
    assert body.restart_policy is not None
    assert (body.restart_policy.rule, body.restart_policy.max_restarts) == (RestartRule.ALWAYS, None)
    assert (body.name, body.priority, body.node_id) == ("work", "background", "n1")
    assert (body.selector, body.max_duration_s) == ({"zone": "a"}, 60)


def test_program_is_read_as_it_was_meant() -> None:
    recorder = Recorder()
    recorder.client.submit_program("print('ü')", args=["-x"], stdin="in", env={"A": "b"}, options=OPTIONS)
    body = codec.decode_submission(recorder.body)
    assert isinstance(body, ProgramBody)
    assert (body.source, body.args, body.stdin, body.env) == ("print('ü')", ["-x"], "in", {"A": "b"})
    check_options(body)


def test_archive_is_read_as_it_was_meant() -> None:
    recorder = Recorder()
    recorder.client.submit_program(b"PK\x00\xff", entry_point="run.py")
    body = codec.decode_submission(recorder.body)
    assert isinstance(body, ProgramBody)
    assert (body.archive, body.entry_point) == (b"PK\x00\xff", "run.py")


def test_container_is_read_as_it_was_meant() -> None:
    recorder = Recorder()
    volume = VolumeMount(source="/data", target="/in", read_only=True)
    recorder.client.submit_container(
        "busybox", command=["sh"], args=["-c"], env={"A": "b"}, ports=[80], volumes=[volume], options=OPTIONS
    )
    body = codec.decode_submission(recorder.body)
    assert isinstance(body, ContainerBody)
    assert (body.image, body.command, body.args, body.env) == ("busybox", ["sh"], ["-c"], {"A": "b"})
    assert [port.container_port for port in body.ports] == [80]
    assert [(one.source, one.target, one.read_only) for one in body.volumes] == [("/data", "/in", True)]
    check_options(body)


def test_model_is_read_as_it_was_meant() -> None:
    recorder = Recorder()
    recorder.client.register_model("digits", "onnx", content=b"\x00onnx", replicas=2, demand=Demand(cpu_milli=500))
    body = codec.decode_model(recorder.body)
    assert (body.name, body.format, body.content, body.replicas) == ("digits", ModelFormat.ONNX, b"\x00onnx", 2)
    recorder.client.register_model("digits", "onnx", from_workload=("w1", "model.onnx"))
    body = codec.decode_model(recorder.body)
    assert body.from_workload is not None
    assert (body.from_workload.id, body.from_workload.path) == ("w1", "model.onnx")
    recorder.client.register_model("llama", "openai", source="http://127.0.0.1:8001", target="m", max_concurrency=8)
    body = codec.decode_model(recorder.body)
    assert (body.source, body.target, body.max_concurrency) == ("http://127.0.0.1:8001", "m", 8)


def test_how_work_stands_to_other_work_is_read_as_it_was_meant() -> None:
    recorder = Recorder()
    gang = Gang(id="g", size=2, layout=Layout.PACK)
    options = WorkOptions(preemptible=True, gang=gang, reservation_id="r1")
    recorder.client.submit_program("1", options=options)
    body = codec.decode_submission(recorder.body)
    assert body.gang is not None
    assert (body.gang.id, body.gang.size, body.gang.layout) == ("g", 2, Layout.PACK)
    assert (body.preemptible, body.reservation_id) == (True, "r1")


def test_reservation_is_read_as_it_was_meant() -> None:
    recorder = Recorder()
    held = recorder.client.reserve(
        Demand(cpu_milli=1500, gpus=1), parts=2, kind="program", selector={"zone": "a"}, ttl_s=5
    )
    body = codec.decode_reservation(recorder.body)
    assert body.demand == DemandBody(cpu=1.5, gpus=1)
    assert (body.strategy, body.parts, body.kind, body.selector, body.ttl_s) == ("even", 2, "program", {"zone": "a"}, 5)
    recorder.client.reserve(Demand(cpu_milli=1), node_id="n1")
    body = codec.decode_reservation(recorder.body)
    assert (body.strategy, body.node_id, body.ttl_s) == ("greedy", "n1", 300)
    assert (held.id, held.state, held.expires_at) == ("r1", ReservationState.ACTIVE, "2026-11-21T00:00:00Z")
    (part,) = held.slices
    assert (part.node_id, part.granted["cpu"], part.left["cpu"]) == ("n1", 2.0, 1.0)


def test_answers_are_read_as_they_were_meant() -> None:
    recorder = Recorder()
    workload = recorder.client.submit_program("1")
    assert workload == WorkloadInfo(
        id="w1",
        kind="program",
        name="train",
        phase=Phase.SUCCEEDED,
        node_id="n1",
        attempt=2,
        message="",
        exit_code=0,
        duration_ms=12.5,
        pid=77,
        created_at="2026-11-21T00:00:00Z",
        raw=workload.raw,
    )
    model = recorder.client.register_model("digits", "onnx", content=b"x")
    assert model == ModelInfo(name="digits", format="onnx", ready_on=("n1",), pids=(78,), messages=(), raw=model.raw)


def test_operations_are_read_as_they_were_meant() -> None:
    recorder = Recorder()
    operations = recorder.client.operations
    operations.drain("n1", gpus=[0], deadline_s=60.0, grace_s=5.0)
    assert codec.decode(om.DrainBody, recorder.body) == om.DrainBody(gpus=[0], deadline_s=60.0, grace_s=5.0)
    operations.cordon("n1", gpus=[1])
    assert codec.decode(om.CordonBody, recorder.body).gpus == [1]
    operations.label("n1", {"a": "b", "c": None})
    assert codec.decode(om.LabelsBody, recorder.body).labels == {"a": "b", "c": None}
    operations.set_quota("ana", {"cpu": 1.5, "pending": 3})
    assert codec.decode(om.QuotaBody, recorder.body) == om.QuotaBody(cpu=1.5, pending=3)
    operations.replay("w1", {"image": "x", "demand": {"gpus": 1}})
    assert codec.decode(om.ReplayBody, recorder.body).model_fields_set == {"image", "demand"}
    operations.simulate(add_nodes=[{"count": 2, "gpus": 8}], drain_nodes=["n1"], submit=[{"count": 3}])
    body = codec.decode(om.SimulateBody, recorder.body)
    assert (body.add_nodes[0].gpus, body.drain_nodes, body.submit[0].count) == (8, ["n1"], 3)


def test_selectors_are_read_as_they_were_meant() -> None:
    recorder = Recorder()
    recorder.client.submit_program("1", options=WorkOptions(selector="zone in (a,b)"))
    body: BaseModel = codec.decode_submission(recorder.body)
    assert body.model_dump()["selector"] == "zone in (a,b)"
