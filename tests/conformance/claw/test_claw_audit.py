"""The audit log over REST: what happened to work of every protocol, as WorkloadEvent."""

from __future__ import annotations

from typing import Any

import pytest

from arcray.core.commands import SubmitWorkload
from arcray.core.workload import Phase
from arcray.testing.builders import a_workload, an_inference
from arcray.testing.simulated_node import Script, SimulatedNode


async def done(served: Any, number: int = 1, **fields: Any) -> str:
    spec = a_workload(number, **fields)
    await served.cluster.ask(SubmitWorkload(spec=spec))
    await served.cluster.finished(spec.id)
    return spec.id


async def page(served: Any, **params: Any) -> dict[str, Any]:
    answer = await served.client.get("/api/v1/audit", params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def kinds(body: dict[str, Any]) -> list[str]:
    return [event["kind"] if isinstance(event["kind"], str) else next(iter(event["kind"])) for event in body["events"]]


async def test_every_step_of_work_is_told_in_order(serve: Any) -> None:
    async with serve() as served:
        work = await done(served, name="train")
        node = served.cluster.nodes[0].id
        body = await page(served)
        assert kinds(body) == ["created", "scheduled", "started", "completed"]
        created, scheduled, _, completed = body["events"]
        assert created["metadata"]["message"] == "train"
        assert scheduled["kind"] == {"scheduled": {"node_id": node}}
        assert completed["kind"] == {"completed": {"exit_code": 0}}
        assert {event["workload_id"] for event in body["events"]} == {work}
        assert body["nextCursor"] is None


async def test_ends_say_why(serve: Any) -> None:
    def failing(_: Any) -> Script:
        return Script(end=Phase.FAILED, message="exit code 3")

    async with serve(nodes=[SimulatedNode(script=failing)]) as served:
        await done(served)
        failed = (await page(served))["events"][-1]
        assert failed["kind"] == {"failed": {"error": "exit code 3"}}
        assert failed["metadata"]["error"] == "exit code 3"


async def test_it_is_asked_by_workload_node_and_time(serve: Any) -> None:
    async with serve(nodes=[SimulatedNode("a"), SimulatedNode("b")]) as served:
        first, second = served.cluster.nodes
        one = await done(served, 1, node_id=first.id)
        await done(served, 2, node_id=second.id)
        assert {event["workload_id"] for event in (await page(served, workload=one))["events"]} == {one}
        assert kinds(await page(served, node=second.id)) == ["scheduled", "started", "completed"]
        last = (await page(served))["events"][-1]["timestamp"]
        assert len((await page(served, since=last))["events"]) < 8
        assert (await page(served, since="2100-01-01T00:00:00Z"))["events"] == []


async def test_pages_go_on_where_the_one_before_ended(serve: Any) -> None:
    async with serve() as served:
        for number in range(1, 4):
            await done(served, number)
        everything = (await page(served))["events"]
        found: list[Any] = []
        body = await page(served, limit=5)
        while True:
            found += body["events"]
            if body["nextCursor"] is None:
                break
            body = await page(served, limit=5, cursor=body["nextCursor"])
        assert found == everything
        assert len(found) == 12


async def test_requests_for_inference_are_left_out(serve: Any) -> None:
    node = SimulatedNode(models={"echo": lambda value: value})
    async with serve(nodes=[node]) as served:
        await done(served, payload=an_inference(model_id="echo", input=b"1"))
        assert (await page(served))["events"] == []


async def test_others_see_their_own_work_alone(serve: Any) -> None:
    auth = {"mode": "keys", "keys": {"ana": "k-ana", "root": "k-root"}, "scopes": {"root": "admin"}}
    async with serve(auth=auth) as served:
        await done(served)
        for key, number in (("k-ana", 0), ("k-root", 4)):
            headers = {"Authorization": f"Bearer {key}"}
            body = (await served.client.get("/api/v1/audit", headers=headers)).json()
            assert len(body["events"]) == number
        assert (await served.client.get("/api/v1/audit")).status_code == 401


@pytest.mark.parametrize(
    ("field", "value"),
    [("workload", "x"), ("node", "x"), ("since", "yesterday"), ("cursor", "x"), ("cursor", f"{'9' * 18}-1")],
)
async def test_what_cannot_be_asked_names_its_field(serve: Any, field: str, value: str) -> None:
    async with serve(nodes=[]) as served:
        answer = await served.client.get("/api/v1/audit", params={field: value})
        assert (answer.status_code, answer.json()["field"]) == (400, field)
