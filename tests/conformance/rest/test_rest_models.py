"""The models API against a whole control plane: register, load, read, remove."""

from __future__ import annotations

import asyncio
import base64
from hashlib import sha256
from typing import Any

import pytest

from arcray.core.blobkeys import result_key
from arcray.core.commands import ReportModels
from arcray.core.ids import ModelId, WorkloadId
from arcray.core.model import ModelSlots
from arcray.core.orders import StartWorkload
from arcray.core.workload import ModelServer, Result
from arcray.testing.simulated_node import Script, SimulatedNode

PATH = "/api/v1/models"
PYTHON = {"name": "echo", "format": "python", "source": "pkg:echo"}


def endless() -> SimulatedNode:
    return SimulatedNode(script=lambda _: Script(end=None))


def served_models(node: SimulatedNode) -> list[Any]:
    return [
        order.payload.model
        for order in node.orders
        if isinstance(order, StartWorkload) and isinstance(order.payload, ModelServer)
    ]


async def test_model_is_registered_and_its_copies_are_started(serve: Any) -> None:
    node = endless()
    async with serve(nodes=[node]) as served:
        response = await served.client.post(PATH, json=PYTHON | {"replicas": 2, "maxConcurrency": 4})
        assert response.status_code == 201, response.text
        assert response.headers["location"] == f"{PATH}/echo"
        body = response.json()
        assert (body["name"], body["format"], body["source"], body["maxConcurrency"]) == (
            "echo",
            "python",
            "pkg:echo",
            4,
        )
        assert len(body["servers"]) == 2
        assert {server["nodeId"] for server in body["servers"]} == {node.id}
        assert body["readyOn"] == []
        node.load("echo", lambda value: value)
        answer = await served.client.post("/api/v1/inference", json={"modelId": "echo", "input": 5})
        assert answer.json()["output"] == 5
        assert (await served.client.get(f"{PATH}/echo")).json()["readyOn"] == [node.id]


@pytest.mark.parametrize("name", ["\u6a21\u578b", "mod\u00e8le", "llama 3?8b#x%41", "org/llama"])
async def test_a_model_is_found_where_its_answer_says_whatever_its_name(serve: Any, name: str) -> None:
    async with serve(nodes=[endless()]) as served:
        created = await served.client.post(PATH, json=PYTHON | {"name": name})
        assert created.status_code == 201, created.text
        found = await served.client.get(created.headers["location"])
        assert found.json()["name"] == name


async def test_posting_again_changes_nothing_but_starts_what_is_missing(serve: Any) -> None:
    node = endless()
    async with serve(nodes=[node]) as served:
        first = await served.client.post(PATH, json=PYTHON)
        again = await served.client.post(PATH, json=PYTHON)
        assert (first.status_code, again.status_code) == (201, 200)
        assert [server["id"] for server in again.json()["servers"]] == [first.json()["servers"][0]["id"]]
        assert again.json()["createdAt"] == first.json()["createdAt"]
        more = await served.client.post(PATH, json=PYTHON | {"replicas": 3})
        assert (more.status_code, len(more.json()["servers"])) == (201, 3)
        fewer = await served.client.post(PATH, json=PYTHON | {"replicas": 0})
        assert (fewer.status_code, len(fewer.json()["servers"])) == (200, 3)
        other = await served.client.post(PATH, json=PYTHON | {"source": "pkg:other"})
        assert (other.status_code, other.json()["code"]) == (409, "ALREADY_EXISTS")


async def test_file_of_a_model_is_kept_once_by_its_content(serve: Any) -> None:
    node = endless()
    content = b"onnx bytes" * 100
    key = f"models/{sha256(content).hexdigest()}.onnx"
    body = {"name": "digits", "format": "onnx", "content": base64.b64encode(content).decode()}
    async with serve(nodes=[node]) as served:
        for _ in range(2):
            response = await served.client.post(PATH, json=body)
            assert response.json()["source"] == key
        assert await served.cluster.plane.blobs.get(key) == content
        assert [model.source for model in served_models(node)] == [key]


