"""Nodes, quotas, dead letters and simulations over REST, against a whole control plane."""

from __future__ import annotations

from typing import Any

import pytest

from arcray.core.blobkeys import INLINE_BYTES, inline
from arcray.core.ids import WorkloadId
from arcray.core.orders import RunInference, StartWorkload
from arcray.core.workload import Container, Phase, Program, Result
from arcray.testing.builders import a_capacity
from arcray.testing.simulated_node import Script, SimulatedNode

NOBODY = "550e8400-e29b-41d4-a716-446655440000"
NODES, LETTERS, WORK = "/api/v1/nodes", "/api/v1/dead-letters", "/api/v1/workloads"
PROGRAM = {"kind": "program", "source": "print('hello')"}
LARGE = PROGRAM | {"source": "print('hello')" + " " * INLINE_BYTES}
KEYS = {"mode": "keys", "keys": {"ana": "k-ana", "bo": "k-bo"}}
ANA, BO = {"Authorization": "Bearer k-ana"}, {"Authorization": "Bearer k-bo"}


def endless(name: str = "sim-1", **registration: Any) -> SimulatedNode:
    return SimulatedNode(name, script=lambda _: Script(end=None), **registration)


def failing_once() -> SimulatedNode:
    """Fails the first attempt of what is submitted to it, and keeps everything else running."""
    seen: set[str] = set()

    def script(order: StartWorkload) -> Script:
        if seen:
            return Script(end=None)
        seen.add(order.workload_id)
        return Script(end=Phase.FAILED, message="exit 3", result=Result(exit_code=3))

    return SimulatedNode(script=script)


async def failed(served: Any, body: dict[str, Any]) -> str:
    response = await served.client.post(WORK, json=body)
    assert response.status_code == 201, response.text
    workload_id: str = response.json()["id"]
    await served.cluster.finished(WorkloadId(workload_id))
    return workload_id


# -- nodes -------------------------------------------------------------------------------------------------------------


async def test_node_is_cordoned_and_uncordoned(serve: Any) -> None:
    node = endless(capacity=a_capacity(gpus=2))
    async with serve(nodes=[node]) as served:
        client, path = served.client, f"{NODES}/{node.id}"
        response = await client.post(f"{path}/cordon", json={"gpus": [1]})
        assert (response.status_code, response.json()["cordonedGpus"]) == (200, [1])
        assert (await client.post(f"{path}/cordon")).json()["cordoned"] is True
        waits = (await client.post(WORK, json=PROGRAM)).json()
        assert waits["phase"] == "pending"
        said = (await client.post(f"{path}/uncordon")).json()
        assert said.pop("workloads") in (0, 1)  # the round that places what waited may be quicker than the answer
        assert said == {
            "id": node.id,
            "name": "sim-1",
            "health": "healthy",
            "cordoned": False,
            "cordonedGpus": [1],
            "drain": None,
            "drained": False,
            "labels": {},
            "latencyMs": None,
        }
        await node.delivered(1)
        assert (await client.get(f"{path}/scheduling")).json()["workloads"] == 1
        (listed,) = (await client.get("/api/v1/node-states")).json()["nodes"]
        assert (listed["id"], listed["cordonedGpus"]) == (node.id, [1])
        # ArcNet owns the list of nodes and one node of it; they are as they were.
        assert (await client.get(path)).status_code == 200
        assert (await client.get(NODES)).json()["total"] == 1


async def test_node_is_drained(serve: Any) -> None:
    first = endless()
    async with serve(nodes=[first]) as served:
        body = PROGRAM | {"restartPolicy": "on_failure"}
        workload_id = (await served.client.post(WORK, json=body)).json()["id"]
        await first.delivered(1)
        second = await served.cluster.attach(endless("sim-2"))
        path = f"{NODES}/{first.id}"
        said = (await served.client.post(f"{path}/drain", json={"deadlineS": 60, "graceS": 1})).json()
        assert (said["cordoned"], said["drain"]["graceS"], said["drain"]["gpus"]) == (True, 1.0, [])
        await second.delivered(1)  # what freed the first node's work made it drained
        assert (await served.client.get(f"{path}/scheduling")).json()["drained"] is True
        moved = (await served.client.get(f"{WORK}/{workload_id}")).json()
        assert (moved["nodeId"], moved["attempt"], moved["restarts"]) == (second.id, 2, 0)


