"""Accounts and keys over HTTP, as our own client and as anybody's see them."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any

import httpx
import pytest

from arcray.client import Client
from arcray.core.errors import InsufficientCreditsError, PermissionDeniedError, UnauthenticatedError
from arcray.core.policy import ClusterPolicy
from arcray.core.tariff import Prices

AUTH = {"mode": "keys", "keys": {"root": "k-root", "ana": "k-ana"}, "scopes": {"root": "admin"}}
PRICED = ClusterPolicy(prices=Prices(workload=3))
ROOT = {"Authorization": "Bearer k-root"}
ANA = {"Authorization": "Bearer k-ana"}
PROGRAM = {"kind": "program", "source": "print(1)"}


async def opened(served: Any, *names: str, credits: int = 0) -> None:
    for name in names:
        response = await served.client.post("/api/v1/accounts", json={"id": name}, headers=ROOT)
        assert response.status_code == 201
        if credits:
            path = f"/api/v1/accounts/{name}/deposit"
            assert (await served.client.post(path, json={"credits": credits}, headers=ROOT)).status_code == 201


async def test_credits_are_deposited_transferred_and_told_of(serve: Any) -> None:
    async with serve(auth=AUTH) as served:
        await opened(served, "ana", "bo", credits=100)
        moved = await served.client.post(
            "/api/v1/accounts/ana/transfer", json={"to": "bo", "credits": 30, "memo": "rent"}, headers=ANA
        )
        assert moved.status_code == 201
        assert (moved.json()["credits"], moved.json()["balance"]) == (-30, 70)
        mine = await served.client.get("/api/v1/accounts/ana/balance", headers=ANA)
        assert mine.json() == {"available": 70, "held": 0}
        statement = (await served.client.get("/api/v1/accounts/ana/statement?limit=1", headers=ANA)).json()
        assert [(line["credits"], line["memo"]) for line in statement["lines"]] == [(-30, "rent")]
        older = await served.client.get(f"/api/v1/accounts/ana/statement?cursor={statement['next']}", headers=ANA)
        assert [line["credits"] for line in older.json()["lines"]] == [100]
        assert older.json()["next"] is None


async def test_a_deposit_that_is_sent_again_is_made_once(serve: Any) -> None:
    async with serve(auth=AUTH) as served:
        await opened(served, "ana")
        path, headers = "/api/v1/accounts/ana/deposit", {**ROOT, "Idempotency-Key": "d1"}
        first = await served.client.post(path, json={"credits": 5}, headers=headers)
        again = await served.client.post(path, json={"credits": 5}, headers=headers)
        other = await served.client.post(path, json={"credits": 6}, headers=headers)
        assert (first.status_code, again.status_code, other.status_code) == (201, 200, 422)
        assert first.json() == again.json()


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("", {"id": "a/b"}, 400, "id"),
        ("", {"id": "@issuer"}, 400, "id"),
        ("", {"id": "ana", "overdraft": 5}, 409, "id"),
        ("", {"id": "x", "limit": {"credits": 5, "periodS": 0}}, 400, "limit.periodS"),
        ("/ana/deposit", {"credits": 0}, 400, "credits"),
        ("/ana/deposit", {"credits": "5"}, 400, "credits"),
        ("/ana/deposit", {"credits": 2**53}, 400, "credits"),
        ("/eve/deposit", {"credits": 5}, 404, "id"),
        ("/ana/transfer", {"to": "bo", "credits": 101}, 402, "credits"),
        ("/ana/transfer", {"to": "ana", "credits": 1}, 400, "to"),
        ("/ana/transfer", {"to": "eve", "credits": 1}, 404, "to"),
        ("/%40issuer/transfer", {"to": "ana", "credits": 1}, 404, "id"),
    ],
)
async def test_what_cannot_be_is_refused_and_names_its_field(
    serve: Any, path: str, body: dict[str, object], status: int, field: str
) -> None:
    async with serve(auth=AUTH) as served:
        await opened(served, "ana", "bo", credits=100)
        response = await served.client.post(f"/api/v1/accounts{path}", json=body, headers=ROOT)
        assert (response.status_code, response.json()["field"]) == (status, field)


@pytest.mark.parametrize("cursor", ["x", "-1", "9" * 30, "\u0661"])
async def test_a_cursor_that_is_none_is_refused(serve: Any, cursor: str) -> None:
    async with serve(auth=AUTH) as served:
        await opened(served, "ana")
        response = await served.client.get("/api/v1/accounts/ana/statement", params={"cursor": cursor}, headers=ANA)
        assert (response.status_code, response.json()["field"]) == (400, "cursor")


async def test_work_that_cannot_be_paid_is_402_and_work_that_is_shows_its_cost(serve: Any) -> None:
    async with serve(auth=AUTH, policy=PRICED) as served:
        refused = await served.client.post("/api/v1/workloads", json=PROGRAM, headers=ANA)
        assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (
            402,
            "INSUFFICIENT_CREDITS",
            "credits",
        )
        await opened(served, "ana", credits=4)
        accepted = await served.client.post("/api/v1/workloads", json=PROGRAM, headers=ANA)
        assert accepted.status_code == 201
        await served.cluster.finished(accepted.json()["id"])
        ended = await served.client.get(f"/api/v1/workloads/{accepted.json()['id']}", headers=ANA)
        assert ended.json()["cost"] == {"paid": 3, "held": 0, "perMinute": 0}


async def test_a_spending_limit_is_set_met_and_lifted(serve: Any) -> None:
    async with serve(auth=AUTH, policy=PRICED) as served:
        await opened(served, "ana", credits=100)
        path = "/api/v1/accounts/ana/limit"
        limited = await served.client.put(path, json={"limit": {"credits": 2, "periodS": 86400}}, headers=ROOT)
        assert limited.json()["limit"] == {"credits": 2, "periodS": 86400}
        refused = await served.client.post("/api/v1/workloads", json=PROGRAM, headers=ANA)
        assert (refused.status_code, refused.json()["field"]) == (402, "spendingLimit")
        assert (await served.client.put(path, json={"limit": None}, headers=ROOT)).json()["limit"] is None
        assert (await served.client.post("/api/v1/workloads", json=PROGRAM, headers=ANA)).status_code == 201


async def test_a_key_is_shown_once_works_and_is_revoked(serve: Any) -> None:
    async with serve(auth=AUTH) as served:
        await opened(served, "ana")
        body = {"account": "ana", "scope": "read", "name": "laptop", "expiresInS": 3600}
        issued = await served.client.post("/api/v1/keys", json=body, headers=ROOT)
        assert (issued.status_code, issued.headers["cache-control"]) == (201, "no-store")
        secret = issued.json()["key"]
        listed = await served.client.get("/api/v1/keys", headers=ANA)
        (shown,) = listed.json()["keys"]
        assert secret not in listed.text
        assert secret.startswith(shown["prefix"])
        mine = {"Authorization": f"Bearer {secret}"}
        assert (await served.client.get("/api/v1/workloads", headers=mine)).status_code == 200
        forbidden = await served.client.post("/api/v1/workloads", json=PROGRAM, headers=mine)
        assert (forbidden.status_code, forbidden.json()["code"]) == (403, "PERMISSION_DENIED")
        revoked = await served.client.delete(f"/api/v1/keys/{shown['id']}", headers=ANA)
        assert revoked.status_code == 204
        assert (await served.client.get("/api/v1/workloads", headers=mine)).status_code == 401
        assert (await served.client.delete(f"/api/v1/keys/{shown['id']}", headers=ANA)).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"account": "eve", "scope": "read"}, 404, "account"),
        ({"account": "ana", "scope": "god"}, 400, "scope"),
        ({"account": "ana", "scope": "node"}, 400, "nodeId"),
        ({"account": "ana", "scope": "read", "nodeId": "x"}, 400, "nodeId"),
        ({"account": "ana", "scope": "read", "expiresInS": 0}, 400, "expiresInS"),
    ],
)
async def test_a_key_that_cannot_be_is_refused(serve: Any, body: dict[str, object], status: int, field: str) -> None:
    async with serve(auth=AUTH) as served:
        await opened(served, "ana")
        response = await served.client.post("/api/v1/keys", json=body, headers=ROOT)
        assert (response.status_code, response.json()["field"]) == (status, field)


async def test_guessing_is_slowed_down(serve: Any) -> None:
    async with serve(auth={**AUTH, "failures_per_minute": 2}) as served:
        guesses = [{"Authorization": f"Bearer guess-{number}"} for number in range(8)]
        answers: list[httpx.Response] = [
            await served.client.get("/api/v1/workloads", headers=guess) for guess in guesses
        ]
        assert (answers[0].status_code, answers[-1].status_code) == (401, 429)
        assert answers[-1].headers["retry-after"]
        assert (await served.client.get("/api/v1/workloads", headers=ANA)).status_code == 200


def with_the_client(url: str) -> None:
    with Client(url, "k-root") as root:
        assert root.accounts.open("ana", limit=(50, 3600)).limit == (50, 3600)
        root.accounts.open("bo")
        root.accounts.credit("ana", 10, memo="gift")
        issued = root.keys.issue("ana", "submit", name="laptop")
        assert [account.id for account in root.accounts.list()] == ["ana", "bo", "@issuer"]
        assert root.accounts.set_limit("ana", None).limit is None
    with Client(url, issued.secret) as ana:
        assert ana.accounts.transfer("ana", "bo", 4)["balance"] == 6
        assert [line.credits for line in islice(ana.accounts.statement("ana"), 5)] == [-4, 10]
        assert [account.id for account in ana.accounts.list()] == ["ana"]
        assert [key.id for key in ana.keys.list()] == [issued.info.id]
        assert issued.secret not in repr(issued)
        with pytest.raises(InsufficientCreditsError):
            ana.accounts.transfer("ana", "bo", 7)
        with pytest.raises(PermissionDeniedError):
            ana.accounts.credit("ana", 7)
        ana.keys.revoke(issued.info.id)
        with pytest.raises(UnauthenticatedError):
            ana.accounts.get("ana")


async def test_our_client_does_all_of_it(serve: Any) -> None:
    async with serve(auth=AUTH, listen=True) as served:
        await asyncio.to_thread(with_the_client, f"http://{served.url}")
