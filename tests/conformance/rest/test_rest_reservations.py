"""Reservations, priorities and gangs over REST, against a whole control plane."""

from __future__ import annotations

from typing import Any

from arcray.testing.builders import a_capacity
from arcray.testing.simulated_node import Script, SimulatedNode

NOBODY = "550e8400-e29b-41d4-a716-446655440000"
PATH = "/api/v1/reservations"
WORK = "/api/v1/workloads"
EIGHT_CORES = {"demand": {"cpu": 8}}
PROGRAM = {"kind": "program", "source": "1"}


def endless(name: str = "sim-1", **fields: Any) -> SimulatedNode:
    return SimulatedNode(name, script=lambda _: Script(end=None), **fields)


async def test_a_reservation_is_made_read_listed_and_released(serve: Any) -> None:
    async with serve(nodes=[endless()]) as served:
        made = await served.client.post(PATH, json=EIGHT_CORES | {"ttlS": 60})
        assert made.status_code == 201
        body = made.json()
        assert made.headers["location"] == f"{PATH}/{body['id']}"
        assert (body["state"], body["slices"][0]["nodeId"]) == ("active", served.cluster.nodes[0].id)
        assert (await served.client.get(made.headers["location"])).json() == body
        page = (await served.client.get(PATH)).json()
        assert (page["reservations"], page["total"]) == ([body], 1)
        for _ in range(2):
            released = await served.client.delete(made.headers["location"])
            assert (released.status_code, released.json()["state"]) == (200, "released")


async def test_what_does_not_fit_is_refused_with_the_reason(serve: Any) -> None:
    async with serve(nodes=[endless()]) as served:
        await served.client.post(PATH, json=EIGHT_CORES)
        refused = await served.client.post(PATH, json=EIGHT_CORES)
        assert (refused.status_code, refused.json()["code"]) == (503, "NO_CANDIDATES")
        assert "needs 8 free cores" in refused.json()["error"]
        assert refused.json()["field"] == "demand"


async def test_the_same_key_makes_one_reservation(serve: Any) -> None:
    async with serve(nodes=[endless()]) as served:
        headers = {"Idempotency-Key": "k"}
        first = await served.client.post(PATH, json=EIGHT_CORES, headers=headers)
        again = await served.client.post(PATH, json=EIGHT_CORES, headers=headers)
        assert first.json() == again.json()
        other = await served.client.post(PATH, json=EIGHT_CORES | {"ttlS": 1}, headers=headers)
        assert (other.status_code, other.json()["field"]) == (422, "Idempotency-Key")


async def test_work_takes_its_place_out_of_a_reservation(serve: Any) -> None:
    async with serve(nodes=[endless()]) as served:
        held = (await served.client.post(PATH, json=EIGHT_CORES)).json()
        waiting = (await served.client.post(WORK, json=PROGRAM)).json()
        assert waiting["phase"] == "pending"
        taken = await served.client.post(WORK, json=PROGRAM | {"demand": {"cpu": 6}, "reservationId": held["id"]})
        assert (taken.status_code, taken.json()["reservationId"]) == (201, held["id"])
        assert taken.json()["nodeId"] == held["slices"][0]["nodeId"]
        left = (await served.client.get(f"{PATH}/{held['id']}")).json()
        assert (left["state"], left["slices"][0]["left"]["cpu"]) == ("active", 2.0)
        refused = await served.client.post(WORK, json=PROGRAM | {"demand": {"cpu": 6}, "reservationId": held["id"]})
        assert (refused.status_code, refused.json()["field"]) == (409, "demand")


async def test_unknown_and_malformed_reservations_are_named(serve: Any) -> None:
    async with serve(nodes=[endless()]) as served:
        for method in (served.client.get, served.client.delete):
            assert (await method(f"{PATH}/{NOBODY}")).status_code == 404
            assert (await method(f"{PATH}/x")).json()["field"] == "id"
        for members, status, field in (
            ({"reservationId": NOBODY}, 404, "reservationId"),
            ({"reservationId": "x"}, 400, "reservationId"),
            ({"gang": {"id": "g", "size": 1000}}, 429, "gang.size"),
            ({"gang": {"id": "g", "size": 2}, "preemptible": True}, 400, "preemptible"),
        ):
            refused = await served.client.post(WORK, json=PROGRAM | members)
            assert (refused.status_code, refused.json()["field"]) == (status, field)


async def test_explain_says_what_would_be_ended(serve: Any) -> None:
    node = endless()
    async with serve(nodes=[node]) as served:
        work = PROGRAM | {"demand": {"cpu": 8}}
        low = (await served.client.post(WORK, json=work | {"priority": "background", "preemptible": True})).json()
        node.deaf = True  # it does not end what it is asked to
        high = (await served.client.post(WORK, json=work | {"priority": "critical"})).json()
        found = (await served.client.get(f"{WORK}/{high['id']}/explain")).json()
        assert low["id"] in found["notes"][0]
        assert found["notes"][0] in found["sentence"]


async def test_a_gang_starts_with_its_last_member(serve: Any) -> None:
    nodes = [endless("a", capacity=a_capacity(cores=1)), endless("b", capacity=a_capacity(cores=1))]
    async with serve(nodes=nodes) as served:
        member = PROGRAM | {"gang": {"id": "g", "size": 2, "layout": "spread"}}
        first = (await served.client.post(WORK, json=member)).json()
        assert (first["phase"], first["gang"]) == ("pending", {"id": "g", "size": 2, "layout": "spread"})
        second = (await served.client.post(WORK, json=member)).json()
        both = [(await served.client.get(f"{WORK}/{key}")).json() for key in (first["id"], second["id"])]
        assert {view["nodeId"] for view in both} == {node.id for node in nodes}