async def test_node_is_labelled_and_work_chooses_by_text(serve: Any) -> None:
    node = endless()
    async with serve(nodes=[node]) as served:
        path = f"{NODES}/{node.id}/labels"
        response = await served.client.patch(path, json={"labels": {"zone": "eu", "disk": "fast"}})
        assert response.json()["labels"] == {"zone": "eu", "disk": "fast"}
        assert (await served.client.patch(path, json={"labels": {"disk": None}})).json()["labels"] == {"zone": "eu"}
        for selector, phase in (("zone in (eu,us),!disk", "placed"), ({"zone": "eu"}, "placed"), ("disk", "pending")):
            work = (await served.client.post(WORK, json=PROGRAM | {"selector": selector})).json()
            assert (work["phase"] == "pending") == (phase == "pending"), selector
        why = (await served.client.get(f"{WORK}/{work['id']}/explain")).json()
        assert why["refusals"] == [{"filter": "selector", "nodes": 1, "reason": "must carry disk"}]
        assert why["change"] == {"what": "selector", "by": 1.0}


@pytest.mark.parametrize(
    ("method", "suffix", "body", "field"),
    [
        ("POST", "cordon", {"gpus": [3]}, "gpus"),
        ("POST", "cordon", {"gpus": "all"}, "gpus"),
        ("POST", "drain", {"deadlineS": -1}, "deadlineS"),
        ("POST", "drain", {"gpus": [9]}, "gpus"),
        ("PATCH", "labels", {"labels": {"a b": "c"}}, "labels.a b"),
        ("PATCH", "labels", {}, "labels"),
    ],
)
async def test_wrong_operation_on_a_node_is_400_and_named(
    serve: Any, method: str, suffix: str, body: dict[str, Any], field: str
) -> None:
    node = endless()
    async with serve(nodes=[node]) as served:
        response = await served.client.request(method, f"{NODES}/{node.id}/{suffix}", json=body)
        assert (response.status_code, response.json()["field"]) == (400, field)


@pytest.mark.parametrize(
    ("method", "suffix"), [("POST", "cordon"), ("POST", "drain"), ("PATCH", "labels"), ("GET", "scheduling")]
)
async def test_unknown_node_is_404_and_a_bad_id_400(serve: Any, method: str, suffix: str) -> None:
    body = {"labels": {"a": "b"}} if suffix == "labels" else {}
    async with serve(nodes=[]) as served:
        unknown = await served.client.request(method, f"{NODES}/{NOBODY}/{suffix}", json=body)
        assert (unknown.status_code, unknown.json()["field"]) == (404, "nodeId")
        bad = await served.client.request(method, f"{NODES}/seven/{suffix}", json=body)
        assert (bad.status_code, bad.json()["field"]) == (400, "id")


async def test_operations_are_for_operators(serve: Any) -> None:
    node = endless()
    async with serve(nodes=[node], auth=KEYS) as served:
        for method, path in (
            ("POST", f"{NODES}/{node.id}/cordon"),
            ("POST", f"{NODES}/{node.id}/uncordon"),
            ("POST", f"{NODES}/{node.id}/drain"),
            ("PATCH", f"{NODES}/{node.id}/labels"),
            ("PUT", "/api/v1/quotas/ana"),
            ("DELETE", "/api/v1/quotas/ana"),
            ("GET", "/api/v1/quotas"),
        ):
            assert (await served.client.request(method, path, json={}, headers=ANA)).status_code == 403, path
            assert (await served.client.request(method, path, json={})).status_code == 401, path


# -- quotas ------------------------------------------------------------------------------------------------------------