async def test_model_comes_from_a_result_of_a_program(serve: Any) -> None:
    def script(order: StartWorkload) -> Script:
        keys = (result_key(order.workload_id, "out/digits.onnx"),)
        return Script(end=None) if isinstance(order.payload, ModelServer) else Script(result=Result(blobs=keys))

    async with serve(nodes=[SimulatedNode(script=script)]) as served:
        trained = await served.client.post("/api/v1/workloads", json={"kind": "program", "source": "x"})
        workload_id = WorkloadId(trained.json()["id"])
        await served.cluster.plane.blobs.put(result_key(workload_id, "out/digits.onnx"), b"weights")
        await served.cluster.finished(workload_id)
        body = {"name": "digits", "format": "onnx", "fromWorkload": {"id": workload_id, "path": "out/digits.onnx"}}
        response = await served.client.post(PATH, json=body)
        assert response.status_code == 201, response.text
        assert await served.cluster.plane.blobs.get(response.json()["source"]) == b"weights"
        missing = body | {"name": "other", "fromWorkload": {"id": workload_id, "path": "nothing"}}
        assert (await served.client.post(PATH, json=missing)).status_code == 404
        malformed = body | {"fromWorkload": {"id": "seven", "path": "x"}}
        refused = await served.client.post(PATH, json=malformed)
        assert (refused.status_code, refused.json()["field"]) == (400, "fromWorkload.id")


async def test_copy_shows_the_process_that_answers(serve: Any) -> None:
    node = endless()
    async with serve(nodes=[node]) as served:
        server = (await served.client.post(PATH, json=PYTHON)).json()["servers"][0]
        assert server["pid"] is None
        await served.cluster.ask(report_models(node, WorkloadId(server["id"]), pid=991))
        shown = (await served.client.get(f"{PATH}/echo")).json()
        assert shown["servers"][0]["pid"] == 991
        listed = (await served.client.get(PATH)).json()
        assert listed["models"] == [shown]


def report_models(node: SimulatedNode, workload_id: WorkloadId, pid: int) -> Any:
    slots = ModelSlots(model_id=ModelId("echo"), slots=1, workload_id=workload_id, pid=pid)
    return ReportModels(node_id=node.id, epoch=node.epoch, models=(slots,))


async def test_models_are_listed_by_name_in_pages(serve: Any) -> None:
    async with serve(nodes=[]) as served:
        for name in ("b", "a/c", "a"):
            await served.client.post(PATH, json=PYTHON | {"name": name, "replicas": 0})
        page = (await served.client.get(f"{PATH}?limit=2")).json()
        assert [model["name"] for model in page["models"]] == ["a", "a/c"]
        assert (page["total"], page["limit"], page["offset"]) == (3, 2, 0)
        assert (await served.client.get(f"{PATH}/a%2Fc")).json()["name"] == "a/c"
        assert (await served.client.get(f"{PATH}/a/c")).json()["name"] == "a/c"
        assert (await served.client.get(f"{PATH}?limit=0")).status_code == 400


async def test_removed_model_is_forgotten_and_its_copies_end(serve: Any) -> None:
    node = endless()
    async with serve(nodes=[node]) as served:
        server = (await served.client.post(PATH, json=PYTHON)).json()["servers"][0]
        assert (await served.client.delete(f"{PATH}/echo")).status_code == 204
        assert (await served.client.get(f"{PATH}/echo")).status_code == 404
        assert (await served.client.delete(f"{PATH}/echo")).status_code == 404
        workload = (await served.client.get(f"/api/v1/workloads/{server['id']}")).json()
        assert workload["phase"] in ("stopping", "stopped")


async def test_model_posted_right_after_its_removal_is_loaded_again(serve: Any) -> None:
    node = endless()
    async with serve(nodes=[node]) as served:
        first = (await served.client.post(PATH, json=PYTHON)).json()["servers"][0]
        node.deaf = True  # the copy takes its time to stop
        await served.client.delete(f"{PATH}/echo")
        again = await served.client.post(PATH, json=PYTHON)
        assert again.status_code == 201
        assert {copy["phase"] for copy in again.json()["servers"] if copy["id"] != first["id"]} == {"placed"}
        assert [copy["phase"] for copy in again.json()["servers"] if copy["id"] == first["id"]] == ["stopping"]


