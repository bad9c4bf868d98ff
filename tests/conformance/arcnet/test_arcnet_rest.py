"""ArcNet over HTTP against a whole control plane: routes, filters, errors, idempotency."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from itertools import count
from typing import Any
from uuid import UUID

import httpx
import pytest

from arcray.core.commands import ReportTelemetry, SetNodeScheduling
from arcray.core.node import EnergySource, Location, Telemetry
from arcray.core.policy import ClusterPolicy
from arcray.facades.arcnet import openapi
from arcray.testing.builders import a_capacity
from arcray.testing.simulated_node import SimulatedNode

jsonschema: Any = pytest.importorskip("jsonschema", reason="Ray brings it")

QUICK = ClusterPolicy(routing_patience=timedelta(milliseconds=20))
ECHO = {"echo": lambda value: {"got": value}}


def a_fleet() -> list[SimulatedNode]:
    return [
        SimulatedNode("west", models=ECHO, location=Location(geohash="9q9hvu"), capacity=a_capacity(gpus=2)),
        SimulatedNode("texas", location=Location(geohash="9v6kn8")),
        SimulatedNode("nowhere"),
    ]


async def report(served: Any, node: SimulatedNode, **fields: Any) -> None:
    telemetry = Telemetry(at=served.cluster.clock.now(), **fields)
    await served.cluster.ask(ReportTelemetry(node_id=node.id, epoch=node.epoch, telemetry=telemetry))


def names(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [node["name"] for node in response.json()["nodes"]]


async def test_nodes_are_listed_with_all_their_members(serve: Any) -> None:
    nodes = a_fleet()
    async with serve(nodes=nodes) as served:
        response = await served.client.get("/api/v1/nodes")
        body = response.json()
        jsonschema.validate(body, openapi.NODES)
        assert (body["total"], body["limit"], body["offset"]) == (3, 100, 0)
        west = body["nodes"][0]
        one = (await served.client.get(f"/api/v1/nodes/{nodes[0].id}")).json()
    assert one == west
    jsonschema.validate(one, openapi.NODE)
    assert set(west) == set(openapi.NODE["properties"])
    assert UUID(west["id"])
    assert (west["geozone"], west["status"], west["gpuCount"], west["gpuMemoryTotalGb"]) == ("CAISO", "idle", 2, 160.0)
    assert (west["externalId"], west["driver"], west["modelsLoaded"]) == ("west", "local", ["echo"])


async def test_filters_and_pages_are_applied_before_the_total(serve: Any) -> None:
    nodes = a_fleet()
    async with serve(nodes=nodes) as served:
        await report(served, nodes[1], cpu_utilization=0.9, energy_source=EnergySource.COGEN)
        get = served.client.get
        assert names(await get("/api/v1/nodes?geozone=CAISO")) == ["west"]
        assert names(await get("/api/v1/nodes?geozone=UNKNOWN")) == ["nowhere"]
        assert names(await get("/api/v1/nodes?geozone=MARS")) == []
        assert names(await get("/api/v1/nodes?status=busy")) == ["texas"]
        assert names(await get("/api/v1/nodes?energy=cogen")) == ["texas"]
        assert names(await get("/api/v1/nodes?energy=solar")) == ["texas"]
        assert names(await get("/api/v1/nodes?energy=grid&status=idle")) == ["west", "nowhere"]
        page = await get("/api/v1/nodes?limit=1&offset=1")
        assert names(page) == ["texas"]
        assert page.json()["total"] == 3
        assert (await get("/api/v1/nodes?energy=grid&limit=1")).json()["total"] == 2


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=asleep", "status"),
        ("energy=coal", "energy"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("offset=-1", "offset"),
        ("geozone=" + "z" * 33, "geozone"),
    ],
)
async def test_invalid_parameter_is_400_and_named(serve: Any, query: str, field: str) -> None:
    async with serve(nodes=[]) as served:
        response = await served.client.get(f"/api/v1/nodes?{query}")
        assert (response.status_code, response.json()["field"]) == (400, field)


async def test_unknown_node_is_404_and_a_bad_id_400(serve: Any) -> None:
    async with serve(nodes=[]) as served:
        unknown = await served.client.get("/api/v1/nodes/550e8400-e29b-41d4-a716-446655440000")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "NOT_FOUND")
        bad = await served.client.get("/api/v1/nodes/seven")
        assert (bad.status_code, bad.json()["field"]) == (400, "id")


async def test_stats_have_every_member(serve: Any) -> None:
    async with serve(nodes=a_fleet()) as served:
        empty = (await served.client.get("/api/v1/stats")).json()
        assert empty["inference"]["latencyMs"] == {"p50": None, "p99": None}
        for _ in range(3):
            await served.client.post("/api/v1/inference", json={"modelId": "echo"})
        found = (await served.client.get("/api/v1/stats")).json()
    jsonschema.validate(found, openapi.STATS)
    assert found["nodes"] == {"total": 3, "online": 0, "busy": 0, "idle": 3, "stale": 0, "offline": 0}
    assert found["gpus"]["total"] == 2
    assert (found["inference"]["dispatched"], found["inference"]["completed"]) == (3, 3)
    assert found["inference"]["latencyMs"]["p99"] >= found["inference"]["latencyMs"]["p50"] > 0
    assert found["geozones"] == {"CAISO": 1, "ERCOT": 1, "UNKNOWN": 1}
    assert found["uptimeS"] > 0


async def test_inference_is_answered_by_the_model(serve: Any) -> None:
    nodes = a_fleet()
    body = {"modelId": "echo", "input": {"x": [1, 2.5, "é"]}, "requestId": "r-1", "source": [-122.4, 37.7]}
    async with serve(nodes=nodes) as served:
        response = await served.client.post("/api/v1/inference", json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    jsonschema.validate(found, openapi.ANSWER)
    assert isinstance(found.pop("latencyMs"), int)
    assert found == {
        "requestId": "r-1",
        "status": "completed",
        "targetNodeId": nodes[0].id,
        "modelId": "echo",
        "output": {"got": {"x": [1, 2.5, "é"]}},
        "servedBy": {"pid": 4242},
    }


async def test_request_without_an_id_gets_one(serve: Any) -> None:
    async with serve(nodes=a_fleet()) as served:
        found = [await served.client.post("/api/v1/inference", json={"modelId": "echo"}) for _ in range(2)]
    first, second = (UUID(response.json()["requestId"]) for response in found)
    assert first != second


async def test_no_candidate_is_503_with_the_explanation(serve: Any) -> None:
    async with serve(nodes=a_fleet(), policy=QUICK) as served:
        response = await served.client.post("/api/v1/inference", json={"modelId": "absent"})
    body = response.json()
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == "1"
    assert (body["code"], body["instance"]) == ("NO_CANDIDATES", "/api/v1/inference")
    assert body["explanation"]["nodes"] == 3
    assert sum(refusal["nodes"] for refusal in body["explanation"]["refusals"]) == 3
    assert body["explanation"]["sentence"] in body["detail"]


async def test_model_that_fails_is_502_with_the_request(serve: Any) -> None:
    def broken(_: object) -> None:
        raise ValueError("no such digit")

    nodes = [SimulatedNode(models={"broken": broken})]
    async with serve(nodes=nodes) as served:
        response = await served.client.post("/api/v1/inference", json={"modelId": "broken", "requestId": "r-2"})
    body = response.json()
    assert response.status_code == 502
    assert response.headers["content-type"] == "application/problem+json"
    assert (body["code"], body["status"], body["requestId"]) == ("INFERENCE_FAILED", 502, "r-2")
    assert (body["targetNodeId"], body["modelId"]) == (nodes[0].id, "broken")
    assert "no such digit" in body["detail"]


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b"\xff", "body"),
        (b'{"modelId":NaN}', "body"),
        (b"{}", "modelId"),
        (b'{"modelId":"m","maxLatencyMs":0}', "maxLatencyMs"),
    ],
)
async def test_malformed_body_is_400_and_named(serve: Any, content: bytes, field: str) -> None:
    async with serve(nodes=[]) as served:
        response = await served.client.post("/api/v1/inference", content=content)
        assert (response.status_code, response.json()["field"]) == (400, field)


async def test_wrong_method_and_unknown_path_are_problems(serve: Any) -> None:
    async with serve(nodes=[]) as served:
        method = await served.client.get("/api/v1/inference")
        assert (method.status_code, method.headers["allow"]) == (405, "POST")
        unknown = await served.client.get("/api/v1/nothing")
        assert unknown.status_code == 404
        for response in (method, unknown):
            assert response.headers["content-type"] == "application/problem+json"


async def test_same_request_id_runs_once(serve: Any) -> None:
    calls = count(1)
    nodes = [SimulatedNode(models={"count": lambda _: next(calls)})]
    body = {"modelId": "count", "requestId": "r-3"}
    async with serve(nodes=nodes) as served:
        answers = await asyncio.gather(*(served.client.post("/api/v1/inference", json=body) for _ in range(5)))
        other = await served.client.post("/api/v1/inference", json=body | {"input": 1})
    assert [answer.status_code for answer in answers] == [200] * 5
    assert {answer.json()["output"] for answer in answers} == {1}
    assert next(calls) == 2
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_MISMATCH")


async def test_request_that_found_no_node_may_be_tried_again_under_its_id(serve: Any) -> None:
    node = SimulatedNode()
    body = {"modelId": "late", "requestId": "r-6"}
    async with serve(nodes=[node]) as served:
        refused = await served.client.post("/api/v1/inference", json=body)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        node.load("late", lambda _: "here")
        for _ in range(2):
            answer = await served.client.post("/api/v1/inference", json=body)
            assert (answer.status_code, answer.json()["output"]) == (200, "here")


async def test_request_that_was_asked_before_without_waiting_is_answered_with_its_output(serve: Any) -> None:
    body = {"modelId": "echo", "input": 1, "requestId": "r-7"}
    async with serve(nodes=a_fleet()) as served:
        first = await served.client.post("/api/v1/inference", json=body, headers={"Prefer": "respond-async"})
        await served.cluster.finished(first.headers["location"].rpartition("/")[2])
        answer = await served.client.post("/api/v1/inference", json=body)
        assert (answer.status_code, answer.json()["status"], answer.json()["output"]) == (200, "completed", {"got": 1})


async def test_idempotency_key_comes_before_the_request_id(serve: Any) -> None:
    calls = count(1)
    nodes = [SimulatedNode(models={"count": lambda _: next(calls)})]
    async with serve(nodes=nodes) as served:

        async def ask(key: str) -> Any:
            headers = {"Idempotency-Key": key}
            body = {"modelId": "count", "requestId": "r-4"}
            return (await served.client.post("/api/v1/inference", json=body, headers=headers)).json()["output"]

        assert [await ask("k1"), await ask("k1"), await ask("k2")] == [1, 1, 2]
        long = await served.client.post(
            "/api/v1/inference", json={"modelId": "count"}, headers={"Idempotency-Key": "k" * 256}
        )
        assert (long.status_code, long.json()["field"]) == (400, "Idempotency-Key")


async def test_respond_async_is_202_and_its_workload_has_the_end(serve: Any) -> None:
    async with serve(nodes=a_fleet()) as served:
        response = await served.client.post(
            "/api/v1/inference",
            json={"modelId": "echo", "input": 1, "requestId": "r-5"},
            headers={"Prefer": "respond-async"},
        )
        assert response.status_code == 202
        assert response.headers["preference-applied"] == "respond-async"
        body = response.json()
        assert body["requestId"] == "r-5"
        assert body["status"] in ("pending", "dispatched", "processing", "completed")
        assert "latencyMs" not in body
        location = response.headers["location"]
        done = await served.cluster.finished(location.rpartition("/")[2])
        assert done.phase == "succeeded"
        shown = (await served.client.get(location)).json()
        assert (shown["kind"], shown["model"], shown["externalId"]) == ("inference", "echo", "r-5")
        assert shown["output"] == {"got": 1}


async def test_node_that_was_drained_takes_nothing_more(serve: Any) -> None:
    nodes = a_fleet()
    async with serve(nodes=nodes, policy=QUICK) as served:
        await served.cluster.ask(SetNodeScheduling(node_id=nodes[0].id, cordoned=True))
        response = await served.client.post("/api/v1/inference", json={"modelId": "echo"})
        assert response.status_code == 503


async def test_keys_mode_wants_a_key_everywhere(serve: Any) -> None:
    auth = {"mode": "keys", "keys": {"ana": "k-ana", "bo": "k-bo"}}
    async with serve(nodes=a_fleet(), auth=auth) as served:
        for method, path in (("GET", "nodes"), ("GET", "nodes/x"), ("GET", "stats"), ("POST", "inference")):
            response = await served.client.request(method, f"/api/v1/{path}")
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer"), path
        body = {"modelId": "echo", "requestId": "same"}
        ana = await served.client.post("/api/v1/inference", json=body, headers={"Authorization": "Bearer k-ana"})
        # Request ids are each account's own: another body under the same id is no conflict.
        bo = await served.client.post("/api/v1/inference?apiKey=k-bo", json=body | {"input": 5})
        assert (ana.status_code, bo.status_code) == (200, 200)
        assert bo.json()["output"] == {"got": 5}


async def test_large_body_is_413(serve: Any) -> None:
    async with serve(nodes=[], gateway={"max_body_bytes": 2048}) as served:
        body = json.dumps({"modelId": "m", "input": "x" * 2048})
        response = await served.client.post("/api/v1/inference", content=body)
        assert response.status_code == 413


async def test_inference_has_a_limit_of_its_own_which_the_refusal_names(serve: Any) -> None:
    async with serve(nodes=[], inference={"max_body_bytes": 2048}) as served:
        body = json.dumps({"modelId": "m", "input": "x" * 2048})
        refused = await served.client.post("/api/v1/inference", content=body)
        assert refused.status_code == 413
        assert "2048 bytes that inference.max_body_bytes allows" in refused.json()["error"]
        elsewhere = await served.client.post("/api/v1/workloads", content=body)
        assert elsewhere.status_code == 400


async def test_a_large_input_reaches_its_model_as_it_was_written(serve: Any) -> None:
    async with serve(nodes=a_fleet()) as served:
        value = [[0.5, index] for index in range(20_000)]
        answer = await served.client.post("/api/v1/inference", json={"modelId": "echo", "input": value})
        assert (answer.status_code, answer.json()["output"]) == (200, {"got": value})
        wrong = await served.client.post("/api/v1/inference", json={"modelId": value, "input": 1})
        assert (wrong.status_code, wrong.json()["field"]) == (400, "modelId")


async def test_documentation_shows_the_bodies(serve: Any) -> None:
    async with serve(nodes=[]) as served:
        document = (await served.client.get("/openapi.json")).json()
    operation = document["paths"]["/api/v1/inference"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(operation["responses"]) >= {"200", "202", "400", "503"}
    listed = {item["name"] for item in document["paths"]["/api/v1/nodes"]["get"]["parameters"]}
    assert listed == {"geozone", "status", "energy", "limit", "offset"}