async def test_quota_is_set_shown_and_taken_back(serve: Any) -> None:
    async with serve(nodes=[endless()]) as served:
        client, path = served.client, "/api/v1/quotas/local"
        none = {"workloads": None, "cpu": None, "memoryMb": None, "gpus": None, "pending": None}
        assert (await client.get(path)).json()["quota"] == none
        said = (await client.put(path, json={"cpu": 1.5, "memoryMb": 512, "pending": 7})).json()
        assert said["quota"] == none | {"cpu": 1.5, "memoryMb": 512, "pending": 7}
        first, second = [(await client.post(WORK, json=PROGRAM)).json() for _ in range(2)]
        assert (first["phase"] == "pending", second["phase"]) == (False, "pending")
        why = (await client.get(f"{WORK}/{second['id']}/explain")).json()
        assert (why["waitsFor"], why["refusals"][0]["filter"]) == ("quota", "quota")
        assert why["quota"] == [{"resource": "cpu", "held": 1.0, "asked": 1.0, "limit": 1.5}]
        (listed,) = (await client.get("/api/v1/quotas")).json()["quotas"]
        assert listed["held"] == {"workloads": 1, "cpu": 1.0, "memoryMb": 0, "gpus": 0, "pending": 1}
        refused = await client.post(WORK, json=PROGRAM | {"demand": {"cpu": 2}})
        assert (refused.status_code, refused.json()["field"]) == (400, "demand.cpu")
        assert (await client.delete(path)).json()["own"] is False


async def test_account_sees_its_own_quota_only(serve: Any) -> None:
    async with serve(nodes=[], auth=KEYS) as served:
        assert (await served.client.get("/api/v1/quotas/ana", headers=ANA)).status_code == 200
        assert (await served.client.get("/api/v1/quotas/ana", headers=BO)).status_code == 404


@pytest.mark.parametrize(
    ("body", "field"), [({"gpus": -1}, "gpus"), ({"pending": 0}, "pending"), ({"cpu": "1"}, "cpu")]
)
async def test_wrong_quota_is_400_and_named(serve: Any, body: dict[str, Any], field: str) -> None:
    async with serve(nodes=[]) as served:
        response = await served.client.put("/api/v1/quotas/ana", json=body)
        assert (response.status_code, response.json()["field"]) == (400, field)


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("PUT", "/api/v1/quotas/ana", {"gpu": 8}, "gpu"),
        ("POST", f"{NODES}/{NOBODY}/cordon", {"gpu": [1]}, "gpu"),
        ("POST", f"{NODES}/{NOBODY}/uncordon", {"gpu": [1]}, "gpu"),
        ("POST", f"{NODES}/{NOBODY}/drain", {"deadline": 60}, "deadline"),
        ("PATCH", f"{NODES}/{NOBODY}/labels", {"labels": {"a": "b"}, "remove": ["c"]}, "remove"),
        ("POST", "/api/v1/accounts", {"id": "ana", "limits": None}, "limits"),
        ("POST", "/api/v1/accounts", {"id": "ana", "limit": {"credits": 1, "periodS": 1, "burst": 2}}, "limit.burst"),
        ("PUT", "/api/v1/accounts/ana/limit", {"limit": None, "x": 1}, "x"),
        ("POST", "/api/v1/accounts/ana/deposit", {"credits": 1, "from": "bo"}, "from"),
        ("POST", "/api/v1/accounts/ana/transfer", {"credits": 1, "to": "bo", "note": ""}, "note"),
        ("POST", "/api/v1/keys", {"account": "ana", "scope": "submit", "expiresIn": 60}, "expiresIn"),
    ],
)
async def test_a_misspelled_member_of_what_runs_the_pool_is_refused_by_name(
    serve: Any, method: str, path: str, body: dict[str, Any], field: str
) -> None:
    """Ignored it would do more than was asked: give a quota without a limit, drain a whole machine."""
    async with serve(nodes=[]) as served:
        response = await served.client.request(method, path, json=body)
        assert (response.status_code, response.json()["field"]) == (400, field)
        assert response.json()["error"].endswith("is no member of this body")


# -- dead letters ------------------------------------------------------------------------------------------------------


