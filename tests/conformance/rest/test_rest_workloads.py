"""The workloads API against a whole control plane: submit, read, list, stop, logs, results, explain."""

from __future__ import annotations

import asyncio
import base64
from typing import Any
from urllib.parse import quote

import pytest

from arcray.core.blobkeys import INLINE_BYTES, inline, log_key, result_key
from arcray.core.events import LogAppended
from arcray.core.ids import WorkloadId
from arcray.core.orders import StartWorkload
from arcray.core.workload import Phase, Program, Result
from arcray.testing.simulated_node import Script, SimulatedNode

NOBODY = "550e8400-e29b-41d4-a716-446655440000"
PATH = "/api/v1/workloads"
PROGRAM = {"kind": "program", "source": "print('hello')"}
LARGE = PROGRAM | {"source": "print('hello')" + " " * INLINE_BYTES}


def endless() -> SimulatedNode:
    return SimulatedNode(script=lambda _: Script(end=None))


async def submitted(served: Any, **members: Any) -> Any:
    response = await served.client.post(PATH, json=PROGRAM | members)
    assert response.status_code == 201, response.text
    return response.json()


def stored_programs(served: Any) -> set[str]:
    return {path.name for path in (served.state_dir / "blobs" / "programs").iterdir()}


async def test_program_is_accepted_and_brings_its_code(serve: Any) -> None:
    node = endless()
    async with serve(nodes=[node]) as served:
        response = await served.client.post(PATH, json=PROGRAM | {"name": "hi", "stdin": "in", "args": ["-v"]})
        assert response.status_code == 201
        body = response.json()
        assert response.headers["location"] == f"{PATH}/{body['id']}"
        assert (body["kind"], body["name"], body["nodeId"]) == ("program", "hi", node.id)
        assert body["phase"] in ("placed", "pulling", "running")
        assert (await served.client.get(response.headers["location"])).json()["id"] == body["id"]
        await node.delivered(1)
        order = node.orders[0]
        assert isinstance(order, StartWorkload)
        assert isinstance(order.payload, Program)
        assert inline(order.payload.blob) == b"print('hello')"
        assert inline(order.payload.stdin_blob) == b"in"


async def test_archive_arrives_as_it_was_sent(serve: Any) -> None:
    node = endless()
    archive = bytes(range(256)) * 40
    async with serve(nodes=[node]) as served:
        body = {"kind": "program", "archive": base64.b64encode(archive).decode(), "entryPoint": "main.py"}
        assert (await served.client.post(PATH, json=body)).status_code == 201
        await node.delivered(1)
        order = node.orders[0]
        assert isinstance(order, StartWorkload)
        assert isinstance(order.payload, Program)
        assert (order.payload.archive, order.payload.entry_point) == (True, "main.py")
        assert await served.cluster.plane.blobs.get(order.payload.blob) == archive


async def test_container_runs_to_its_end(serve: Any) -> None:
    script = Script(end=Phase.FAILED, message="exit 3", result=Result(exit_code=3, duration_ms=5.5, pid=77))
    async with serve(nodes=[SimulatedNode(script=lambda _: script)]) as served:
        body = {"kind": "container", "image": "busybox", "command": ["sh"], "args": ["-c", "exit 3"], "ports": [80]}
        response = await served.client.post(PATH, json=body)
        workload_id = WorkloadId(response.json()["id"])
        await served.cluster.finished(workload_id)
        found = (await served.client.get(f"{PATH}/{workload_id}")).json()
        assert (found["phase"], found["exitCode"], found["durationMs"], found["pid"]) == ("failed", 3, 5.5, 77)
        assert (found["image"], found["message"]) == ("busybox", "exit 3")
        assert found["createdAt"] <= found["placedAt"] <= found["finishedAt"]


async def test_same_key_with_the_same_body_is_the_same_workload(serve: Any) -> None:
    node = endless()
    async with serve(nodes=[node]) as served:

        async def send(body: Any, key: str = "k") -> Any:
            return await served.client.post(PATH, json=body, headers={"Idempotency-Key": key})

        first, again = await send(LARGE), await send(LARGE)
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json()["id"] == again.json()["id"]
        assert again.headers["location"] == first.headers["location"]
        other = await send(LARGE | {"name": "other"})
        assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_MISMATCH")
        assert (await send(LARGE, "k2")).json()["id"] != first.json()["id"]
        # What a repetition or a refusal brought along does not stay behind.
        running = (await served.client.get(PATH)).json()["workloads"]
        assert stored_programs(served) == {f"{entry['id']}.py" for entry in running}
        assert len(running) == 2


