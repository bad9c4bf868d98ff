"""Units, defaults and rules between members: what REST bodies mean in core's words, and how core shows."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import timedelta
from typing import Any

import pytest

from arcray.core.answers import workload_view
from arcray.core.blobkeys import INLINE_BYTES, inline
from arcray.core.claim import Claim, Eviction
from arcray.core.commands import Submitted
from arcray.core.errors import InvalidArgumentError, NotFoundError
from arcray.core.explanation import StartEstimate, WaitsFor, WorkloadExplanation
from arcray.core.gang import Gang, Layout
from arcray.core.ids import AccountId, ModelId, WorkloadId
from arcray.core.model import ModelFormat
from arcray.core.placement.explain import Change, Explanation, FilterRefusal
from arcray.core.policy import ClusterPolicy
from arcray.core.quantity import MIB
from arcray.core.queries import ModelView
from arcray.core.quota import Excess
from arcray.core.resources import NO_DEMAND, Allocation, Demand, GpuShare
from arcray.core.workload import (
    Container,
    ModelServer,
    Phase,
    PortMapping,
    Priority,
    Program,
    RestartPolicy,
    RestartRule,
    Result,
    VolumeMount,
    WorkloadSpec,
    WorkloadView,
)
from arcray.facades.rest import codec, model_translate, translate
from arcray.facades.rest import messages as m
from arcray.testing.builders import T0, a_container, a_model, a_workload, an_inference, node_id
from arcray.testing.world import World

ID = WorkloadId("00000000-0000-0000-0000-000000000001")
WHO = translate.Submission(workload_id=ID, account=AccountId("ana"), now=T0, key="k", digest="d")


def program(**members: Any) -> tuple[WorkloadSpec, dict[str, bytes]]:
    body = codec.decode_submission(json.dumps({"kind": "program"} | members).encode())
    assert isinstance(body, m.ProgramBody)
    return translate.program_of(body, WHO)


def container(**members: Any) -> WorkloadSpec:
    body = codec.decode_submission(json.dumps({"kind": "container", "image": "busybox"} | members).encode())
    assert isinstance(body, m.ContainerBody)
    return translate.container_of(body, WHO)


def model(**members: Any) -> m.ModelBody:
    return codec.decode_model(json.dumps({"name": "digits", "format": "onnx"} | members).encode())


def test_source_becomes_a_blob_that_the_program_names() -> None:
    source, stdin = "print('é')" + " " * INLINE_BYTES, "i" * (INLINE_BYTES + 1)
    spec, blobs = program(source=source, stdin=stdin, args=["-x"], env={"B": "2", "A": "1"})
    assert blobs == {f"programs/{ID}.py": source.encode(), f"stdin/{ID}": stdin.encode()}
    assert spec.payload == Program(
        blob=f"programs/{ID}.py", args=("-x",), env=(("B", "2"), ("A", "1")), stdin_blob=f"stdin/{ID}"
    )
    assert (spec.id, spec.origin.facade, spec.origin.account) == (ID, "rest", "ana")
    assert (spec.request_id, spec.request_digest, spec.waiting) == ("k", "d", False)


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"image": "busybox latest"}, "image: must have no white space"),
        ({"image": "busybox@md5:abc"}, "image: must have a digest that begins with 'sha256:' or 'sha512:'"),
        ({"image": "registry/"}, "image: must not end with ':' or '/'"),
        (
            {"demand": {"gpus": 1, "gpuMemoryMb": 1_048_577}},
            "demand.gpuMemoryMb: must be between 0 and 1048576, got 1048577",
        ),
        ({"demand": {"cpu": 1024.001}}, "demand.cpu: in millicores must be between 0 and 1024000, got 1024001"),
        ({"demand": {"memoryMb": 4_194_305}}, "demand.memoryMb: must be between 0 and 4194304, got 4194305"),
    ],
)
def test_a_container_keeps_the_rules_of_claw_proto(members: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidArgumentError) as refusal:
        container(**members)
    assert str(refusal.value) == told


def test_the_most_that_claw_proto_lets_be_asked_can_be_asked() -> None:
    most = {"cpu": 1024, "memoryMb": 4_194_304, "gpus": 64, "gpuMemoryMb": 1_048_576}
    found = container(demand=most, ports=[1, 65_535], env={"my.var": "x"}, image="localhost:5000/a:1")
    assert found.demand.cpu_milli == 1_024_000
    assert program(source="x", demand={"cpu": 1025})[0].demand.cpu_milli == 1_025_000


def test_what_is_small_is_its_own_key() -> None:
    spec, _ = program(source="print('é')", stdin="i" * INLINE_BYTES)
    assert isinstance(spec.payload, Program)
    assert inline(spec.payload.blob) == "print('é')".encode()
    assert inline(spec.payload.stdin_blob) == b"i" * INLINE_BYTES


def test_archive_becomes_a_zip_blob_with_an_entry_point() -> None:
    archive = b"PK\x03\x04" + bytes(INLINE_BYTES)
    spec, blobs = program(archive=b64encode(archive).decode(), entryPoint="src/train.py")
    assert blobs == {f"programs/{ID}.zip": archive}
    assert spec.payload == Program(blob=f"programs/{ID}.zip", archive=True, entry_point="src/train.py")


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({}, "source"),
        ({"source": "x", "archive": "UEsDBA=="}, "source"),
        ({"source": "x", "entryPoint": "a.py"}, "entryPoint"),
        ({"archive": "UEsDBA==", "entryPoint": "/etc/passwd"}, "entryPoint"),
        ({"archive": "UEsDBA==", "entryPoint": "a/../../b.py"}, "entryPoint"),
        ({"source": "x", "nodeId": "seven"}, "nodeId"),
        ({"source": "x", "demand": {"gpuMemoryMb": 1}}, "demand.gpuMemoryMb"),
    ],
)
def test_members_that_do_not_fit_together_are_named(members: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as refusal:
        program(**members)
    assert refusal.value.field == field


def test_demand_is_read_in_cores_and_mebibytes() -> None:
    asked = {"cpu": 1.5, "memoryMb": 512, "gpus": 2, "gpuMemoryMb": 1024}
    spec, _ = program(source="x", demand=asked)
    assert spec.demand == Demand(cpu_milli=1500, memory_bytes=512 * MIB, gpus=2, gpu_memory_bytes=1024 * MIB)


@pytest.mark.parametrize("gpus", [0, 2])
def test_gpu_memory_of_0_is_none_that_is_asked_for(gpus: int) -> None:
    spec, _ = program(source="x", demand={"cpu": 1, "memoryMb": 0, "gpus": gpus, "gpuMemoryMb": 0})
    assert spec.demand == Demand(cpu_milli=1000, gpus=gpus)


def test_program_without_a_demand_takes_a_core_and_a_container_nothing() -> None:
    assert program(source="x")[0].demand == Demand(cpu_milli=1000)
    assert program(source="x", demand={})[0].demand == NO_DEMAND
    assert container().demand == NO_DEMAND


def test_common_members_are_translated() -> None:
    spec = container(
        name="web",
        priority="critical",
        restartPolicy={"rule": "always", "maxRestarts": None},
        selector={"zone": "b", "disk": "ssd"},
        nodeId=node_id(1).upper(),
        maxDurationS=60,
    )
    assert spec.name == "web"
    assert spec.priority is Priority.CRITICAL
    assert spec.restart == RestartPolicy(rule=RestartRule.ALWAYS, max_restarts=None)
    assert spec.selector == (("disk", "ssd"), ("zone", "b"))
    assert spec.node_id == node_id(1)
    assert spec.max_duration_s == 60.0


def test_container_members_are_translated() -> None:
    spec = container(
        command=["sh"],
        args=["-c", "true"],
        env={"A": "1"},
        ports=[80, {"containerPort": 443, "hostPort": 8443}],
        volumes=[{"source": "/data", "target": "/mnt", "readOnly": True}],
    )
    assert spec.payload == Container(
        image="busybox",
        command=("sh",),
        args=("-c", "true"),
        env=(("A", "1"),),
        ports=(PortMapping(container_port=80), PortMapping(container_port=443, host_port=8443)),
        volumes=(VolumeMount(source="/data", target="/mnt", read_only=True),),
    )


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({}, "source"),
        ({"source": "models/x.onnx"}, "source"),
        ({"content": "AAAA", "fromWorkload": {"id": "x", "path": "y"}}, "fromWorkload"),
        ({"format": "python", "content": "AAAA"}, "content"),
        ({"format": "openai", "source": "ftp://host"}, "source"),
        ({"format": "openai", "source": "localhost:8000"}, "source"),
        ({"format": "openai", "source": "http://"}, "source"),
        ({"format": "openai", "source": "http://host:99999"}, "source"),
        ({"format": "openai", "source": "http://host/api/jobs/?x="}, "source"),
        ({"format": "openai", "source": "http://host/api/jobs/#"}, "source"),
        ({"format": "openai", "source": "http://me:word@host"}, "source"),
    ],
)
def test_model_comes_as_its_format_wants_it(members: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as refusal:
        model_translate.source_of(model(**members))
    assert refusal.value.field == field


def test_model_and_its_servers() -> None:
    body = model(format="python", source="pkg:call", maxConcurrency=4, demand={"gpus": 1}, env={"A": "1"})
    assert model_translate.source_of(body) == "pkg:call"
    assert model_translate.source_of(model(content="AAAA")) is None
    found = model_translate.model_of(body, "pkg:call", AccountId("ana"), T0)
    assert (found.id, found.format, found.max_concurrency) == ("digits", ModelFormat.PYTHON, 4)
    assert (found.demand, found.env, found.owner) == (Demand(gpus=1), (("A", "1"),), "ana")
    server = model_translate.server_of(body, found, WHO)
    assert server.payload == ModelServer(model=found)
    assert (server.demand, server.name, server.request_id) == (Demand(gpus=1), "digits", "")
    assert server.restart.rule is RestartRule.ON_FAILURE


def view(spec: WorkloadSpec, **fields: Any) -> WorkloadView:
    defaults: dict[str, Any] = {
        "spec": spec,
        "phase": Phase.RUNNING,
        "attempt": 1,
        "restarts": 0,
        "node_id": node_id(1),
        "allocation": None,
        "message": "",
        "result": None,
        "placed_at": T0,
        "started_at": None,
        "finished_at": None,
        "ports": (),
    }
    return WorkloadView(**(defaults | fields))


def test_workload_is_shown_in_wire_names_and_units() -> None:
    spec = a_workload(
        payload=a_container(image="nginx"),
        name="web",
        demand=Demand(cpu_milli=1500, memory_bytes=MIB, gpus=1, gpu_memory_bytes=2 * MIB),
    )
    shown = translate.workload_view(
        view(
            spec,
            phase=Phase.SUCCEEDED,
            allocation=Allocation(gpus=(GpuShare(index=3, memory_bytes=2 * MIB, whole=False),)),
            ports=(PortMapping(container_port=80, host_port=32_768),),
            result=Result(exit_code=0, duration_ms=12.5, pid=7, blobs=("results/x/a",)),
            finished_at=T0 + timedelta(milliseconds=1500),
        )
    )
    assert json.loads(codec.encode(shown)) == {
        "id": spec.id,
        "kind": "container",
        "name": "web",
        "phase": "succeeded",
        "nodeId": node_id(1),
        "attempt": 1,
        "restarts": 0,
        "message": "",
        "priority": "normal",
        "facade": "rest",
        "externalId": None,
        "image": "nginx",
        "entryPoint": None,
        "model": None,
        "demand": {"cpu": 1.5, "memoryMb": 1, "gpus": 1, "gpuMemoryMb": 2},
        "gpus": [3],
        "ports": [{"containerPort": 80, "hostPort": 32_768}],
        "createdAt": "2026-01-01T00:00:00Z",
        "placedAt": "2026-01-01T00:00:00Z",
        "startedAt": None,
        "finishedAt": "2026-01-01T00:00:01.500000Z",
        "exitCode": 0,
        "durationMs": 12.5,
        "pid": 7,
        "results": 1,
        "maxDurationS": None,
        "notBefore": None,
        "replayOf": None,
        "replayedBy": None,
        "output": None,
        "cost": None,
        "preemptible": False,
        "preemptions": 0,
        "gang": None,
        "reservationId": None,
        "keptNodeId": None,
        "eviction": None,
    }


def test_each_kind_shows_what_it_runs() -> None:
    inference = translate.workload_view(view(a_workload(payload=an_inference())))
    assert (inference.kind, inference.model) == ("inference", "echo")
    server = translate.workload_view(view(a_workload(payload=ModelServer(model=a_model()))))
    assert (server.kind, server.model, server.image) == ("model", "echo", None)
    archive = translate.workload_view(view(a_workload(payload=Program(blob="b", archive=True, entry_point="a.py"))))
    assert (archive.kind, archive.entry_point) == ("program", "a.py")


def test_how_work_stands_to_other_work_is_carried_over() -> None:
    reservation = "550E8400-E29B-41D4-A716-446655440000"
    spec = container(preemptible=True, priority="background", reservationId=reservation)
    assert (spec.preemptible, spec.priority, spec.reservation_id) == (True, Priority.BACKGROUND, reservation.lower())
    spec, _ = program(source="1", gang={"id": "g", "size": 3, "layout": "spread"})
    assert spec.gang == Gang(id="g", size=3, layout=Layout.SPREAD)
    claim = Claim(node_id=node_id(2), allocation=Allocation(), victims=())
    shown = translate.workload_view(view(spec, claim=claim, eviction=Eviction(reason="why"), preemptions=2))
    assert shown.gang == m.GangBody(id="g", size=3, layout=Layout.SPREAD)
    assert (shown.kept_node_id, shown.eviction, shown.preemptions) == (node_id(2), "why", 2)


def test_results_are_named_by_their_path() -> None:
    spec = a_workload()
    found = view(spec, phase=Phase.SUCCEEDED, result=Result(blobs=(f"results/{spec.id}/a/b.txt",)))
    assert translate.result_paths(found) == {"a/b.txt": f"results/{spec.id}/a/b.txt"}
    assert translate.result_key_of(found, "a/b.txt") == f"results/{spec.id}/a/b.txt"
    for path in ("", "a", "../x", f"results/{spec.id}/a/b.txt"):
        with pytest.raises(NotFoundError):
            translate.result_key_of(found, path)
    with pytest.raises(NotFoundError, match="not ended"):
        translate.result_key_of(view(spec), "a/b.txt")


@pytest.mark.parametrize("name", ["PATH", "CUDA_VISIBLE_DEVICES", "PYTHONPATH", "OMP_NUM_THREADS"])
def test_model_cannot_set_what_its_node_sets(name: str) -> None:
    body = model(format="python", source="pkg:call", env={"MODEL_A": "1", name: "x"})
    with pytest.raises(InvalidArgumentError, match=name) as refusal:
        model_translate.model_of(body, "pkg:call", AccountId("ana"), T0)
    assert refusal.value.field == f"env.{name}"


def test_model_shows_its_copies_with_their_processes() -> None:
    registered = a_model()
    spec = a_workload(payload=ModelServer(model=registered))
    found = ModelView(model=registered, servers=(view(spec, message="warm"),), lasting=1, ready_on=(node_id(1),))
    shown = model_translate.model_view(found, {spec.id: 99})
    assert (shown.name, shown.ready_on) == (ModelId("echo"), [node_id(1)])
    assert shown.servers == [
        m.ServerView(id=spec.id, phase=Phase.RUNNING, node_id=node_id(1), pid=99, message="warm", restarts=0)
    ]
    assert model_translate.model_view(found, {}).servers[0].pid is None


def test_copy_that_runs_and_is_not_offered_says_so() -> None:
    registered = a_model()
    spec = a_workload(payload=ModelServer(model=registered))
    found = ModelView(model=registered, servers=(view(spec),), lasting=1, ready_on=())
    assert "its log says why" in model_translate.model_view(found, {}).servers[0].message
    assert model_translate.model_view(found, {spec.id: None}).servers[0].message == ""


def explained(**fields: Any) -> WorkloadExplanation:
    placement = Explanation(
        nodes=2,
        refusals=(FilterRefusal(filter="memory", nodes=2, reason="needs 2 MiB free memory"),),
        suggestion="1 MiB less memory would fit",
        change=Change(what="memory", by=MIB - 1),
    )
    defaults: dict[str, Any] = {
        "workload_id": ID,
        "account": AccountId("ana"),
        "at": T0,
        "phase": Phase.PENDING,
        "node_id": None,
        "waits_for": WaitsFor.PLACE,
        "placement": placement,
    }
    return WorkloadExplanation(**(defaults | fields))


def test_explanation_is_shown_whole() -> None:
    soon = StartEstimate(earliest=T0, latest=T0 + timedelta(seconds=9), basis="such work starts every 9 s")
    found = explained(ahead=3, first_ahead=(ID,), estimate=soon)
    shown = json.loads(codec.encode(translate.explanation_body(found)))
    assert shown == {
        "nodes": 2,
        "fits": 0,
        "refusals": [{"filter": "memory", "nodes": 2, "reason": "needs 2 MiB free memory"}],
        "suggestion": "1 MiB less memory would fit",
        "notes": [],
        "change": {"what": "memory", "by": 1.0},
        "waitsFor": "place",
        "notBefore": None,
        "quota": [],
        "ahead": 3,
        "firstAhead": [ID],
        "estimate": {
            "earliest": "2026-01-01T00:00:00Z",
            "latest": "2026-01-01T00:00:09Z",
            "basis": "such work starts every 9 s",
        },
        "sentence": found.sentence(),
    }


@pytest.mark.parametrize("nodes", [0, 1], ids=["waits", "placed"])
def test_what_a_new_submission_answers_is_what_a_query_would(nodes: int) -> None:
    world = World(ClusterPolicy())
    for _ in range(nodes):
        world.attach()
    spec = a_workload(1)
    reply = world.submit(spec).reply
    assert isinstance(reply, Submitted)
    assert translate.accepted(spec, reply) == workload_view(world.workload(spec.id))


def test_quota_is_the_first_filter_and_refuses_every_node() -> None:
    excess = Excess(resource="cpu", held=3000, asked=2000, limit=4000)
    found = explained(waits_for=WaitsFor.QUOTA, excesses=(excess,))
    shown = json.loads(codec.encode(translate.explanation_body(found)))
    reason = "account ana holds 3 of 4 cpu and this asks for 2"
    assert shown["refusals"] == [{"filter": "quota", "nodes": 2, "reason": reason}]
    assert shown["quota"] == [{"resource": "cpu", "held": 3.0, "asked": 2.0, "limit": 4.0}]
    assert (shown["fits"], shown["change"], shown["estimate"]) == (0, None, None)
    assert shown["sentence"] == f"waits for its quota: {reason}; when it starts is unknown"
