"""``arcray audit``."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.cli_fixtures import MakeShell

METADATA: dict[str, Any] = {"message": None, "exit_code": None, "error": None, "gpu_ids": [], "node_id": "n1"}
CREATED: dict[str, Any] = {"kind": "created", "workload_id": "w1", "metadata": METADATA, "timestamp": "t1"}
ENDED: dict[str, Any] = {**CREATED, "kind": {"completed": {"exit_code": 0}}, "timestamp": "t2"}
PATH = "GET /api/v1/audit"


def test_events_are_a_table(shell: MakeShell) -> None:
    typed = shell({PATH: {"events": [CREATED, ENDED], "nextCursor": None}})
    result = typed("audit", "--workload", "w1", "--node", "n1", "--since", "t0", "--limit", "7")
    assert result.exit_code == 0, result.output
    assert [line.split()[:2] for line in result.output.splitlines()] == [
        ["TIME", "EVENT"],
        ["t1", "created"],
        ["t2", "completed"],
    ]
    assert dict(typed.requests[0].url.params) == {"workload": "w1", "node": "n1", "since": "t0", "limit": "7"}


def test_events_are_json_as_the_server_has_them(shell: MakeShell) -> None:
    result = shell({PATH: {"events": [CREATED], "nextCursor": None}})("audit", "--output", "json")
    assert json.loads(result.output) == [CREATED]


def test_all_of_them_are_read_page_by_page(shell: MakeShell) -> None:
    def pages(request: httpx.Request) -> Any:
        last = request.url.params.get("cursor") == "2-1"
        return {"events": [ENDED if last else CREATED], "nextCursor": None if last else "2-1"}

    result = shell({PATH: pages})("audit", "--all", "--output", "json")
    assert [json.loads(line) for line in result.output.splitlines()] == [CREATED, ENDED]