async def test_refused_submission_leaves_no_blob(serve: Any) -> None:
    async with serve(nodes=[]) as served:
        response = await served.client.post(PATH, json=LARGE | {"nodeId": NOBODY})
        assert (response.status_code, response.json()["field"]) == (404, "nodeId")
        assert stored_programs(served) == set()


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b"", "body"),
        (b'{"kind":"program"}', "source"),
        (b'{"kind":"dance"}', "kind"),
        (b'{"kind":"program","source":"x","demand":{"cpu":"2"}}', "demand.cpu"),
    ],
)
async def test_malformed_submission_is_400_and_named(serve: Any, content: bytes, field: str) -> None:
    async with serve(nodes=[]) as served:
        response = await served.client.post(PATH, content=content)
        assert (response.status_code, response.json()["field"]) == (400, field)
        assert response.headers["content-type"] == "application/problem+json"


async def test_list_is_newest_first_filtered_and_paged(serve: Any) -> None:
    async with serve(nodes=[endless()]) as served:
        ids = [(await submitted(served, name=str(number), demand={}))["id"] for number in range(3)]
        box = await served.client.post(PATH, json={"kind": "container", "image": "busybox"})
        get = served.client.get
        page = (await get(PATH)).json()
        assert [entry["id"] for entry in page["workloads"]] == [box.json()["id"], *reversed(ids)]
        assert (page["total"], page["limit"], page["offset"]) == (4, 100, 0)
        programs = (await get(f"{PATH}?kind=program&limit=2&offset=1")).json()
        assert [entry["id"] for entry in programs["workloads"]] == [ids[1], ids[0]]
        assert programs["total"] == 3
        assert (await get(f"{PATH}?phase=succeeded&phase=failed")).json()["total"] == 0
        assert (await get(f"{PATH}?kind=program&kind=container")).json()["total"] == 4
        assert (await get(f"{PATH}?nodeId={NOBODY}")).json()["total"] == 0
        wrong = ("kind=x", "phase=x", "limit=0", "limit=1001", "offset=-1", "offset=10001", "nodeId=x", "cursor=x")
        for query in wrong:
            response = await get(f"{PATH}?{query}")
            assert (response.status_code, response.json()["field"].split(".")[0]) == (400, query.split("=")[0])


async def test_list_goes_on_by_cursor(serve: Any) -> None:
    async with serve(nodes=[endless()]) as served:
        ids = [(await submitted(served, name=str(number), demand={}))["id"] for number in range(5)]
        listed, totals = [], []
        cursor: str | None = ""
        while cursor is not None:
            page = (await served.client.get(f"{PATH}?limit=2&cursor={cursor}")).json()
            listed += [entry["id"] for entry in page["workloads"]]
            totals.append(page["total"])
            cursor = page["nextCursor"]
        assert listed == ids[::-1]
        assert totals == [5, None, None]
        first = (await served.client.get(f"{PATH}?limit=2")).json()["nextCursor"]
        both = await served.client.get(f"{PATH}?cursor={first}&offset=1")
        assert (both.status_code, both.json()["field"]) == (400, "offset")


@pytest.mark.parametrize("suffix", ["", "/logs", "/results", "/results/a.txt", "/explain", "/stop"])
async def test_unknown_workload_is_404_and_a_bad_id_400(serve: Any, suffix: str) -> None:
    method = "POST" if suffix == "/stop" else "GET"
    async with serve(nodes=[]) as served:
        unknown = await served.client.request(method, f"{PATH}/{NOBODY}{suffix}")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "NOT_FOUND")
        bad = await served.client.request(method, f"{PATH}/seven{suffix}")
        assert (bad.status_code, bad.json()["field"]) == (400, "id")


@pytest.mark.parametrize(("method", "suffix"), [("DELETE", ""), ("POST", "/stop")])
async def test_stopping_ends_work_and_stopping_again_changes_nothing(serve: Any, method: str, suffix: str) -> None:
    async with serve(nodes=[endless()]) as served:
        workload_id = (await submitted(served))["id"]
        response = await served.client.request(method, f"{PATH}/{workload_id}{suffix}")
        assert response.status_code == 202
        assert response.json()["phase"] in ("stopping", "stopped")
        if response.json()["phase"] != "stopped":
            await served.cluster.finished(WorkloadId(workload_id))
        again = await served.client.request(method, f"{PATH}/{workload_id}{suffix}")
        assert (again.status_code, again.json()["phase"]) == (202, "stopped")