async def test_dead_letter_is_listed_and_shown_with_its_attempts(serve: Any) -> None:
    script = Script(end=Phase.FAILED, message="exit 3", result=Result(exit_code=3))
    async with serve(nodes=[SimulatedNode(script=lambda _: script)]) as served:
        workload_id = await failed(served, PROGRAM | {"name": "train"})
        page = (await served.client.get(LETTERS)).json()
        assert (page["total"], page["deadLetters"][0]["id"]) == (1, workload_id)
        assert (await served.client.get(f"{LETTERS}?kind=container")).json()["total"] == 0
        letter = (await served.client.get(f"{LETTERS}/{workload_id}")).json()
        assert (letter["reason"], letter["workload"]["name"]) == ("exit 3", "train")
        (attempt,) = letter["attempts"]
        assert (attempt["attempt"], attempt["exitCode"], attempt["message"]) == (1, 3, "exit 3")
        assert attempt["startedAt"] is not None


async def test_program_is_replayed_with_its_code_and_with_edits(serve: Any) -> None:
    node = failing_once()
    async with serve(nodes=[node]) as served:
        body = LARGE | {"stdin": "in", "env": {"A": "1"}, "args": ["-v"], "demand": {"cpu": 1}}
        workload_id = await failed(served, body)
        edits = {"env": {"A": "2"}, "demand": {"cpu": 2, "memoryMb": 64}, "name": "again"}
        response = await served.client.post(f"{LETTERS}/{workload_id}/replay", json=edits)
        assert response.status_code == 201
        replay = response.json()
        assert response.headers["location"] == f"{WORK}/{replay['id']}"
        assert (replay["replayOf"], replay["name"], replay["demand"]["cpu"]) == (workload_id, "again", 2.0)
        await node.delivered(2)
        order = node.orders[1]
        assert isinstance(order, StartWorkload)
        assert isinstance(order.payload, Program)
        assert (order.payload.args, order.payload.env) == (("-v",), (("A", "2"),))
        blobs = served.cluster.plane.blobs
        assert order.payload.blob == f"programs/{replay['id']}.py"
        assert await blobs.get(order.payload.blob) == LARGE["source"].encode()
        assert inline(order.payload.stdin_blob) == b"in"
        assert (await served.client.get(LETTERS)).json()["total"] == 0
        assert (await served.client.get(f"{WORK}/{workload_id}")).json()["replayedBy"] == replay["id"]
        assert (await served.client.get(f"{LETTERS}/{workload_id}")).status_code == 404


async def test_program_is_replayed_with_other_code(serve: Any) -> None:
    node = failing_once()
    async with serve(nodes=[node]) as served:
        workload_id = await failed(served, PROGRAM)
        await served.client.post(f"{LETTERS}/{workload_id}/replay", json={"source": "print(2)"})
        await node.delivered(2)
        order = node.orders[1]
        assert isinstance(order, StartWorkload)
        assert isinstance(order.payload, Program)
        assert inline(order.payload.blob) == b"print(2)"


async def test_a_key_belongs_to_the_replay_of_one_dead_letter(serve: Any) -> None:
    async with serve(nodes=[SimulatedNode(script=lambda _: Script(end=Phase.FAILED, message="exit 3"))]) as served:
        first, second = [await failed(served, PROGRAM | {"name": name}) for name in ("one", "two")]
        key = {"Idempotency-Key": "nightly"}
        assert (await served.client.post(f"{LETTERS}/{first}/replay", headers=key)).status_code == 201
        response = await served.client.post(f"{LETTERS}/{second}/replay", headers=key)
        assert (response.status_code, response.json()["field"]) == (422, "Idempotency-Key")


async def test_a_replay_with_other_edits_after_the_first_is_a_conflict(serve: Any) -> None:
    async with serve(nodes=[SimulatedNode(script=lambda _: Script(end=Phase.FAILED, message="exit 3"))]) as served:
        workload_id = await failed(served, PROGRAM)
        assert (await served.client.post(f"{LETTERS}/{workload_id}/replay")).status_code == 201
        response = await served.client.post(f"{LETTERS}/{workload_id}/replay", json={"name": "x"})
        assert (response.status_code, response.json()["field"]) == (409, "id")


