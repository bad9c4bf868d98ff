"""The client's operations: paths, bodies, pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from arcray.client import Client
from arcray.client.operations import Operations
from arcray.core.errors import NotFoundError

Call = Callable[[Operations], object]


class Pool:
    """Operations whose server answers everything with one body."""

    def __init__(self, body: object, status: int = 200) -> None:
        self.requests: list[httpx.Request] = []
        self._answer = lambda request: self._keep(request, httpx.Response(status, json=body))
        self.operations = Client("http://pool", transport=httpx.MockTransport(self._answer)).operations

    def _keep(self, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        self.requests.append(request)
        return response


@pytest.mark.parametrize(
    ("call", "method", "path", "body"),
    [
        (lambda o: o.node("n 1"), "GET", "/api/v1/nodes/n%201/scheduling", None),
        (lambda o: o.cordon("n1"), "POST", "/api/v1/nodes/n1/cordon", {"gpus": []}),
        (lambda o: o.uncordon("n1", gpus=[1]), "POST", "/api/v1/nodes/n1/uncordon", {"gpus": [1]}),
        (lambda o: o.drain("n1"), "POST", "/api/v1/nodes/n1/drain", {"gpus": [], "graceS": 30.0}),
        (lambda o: o.label("n1", {"a": None}), "PATCH", "/api/v1/nodes/n1/labels", {"labels": {"a": None}}),
        (lambda o: o.quota("a/b"), "GET", "/api/v1/quotas/a%2Fb", None),
        (lambda o: o.set_quota("ana", {"gpus": 1}), "PUT", "/api/v1/quotas/ana", {"gpus": 1}),
        (lambda o: o.reset_quota("ana"), "DELETE", "/api/v1/quotas/ana", None),
        (lambda o: o.dead_letter("w1"), "GET", "/api/v1/dead-letters/w1", None),
        (lambda o: o.discard("w1"), "DELETE", "/api/v1/dead-letters/w1", None),
    ],
)
def test_operation_is_one_call(call: Call, method: str, path: str, body: object) -> None:
    pool = Pool({"id": "x"})
    call(pool.operations)
    (request,) = pool.requests
    assert (request.method, request.url.raw_path.decode()) == (method, path)
    assert (json.loads(request.content) if request.content else None) == body


def test_replay_without_a_key_leaves_it_to_the_server() -> None:
    pool = Pool({"id": "w2", "phase": "pending"})
    assert pool.operations.replay("w1").id == "w2"
    assert "idempotency-key" not in pool.requests[0].headers
    pool.operations.replay("w1", {"name": "x"}, key="k")
    assert pool.requests[1].headers["idempotency-key"] == "k"


def test_dead_letters_are_read_page_by_page_up_to_the_limit() -> None:
    letters = [{"id": str(number)} for number in range(250)]

    def answer(request: httpx.Request) -> httpx.Response:
        start, limit = int(request.url.params.get("cursor", "0")), int(request.url.params["limit"])
        following = str(start + limit) if start + limit < len(letters) else None
        return httpx.Response(200, json={"deadLetters": letters[start : start + limit], "nextCursor": following})

    operations = Client("http://pool", transport=httpx.MockTransport(answer)).operations
    assert [letter["id"] for letter in operations.dead_letters(limit=150)] == [str(n) for n in range(150)]
    assert len(operations.dead_letters(limit=1000)) == 250
    assert len(operations.dead_letters(limit=1)) == 1
    assert operations.dead_letters(limit=0) == []
    assert [*operations.each_dead_letter(page=7)] == letters


def test_refusal_is_raised_as_its_error() -> None:
    problem: dict[str, Any] = {"code": "NOT_FOUND", "error": "no node n1", "field": "nodeId"}
    with pytest.raises(NotFoundError) as refused:
        Pool(problem, 404).operations.drain("n1")
    assert refused.value.field == "nodeId"