async def test_log_is_read_whole_and_by_its_last_lines(serve: Any) -> None:
    script = Script(log=b"one\ntwo\nthree \xc3\xa9\n")
    async with serve(nodes=[SimulatedNode(script=lambda _: script)]) as served:
        workload_id = (await submitted(served))["id"]
        await served.cluster.finished(WorkloadId(workload_id))
        whole = await served.client.get(f"{PATH}/{workload_id}/logs")
        assert whole.headers["content-type"] == "text/plain; charset=utf-8"
        assert whole.headers["x-content-type-options"] == "nosniff"
        assert whole.text == "one\ntwo\nthree é\n"
        assert (await served.client.get(f"{PATH}/{workload_id}/logs?tailLines=2")).text == "two\nthree é\n"
        assert (await served.client.get(f"{PATH}/{workload_id}/logs?follow=true&tailLines=1")).text == "three é\n"
        for query in ("offset=8", "offset=8&follow=true"):
            assert (await served.client.get(f"{PATH}/{workload_id}/logs?{query}")).text == "three é\n"
        both = await served.client.get(f"{PATH}/{workload_id}/logs?offset=1&tailLines=1")
        assert (both.status_code, both.json()["field"]) == (400, "offset")


async def test_work_without_a_log_has_an_empty_one(serve: Any) -> None:
    async with serve(nodes=[]) as served:
        workload_id = (await submitted(served))["id"]
        response = await served.client.get(f"{PATH}/{workload_id}/logs")
        assert (response.status_code, response.text) == (200, "")


async def test_followed_log_goes_on_until_the_workload_ends(serve: Any) -> None:
    node = endless()
    async with serve(nodes=[node], listen=True) as served:
        workload_id = WorkloadId((await submitted(served))["id"])
        plane = served.cluster.plane

        async def write(text: bytes) -> None:
            size = await plane.blobs.append(log_key(workload_id), text)
            plane.publish([LogAppended(workload_id=workload_id, size_bytes=size, at=served.cluster.clock.now())])

        await write(b"first\n")
        async with (
            asyncio.timeout(5),
            served.network.stream("GET", f"{PATH}/{workload_id}/logs?follow=true") as response,
        ):
            chunks = response.aiter_text()
            assert await anext(chunks) == "first\n"
            await write(b"second\n")
            assert await anext(chunks) == "second\n"
            await plane.blobs.append(log_key(workload_id), b"last")
            node.finish(workload_id)
            assert "".join([chunk async for chunk in chunks]) == "last"


async def test_inference_request_has_an_empty_log_that_ends_at_once(serve: Any) -> None:
    async with serve(nodes=[SimulatedNode(models={"echo": lambda value: value})]) as served:
        headers = {"Prefer": "respond-async"}
        accepted = await served.client.post("/api/v1/inference", json={"modelId": "echo"}, headers=headers)
        async with asyncio.timeout(5):
            response = await served.client.get(f"{accepted.headers['location']}/logs?follow=true")
        assert (response.status_code, response.text) == (200, "")


async def test_what_a_model_answered_is_shown_as_it_was_written(serve: Any) -> None:
    # Half of a surrogate pair, which no decoder of the answer could encode again.
    async with serve(nodes=[SimulatedNode(models={"echo": lambda value: value})]) as served:
        body = b'{"modelId":"echo","input":["\\ud800",0.1]}'
        accepted = await served.client.post("/api/v1/inference", content=body, headers={"Prefer": "respond-async"})
        workload_id = WorkloadId(accepted.headers["location"].rpartition("/")[2])
        await served.cluster.finished(workload_id)
        for path in (f"{PATH}/{workload_id}", f"{PATH}?kind=inference"):
            shown = await served.client.get(path)
            assert (shown.status_code, b'"output":["\\ud800", 0.1],' in shown.content) == (200, True), shown.text


async def test_results_are_listed_and_fetched(serve: Any) -> None:
    def script(order: StartWorkload) -> Script:
        keys = tuple(sorted(result_key(order.workload_id, path) for path in ("report.html", "a/b.bin")))
        return Script(end=None) if order.name == "waits" else Script(result=Result(exit_code=0, blobs=keys))

    node = SimulatedNode(script=script)
    async with serve(nodes=[node]) as served:
        workload_id = WorkloadId((await submitted(served))["id"])
        blobs = served.cluster.plane.blobs
        content = bytes(range(256)) * 8192
        await blobs.put(result_key(workload_id, "a/b.bin"), content)
        await blobs.put(result_key(workload_id, "report.html"), b"<b>hi</b>")
        await served.cluster.finished(workload_id)
        listed = (await served.client.get(f"{PATH}/{workload_id}/results")).json()
        assert listed == {
            "results": [{"path": "a/b.bin", "sizeBytes": len(content)}, {"path": "report.html", "sizeBytes": 9}]
        }
        binary = await served.client.get(f"{PATH}/{workload_id}/results/a/b.bin")
        assert binary.content == content
        assert binary.headers["content-length"] == str(len(content))
        page = await served.client.get(f"{PATH}/{workload_id}/results/report.html")
        assert page.headers["content-disposition"] == "attachment"
        for path in ("nothing", "..%2F..%2Farcray.db", f"..%2F..%2Flogs%2F{workload_id}.log"):
            response = await served.client.get(f"{PATH}/{workload_id}/results/{path}")
            assert response.status_code == 404, path
        waiting = (await submitted(served, name="waits"))["id"]
        early = await served.client.get(f"{PATH}/{waiting}/results/a.txt")
        assert (early.status_code, "not ended" in early.json()["error"]) == (404, True)