async def test_posts_at_the_same_time_start_no_copy_too_many(serve: Any) -> None:
    async with serve(nodes=[endless()]) as served:
        answers = await asyncio.gather(*(served.client.post(PATH, json=PYTHON | {"replicas": 2}) for _ in range(8)))
        assert {answer.status_code for answer in answers} <= {200, 201}
        assert len((await served.client.get(f"{PATH}/echo")).json()["servers"]) == 2


async def test_model_of_another_account_is_used_and_not_forgotten(serve: Any) -> None:
    auth = {"mode": "keys", "keys": {"ana": "k-ana", "bo": "k-bo"}}
    ana, bo = {"Authorization": "Bearer k-ana"}, {"Authorization": "Bearer k-bo"}
    async with serve(nodes=[endless()], auth=auth) as served:
        await served.client.post(PATH, json=PYTHON | {"replicas": 0}, headers=ana)
        assert (await served.client.post(PATH, json=PYTHON | {"replicas": 0}, headers=bo)).json()["owner"] == "ana"
        refused = await served.client.delete(f"{PATH}/echo", headers=bo)
        assert (refused.status_code, refused.json()["field"]) == (403, "name")
        assert (await served.client.delete(f"{PATH}/echo", headers=ana)).status_code == 204


async def test_of_copies_of_another_account_only_the_phase_and_the_node_are_shown(serve: Any) -> None:
    auth = {"mode": "keys", "keys": {"ana": "k-ana", "bo": "k-bo", "op": "k-op"}, "scopes": {"op": "operator"}}
    ana, bo, op = ({"Authorization": f"Bearer k-{name}"} for name in ("ana", "bo", "op"))
    node = endless()
    async with serve(nodes=[node], auth=auth) as served:
        (copy,) = (await served.client.post(PATH, json=PYTHON, headers=ana)).json()["servers"]
        await served.cluster.ask(report_models(node, WorkloadId(copy["id"]), pid=991))
        looks = [
            *(("GET", path, headers) for headers in (ana, op, bo) for path in (PATH, f"{PATH}/echo")),
            ("POST", PATH, bo),
        ]
        for method, path, headers in looks:
            body = PYTHON if method == "POST" else None
            answer = (await served.client.request(method, path, json=body, headers=headers)).json()
            (shown,) = answer.get("models", [answer])[0]["servers"]
            assert shown["nodeId"] == node.id
            if headers is bo:
                assert (shown["id"], shown["pid"], shown["message"]) == (None, None, "")
            else:
                assert (shown["id"], shown["pid"]) == (copy["id"], 991)


async def test_malformed_model_is_400_and_named(serve: Any) -> None:
    async with serve(nodes=[]) as served:
        for members, field in (
            ({"format": "gguf"}, "format"),
            ({"source": None}, "source"),
            ({"replicas": -1}, "replicas"),
        ):
            response = await served.client.post(PATH, json=PYTHON | members)
            assert (response.status_code, response.json()["field"]) == (400, field)


async def test_copies_of_another_account_are_not_stopped(serve: Any) -> None:
    auth = {"mode": "keys", "keys": {"ana": "k-ana", "bo": "k-bo"}}
    ana, bo = {"Authorization": "Bearer k-ana"}, {"Authorization": "Bearer k-bo"}
    async with serve(nodes=[endless()], auth=auth) as served:
        assert (await served.client.post(PATH, json=PYTHON, headers=ana)).status_code == 201
        refused = await served.client.delete(f"{PATH}/echo", headers=bo)
        assert (refused.status_code, refused.json()["code"]) == (403, "PERMISSION_DENIED")
        (copy,) = (await served.client.get(f"{PATH}/echo", headers=ana)).json()["servers"]
        assert copy["phase"] != "stopping"
        assert (await served.client.delete(f"{PATH}/echo", headers=ana)).status_code == 204