async def test_work_is_replayed_without_the_reservation_that_is_spent(serve: Any) -> None:
    node = failing_once()
    async with serve(nodes=[node]) as served:
        reserved = (await served.client.post("/api/v1/reservations", json={"demand": {"cpu": 1}, "ttlS": 60})).json()
        workload_id = await failed(served, PROGRAM | {"demand": {"cpu": 1}, "reservationId": reserved["id"]})
        replay = await served.client.post(f"{LETTERS}/{workload_id}/replay", json={})
        assert (replay.status_code, replay.json()["reservationId"]) == (201, None)
        await node.delivered(2)


async def test_member_of_a_gang_is_replayed_in_it_unless_it_is_to_run_alone(serve: Any) -> None:
    node = failing_once()
    async with serve(nodes=[node]) as served:
        workload_id = await failed(served, PROGRAM | {"gang": {"id": "g", "size": 1}})
        kept = await served.client.post(f"{LETTERS}/{workload_id}/replay", json={"gang": {"id": "h", "size": 2}})
        assert kept.json()["gang"] == {"id": "h", "size": 2, "layout": "any"}
        await served.client.post(f"{WORK}/{kept.json()['id']}/stop")
    node = failing_once()
    async with serve(nodes=[node]) as served:
        workload_id = await failed(served, PROGRAM | {"gang": {"id": "g", "size": 1}})
        alone = await served.client.post(f"{LETTERS}/{workload_id}/replay", json={"gang": None})
        assert (alone.status_code, alone.json()["gang"]) == (201, None)
        await node.delivered(2)


async def test_container_is_replayed_with_another_image(serve: Any) -> None:
    node = failing_once()
    async with serve(nodes=[node]) as served:
        body = {"kind": "container", "image": "busybox:1", "args": ["a"], "ports": [80], "selector": {}}
        workload_id = await failed(served, body)
        spaced = await served.client.post(f"{LETTERS}/{workload_id}/replay", json={"image": "busy box"})
        assert (spaced.status_code, spaced.json()["field"]) == (400, "image")
        await served.client.post(f"{LETTERS}/{workload_id}/replay", json={"image": "busybox:2"})
        await node.delivered(2)
        order = node.orders[1]
        assert isinstance(order, StartWorkload)
        assert isinstance(order.payload, Container)
        assert (order.payload.image, order.payload.args) == ("busybox:2", ("a",))
        assert order.payload.ports[0].container_port == 80


async def test_copy_of_a_model_is_replayed(serve: Any) -> None:
    node = failing_once()
    async with serve(nodes=[node]) as served:
        body = {"name": "m", "format": "python", "source": "m:f", "restartPolicy": "never"}
        created = await served.client.post("/api/v1/models", json=body)
        (server,) = created.json()["servers"] or [None]
        if server is not None:
            await served.cluster.finished(WorkloadId(server["id"]))
        (letter,) = (await served.client.get(f"{LETTERS}?kind=model")).json()["deadLetters"]
        replay = await served.client.post(f"{LETTERS}/{letter['id']}/replay", json={"demand": {"cpu": 1}})
        assert (replay.status_code, replay.json()["model"]) == (201, "m")
        await node.delivered(2)


async def test_request_is_replayed_with_its_input_or_another(serve: Any) -> None:
    async with serve(nodes=[]) as served:
        ids = []
        for _ in range(2):
            body = {"modelId": "echo", "input": {"x": 1}}
            accepted = await served.client.post("/api/v1/inference", json=body, headers={"Prefer": "respond-async"})
            ids.append(WorkloadId(accepted.headers["location"].rpartition("/")[2]))
            await served.cluster.finished(ids[-1])
        assert (await served.client.get(LETTERS)).json()["total"] == 2
        node = await served.cluster.attach(SimulatedNode(models={"echo": lambda value: value}))
        answers = []
        for workload_id, edits in zip(ids, ({}, {"input": [2]}), strict=True):
            replay = (await served.client.post(f"{LETTERS}/{workload_id}/replay", json=edits)).json()
            await served.cluster.finished(WorkloadId(replay["id"]))
            answers.append((await served.client.get(f"{WORK}/{replay['id']}")).json()["output"])
        assert answers == [{"x": 1}, [2]]
        assert all(isinstance(order, RunInference) for order in node.orders)