@pytest.mark.parametrize(
    "path",
    [
        "結果/résumé 1.txt",
        "100%?.txt",
        "two\nlines.txt",
        "\n",
        "end/\n",
        "a\r\nb#;c\x7f",
        "data:a/b\r\nX-Evil: 1,.txt",
        "a\\b",
    ],
)
async def test_a_result_keeps_the_name_that_its_program_gave_it(serve: Any, path: str) -> None:
    def script(order: StartWorkload) -> Script:
        return Script(result=Result(exit_code=0, blobs=(result_key(order.workload_id, path),)))

    async with serve(nodes=[SimulatedNode(script=script)], listen=True) as served:
        workload_id = WorkloadId((await submitted(served))["id"])
        await served.cluster.plane.blobs.put(result_key(workload_id, path), b"hi")
        await served.cluster.finished(workload_id)
        listed = (await served.client.get(f"{PATH}/{workload_id}/results")).json()
        assert listed == {"results": [{"path": path, "sizeBytes": 2}]}
        assert (await served.client.get(f"{PATH}/{workload_id}/results/{quote(path)}")).content == b"hi"
        answer = await served.network.get(f"{PATH}/{workload_id}/results/{quote(path)}")
        assert (answer.content, answer.headers.get("x-evil")) == (b"hi", None)


async def test_waiting_work_is_explained(serve: Any) -> None:
    async with serve(nodes=[SimulatedNode()]) as served:
        workload_id = (await submitted(served, demand={"gpus": 8}))["id"]
        found = (await served.client.get(f"{PATH}/{workload_id}/explain")).json()
        assert found["nodes"] == 1
        assert sum(refusal["nodes"] for refusal in found["refusals"]) == 1
        assert found["sentence"].startswith("0 of 1 nodes")


async def test_a_member_of_a_gang_that_is_not_complete_is_explained(serve: Any) -> None:
    async with serve(nodes=[SimulatedNode()]) as served:
        workload_id = (await submitted(served, gang={"id": "g", "size": 2}))["id"]
        response = await served.client.get(f"{PATH}/{workload_id}/explain")
        assert (response.status_code, response.json()["waitsFor"]) == (200, "gang")
        assert response.json()["sentence"].startswith("1 of 2 members of gang g are there")
        member = PROGRAM | {"gang": {"id": "h", "size": 2}}
        simulated = await served.client.post("/api/v1/simulate", json={"submit": [member]})
        assert simulated.status_code == 200, simulated.text


async def test_work_that_memory_has_let_go_of_is_explained(serve: Any) -> None:
    async with serve(nodes=[SimulatedNode()], scheduler={"keep_finished": 0}) as served:
        workload_id = (await submitted(served))["id"]
        await served.cluster.finished(WorkloadId(workload_id))
        response = await served.client.get(f"{PATH}/{workload_id}/explain")
        assert (response.status_code, response.json()["waitsFor"]) == (200, "nothing")


async def test_accounts_see_and_stop_their_own_work_only(serve: Any) -> None:
    auth = {"mode": "keys", "keys": {"ana": "k-ana", "bo": "k-bo"}}
    ana, bo = {"Authorization": "Bearer k-ana"}, {"Authorization": "Bearer k-bo"}
    async with serve(nodes=[endless()], auth=auth) as served:
        client = served.client
        assert (await client.post(PATH, json=PROGRAM)).status_code == 401
        workload_id = (await client.post(PATH, json=PROGRAM, headers=ana)).json()["id"]
        assert (await client.get(PATH, headers=ana)).json()["total"] == 1
        assert (await client.get(PATH, headers=bo)).json()["total"] == 0
        for method, suffix in (
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/stop"),
            ("GET", "/logs"),
            ("GET", "/results"),
            ("GET", "/results/x"),
            ("GET", "/explain"),
        ):
            response = await client.request(method, f"{PATH}/{workload_id}{suffix}", headers=bo)
            assert response.status_code == 404, (method, suffix)
            nobody = await client.request(method, f"{PATH}/{workload_id}{suffix}")
            assert nobody.status_code == 401, (method, suffix)
        assert (await client.get(f"{PATH}/{workload_id}", headers=ana)).json()["phase"] != "stopped"