async def test_replaying_again_is_the_same_replay(serve: Any) -> None:
    async with serve(nodes=[failing_once()]) as served:
        workload_id = await failed(served, LARGE)
        path = f"{LETTERS}/{workload_id}/replay"
        first, again = [await served.client.post(path, json={"name": "x"}) for _ in range(2)]
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json()["id"] == again.json()["id"]
        assert (await served.client.post(path, json={"name": "y"})).status_code == 409
        other = await served.client.post(path, headers={"Idempotency-Key": "another"})
        assert (other.status_code, "was replayed as" in other.json()["error"]) == (409, True)
        # What the repetitions brought along does not stay behind.
        programs = served.state_dir / "blobs" / "programs"
        assert {file.stem for file in programs.iterdir()} == {workload_id, first.json()["id"]}


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"image": "x"}, 400, "image"),
        ({"input": 1}, 400, "input"),
        ({"demand": {"cpu": "1"}}, 400, "demand.cpu"),
        ({"selector": "a b"}, 400, "selector"),
        ({"source": "x", "archive": "UEsDBA=="}, 400, "source"),
        ({"entryPoint": "main.py"}, 400, "entryPoint"),
        ({"env": {"": "x"}}, 400, "env"),
        ({"nodeId": NOBODY}, 404, "nodeId"),
    ],
)
async def test_edits_are_checked_as_a_submission_is(serve: Any, body: dict[str, Any], status: int, field: str) -> None:
    async with serve(nodes=[failing_once()]) as served:
        workload_id = await failed(served, PROGRAM)
        response = await served.client.post(f"{LETTERS}/{workload_id}/replay", json=body)
        assert (response.status_code, response.json()["field"]) == (status, field)
        assert (await served.client.get(LETTERS)).json()["total"] == 1


async def test_dead_letters_go_on_by_cursor(serve: Any) -> None:
    async with serve(nodes=[SimulatedNode(script=lambda _: Script(end=Phase.FAILED))]) as served:
        ids = [await failed(served, PROGRAM) for _ in range(5)]
        seen: list[str] = []
        pages = 0
        following: str | None = ""
        while following is not None:
            page = (await served.client.get(LETTERS, params={"limit": 2, "cursor": following})).json()
            assert page["total"] == (None if pages else 5)
            seen += [letter["id"] for letter in page["deadLetters"]]
            following, pages = page["nextCursor"], pages + 1
            if pages == 1:  # one that is dealt with moves no other onto a page that was read already
                assert (await served.client.delete(f"{LETTERS}/{seen[0]}")).status_code == 204
        assert (seen, pages) == (ids[::-1], 3)
        response = await served.client.get(LETTERS, params={"cursor": "x"})
        assert (response.status_code, response.json()["field"]) == (400, "cursor")


async def test_dead_letter_is_discarded(serve: Any) -> None:
    async with serve(nodes=[failing_once()]) as served:
        workload_id = await failed(served, PROGRAM)
        for _ in range(2):
            assert (await served.client.delete(f"{LETTERS}/{workload_id}")).status_code == 204
        assert (await served.client.get(LETTERS)).json()["total"] == 0
        assert (await served.client.get(f"{WORK}/{workload_id}")).json()["phase"] == "failed"


async def test_accounts_deal_with_their_own_dead_letters_only(serve: Any) -> None:
    async with serve(nodes=[failing_once()], auth=KEYS) as served:
        client = served.client
        workload_id = (await client.post(WORK, json=PROGRAM, headers=ANA)).json()["id"]
        await served.cluster.finished(WorkloadId(workload_id))
        assert (await client.get(LETTERS, headers=ANA)).json()["total"] == 1
        assert (await client.get(LETTERS, headers=BO)).json()["total"] == 0
        for method, suffix in (("GET", ""), ("DELETE", ""), ("POST", "/replay")):
            path = f"{LETTERS}/{workload_id}{suffix}"
            assert (await client.request(method, path, headers=BO)).status_code == 404, (method, suffix)
            assert (await client.request(method, path)).status_code == 401, (method, suffix)


@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("DELETE", ""), ("POST", "/replay")])
async def test_unknown_dead_letter_is_404_and_a_bad_id_400(serve: Any, method: str, suffix: str) -> None:
    async with serve(nodes=[]) as served:
        assert (await served.client.request(method, f"{LETTERS}/{NOBODY}{suffix}")).status_code == 404
        assert (await served.client.request(method, f"{LETTERS}/seven{suffix}")).status_code == 400


# -- what if -----------------------------------------------------------------------------------------------------------


async def test_simulation_tells_what_would_happen(serve: Any) -> None:
    node = endless()
    async with serve(nodes=[node]) as served:
        await served.client.post(WORK, json=PROGRAM | {"restartPolicy": "on_failure", "name": "moves"})
        await node.delivered(1)
        body = {
            "addNodes": [{"count": 1, "cpu": 16, "memoryMb": 1024, "gpus": 2, "gpuMemoryMb": 81_920}],
            "drainNodes": [node.id],
            "submit": [
                {"name": "fits", "demand": {"gpus": 2}},
                {"kind": "program", "name": "waits", "demand": {"cpu": 64}},
            ],
        }
        said = (await served.client.post("/api/v1/simulate", json=body)).json()
        fits, waits = said["submitted"]
        assert (fits["newNode"], fits["gpus"], fits["refusal"]) == (True, [0, 1], None)
        assert (waits["nodeId"], waits["explanation"]["waitsFor"]) == (None, "place")
        (displaced,) = said["displaced"]
        assert (displaced["name"], displaced["nodeId"], displaced["phase"]) == ("moves", node.id, "running")
        assert (said["displacedTotal"], said["waiting"], said["leftOut"]) == (1, 1, 0)
        assert len(node.orders) == 1
        assert (await served.client.get(NODES)).json()["total"] == 1


async def test_simulated_node_may_be_like_one_that_is_there(serve: Any) -> None:
    node = endless(capacity=a_capacity(cores=2, gpus=1))
    async with serve(nodes=[node]) as served:
        body = {"addNodes": [{"count": 3, "like": node.id}], "submit": [{"count": 5, "demand": {"gpus": 1}}]}
        said = (await served.client.post("/api/v1/simulate", json=body)).json()
        assert [each["newNode"] for each in said["submitted"]].count(True) == 3
        assert said["waiting"] == 1


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"addNodes": [{"count": 0}]}, 400, "addNodes.0.count"),
        ({"addNodes": [{"like": NOBODY}]}, 404, "nodeId"),
        ({"addNodes": [{"like": "x"}]}, 400, "addNodes.0.like"),
        ({"removeNodes": ["x"]}, 400, "removeNodes.0"),
        ({"drainNodes": [NOBODY]}, 404, "drainNodes"),
        ({"submit": [{"count": 600}, {"count": 600}]}, 400, "submit"),
        ({"submit": [{"selector": "a b"}]}, 400, "submit.0.selector"),
        ({"submit": [{"selector": {"a b": "c"}}]}, 400, "submit.0.selector.a b"),
        ({"submit": [{"demand": {"gpuMemoryMb": 1}}]}, 400, "submit.0.demand.gpuMemoryMb"),
    ],
)
async def test_wrong_simulation_is_refused_and_named(serve: Any, body: dict[str, Any], status: int, field: str) -> None:
    async with serve(nodes=[]) as served:
        response = await served.client.post("/api/v1/simulate", json=body)
        assert (response.status_code, response.json()["field"]) == (status, field)


async def test_accounts_may_ask_about_their_own_work_and_not_about_the_pool(serve: Any) -> None:
    node = endless()
    async with serve(nodes=[node], auth=KEYS) as served:
        asked = await served.client.post("/api/v1/simulate", json={"submit": [{"count": 1}]}, headers=ANA)
        assert asked.status_code == 200
        refused = await served.client.post("/api/v1/simulate", json={"drainNodes": [node.id]}, headers=ANA)
        assert refused.status_code == 403
