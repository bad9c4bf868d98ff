"""Commands about nodes, dead letters, quotas and what if."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli_fixtures import MakeShell, Routes

NODE: dict[str, Any] = {
    "id": "n1",
    "name": "head",
    "health": "healthy",
    "cordoned": True,
    "cordonedGpus": [1],
    "drain": {"startedAt": "t", "gpus": [], "deadline": None, "graceS": 30.0, "doneAt": "t"},
    "drained": True,
    "labels": {"zone": "eu"},
    "workloads": 0,
    "latencyMs": 12.5,
}
LETTER: dict[str, Any] = {
    "id": "w1",
    "reason": "exit 3",
    "workload": {"kind": "program", "name": "train", "phase": "failed", "attempt": 2},
    "attempts": [{"attempt": 2, "nodeId": "n1", "startedAt": "a", "endedAt": "b", "exitCode": 3, "message": "exit 3"}],
}
QUOTA: dict[str, Any] = {
    "account": "ana",
    "own": True,
    "quota": {"workloads": None, "cpu": 4.0, "memoryMb": None, "gpus": 8, "pending": None},
    "held": {"workloads": 1, "cpu": 1.5, "memoryMb": 0, "gpus": 0, "pending": 2},
}
SIMULATION: dict[str, Any] = {
    "submitted": [
        {"name": "a", "nodeId": "x", "newNode": True, "gpus": [0], "explanation": None, "refusal": None},
        {
            "name": "b",
            "nodeId": None,
            "newNode": False,
            "gpus": [],
            "explanation": {"sentence": "no room"},
            "refusal": None,
        },
    ],
    "displaced": [
        {
            "id": "w1",
            "name": "c",
            "nodeId": "n1",
            "movedTo": None,
            "phase": "pending",
            "message": "its node was drained",
        }
    ],
    "displacedTotal": 1,
    "started": [],
    "startedTotal": 0,
    "waiting": 2,
    "leftOut": 0,
}


def at(path: str, body: Any = NODE, method: str = "POST") -> Routes:
    return {f"{method} {path}": body}


@pytest.mark.parametrize(
    ("words", "path", "body"),
    [
        (["cordon", "n1"], "cordon", {"gpus": []}),
        (["cordon", "n1", "--gpu", "0", "--gpu", "1"], "cordon", {"gpus": [0, 1]}),
        (["uncordon", "n1", "--gpu", "1"], "uncordon", {"gpus": [1]}),
        (["drain", "n1"], "drain", {"gpus": [], "graceS": 30.0}),
        (
            ["drain", "n1", "--gpu", "0", "--deadline", "60", "--grace", "5", "--wait"],
            "drain",
            {"gpus": [0], "graceS": 5.0, "deadlineS": 60.0},
        ),
    ],
)
def test_node_is_operated(shell: MakeShell, words: list[str], path: str, body: dict[str, Any]) -> None:
    pool = shell(at(f"/api/v1/nodes/n1/{path}"))
    result = pool("nodes", *words)
    assert result.exit_code == 0, result.output
    assert pool.sent() == body
    assert "drained        yes" in result.stdout


def test_node_is_labelled(shell: MakeShell) -> None:
    pool = shell(at("/api/v1/nodes/n1/labels", method="PATCH"))
    assert pool("nodes", "label", "n1", "zone=eu", "empty=", "old-").exit_code == 0
    assert pool.sent() == {"labels": {"zone": "eu", "empty": "", "old": None}}
    wrong = pool("nodes", "label", "n1", "zone")
    assert (wrong.exit_code, wrong.stderr) == (2, "arcray: labels: 'zone' is neither key=value nor key-\n")


def test_node_is_shown(shell: MakeShell) -> None:
    pool = shell(at("/api/v1/nodes/n1/scheduling", method="GET"))
    assert "labels         zone=eu" in pool("nodes", "show", "n1").stdout
    assert json.loads(pool("nodes", "show", "n1", "--output", "json").stdout) == NODE


def test_states_of_all_nodes_are_listed(shell: MakeShell) -> None:
    pool = shell(at("/api/v1/node-states", {"nodes": [NODE], "total": 1}, "GET"))
    assert pool("nodes", "states").stdout.splitlines()[1].split() == [
        *("n1", "head", "healthy", "yes", "1", "no", "yes", "0", "zone=eu")
    ]


def test_waiting_for_a_drain_ends_with_its_timeout(shell: MakeShell) -> None:
    pool = shell(at("/api/v1/nodes/n1/drain", {**NODE, "drained": False}))
    result = pool("nodes", "drain", "n1", "--wait", "--timeout", "0")
    assert (result.exit_code, "the drain goes on" in result.stderr) == (3, True)


def test_dead_letters_are_listed_and_shown(shell: MakeShell) -> None:
    page = {"deadLetters": [LETTER], "total": 1, "nextCursor": None}
    listed = shell(at("/api/v1/dead-letters", page, "GET"))("dead-letters", "list")
    assert listed.stdout.splitlines()[1].split() == ["w1", "program", "train", "failed", "2", "exit", "3"]
    shown = shell(at("/api/v1/dead-letters/w1", LETTER, "GET"))("dead-letters", "show", "w1").stdout
    assert "reason  exit 3" in shown
    assert "ATTEMPT  NODEID" in shown


@pytest.mark.parametrize("output", ["table", "json"])
def test_all_dead_letters_are_printed_as_they_come(shell: MakeShell, output: str) -> None:
    page = {"deadLetters": [LETTER, LETTER | {"id": "w2"}], "total": 2, "nextCursor": None}
    run = shell(at("/api/v1/dead-letters", page, "GET"))
    printed = run("dead-letters", "list", "--all", "--output", output).stdout.splitlines()
    if output == "json":
        assert [json.loads(line)["id"] for line in printed] == ["w1", "w2"]
    else:
        assert [line.split()[0] for line in printed] == ["ID", "w1", "w2"]


def test_dead_letter_is_replayed_with_edits(shell: MakeShell, tmp_path: Path) -> None:
    file = tmp_path / "edits.json"
    file.write_text('{"env": {"A": "1"}}')
    pool = shell(at("/api/v1/dead-letters/w1/replay", {"id": "w2", "phase": "pending"}))
    result = pool(
        *("dead-letters", "replay", "w1", "--edits", str(file), "--set", "demand.gpus=1", "--set", "name=again"),
        *("--set", "env.B=x", "--key", "k"),
    )
    assert result.exit_code == 0, result.output
    assert pool.sent() == {"env": {"A": "1", "B": "x"}, "demand": {"gpus": 1}, "name": "again"}
    assert pool.requests[0].headers["idempotency-key"] == "k"


@pytest.mark.parametrize("edit", ["name", "=x"])
def test_edit_that_is_none_is_wrong_use(shell: MakeShell, edit: str) -> None:
    result = shell({})("dead-letters", "replay", "w1", "--set", edit)
    assert (result.exit_code, "is not MEMBER=VALUE" in result.stderr) == (2, True)


def test_dead_letter_is_discarded(shell: MakeShell) -> None:
    assert shell(at("/api/v1/dead-letters/w1", "", "DELETE"))("dead-letters", "discard", "w1").exit_code == 0


def test_quotas_are_set_shown_and_reset(shell: MakeShell) -> None:
    path = "/api/v1/quotas/ana"
    routes = at(path, QUOTA, "PUT") | at(path, QUOTA, "GET") | at(path, QUOTA, "DELETE")
    routes |= at("/api/v1/quotas", {"quotas": [QUOTA], "total": 1}, "GET")
    pool = shell(routes)
    assert "cpu        1.5 of 4" in pool("quotas", "set", "ana", "--cpu", "4", "--gpus", "8", "--memory-mb", "1").stdout
    assert pool.sent() == {"cpu": 4.0, "gpus": 8, "memoryMb": 1}
    assert "gpus       0 of 8" in pool("quotas", "show", "ana").stdout
    assert "1 of any" in pool("quotas", "list").stdout
    assert pool("quotas", "reset", "ana").exit_code == 0


def test_simulation_is_told(shell: MakeShell, tmp_path: Path) -> None:
    file = tmp_path / "what.json"
    file.write_text('{"submit": [{"count": 2}]}')
    pool = shell(at("/api/v1/simulate", SIMULATION))
    result = pool(
        *("simulate", str(file), "--add-nodes", '{"count": 1, "like": "n1"}', "--drain-node", "n1"),
        *("--remove-node", "n2", "--submit", '{"demand": {"gpus": 1}}'),
    )
    assert result.exit_code == 0, result.output
    assert pool.sent() == {
        "addNodes": [{"count": 1, "like": "n1"}],
        "removeNodes": ["n2"],
        "drainNodes": ["n1"],
        "submit": [{"count": 2}, {"demand": {"gpus": 1}}],
    }
    assert "a new node" in result.stdout
    assert "no room" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 displaced, 0 of the waiting started, 2 waiting"


@pytest.mark.parametrize("words", [["--submit", "x"], ["--add-nodes", "[]"]])
def test_simulation_that_is_no_json_is_wrong_use(shell: MakeShell, words: list[str]) -> None:
    assert shell({})("simulate", *words).exit_code == 2


@pytest.mark.parametrize("member", ["addNodes", "removeNodes", "drainNodes", "submit"])
def test_simulation_of_a_file_that_lists_nothing_is_wrong_use(shell: MakeShell, tmp_path: Path, member: str) -> None:
    file = tmp_path / "if.json"
    file.write_text(json.dumps({member: 5}))
    refused = shell({})("simulate", str(file))
    assert (refused.exit_code, refused.stderr) == (2, f"arcray: {member}: must be a list\n")


def test_work_says_how_often_it_restarts_and_where_it_goes(shell: MakeShell) -> None:
    pool = shell(at("/api/v1/workloads", {"id": "w1", "phase": "pending"}))
    result = pool(
        *("submit", "container", "x", "--restart", "on_failure", "--max-restarts", "7"),
        *("--selector", "zone in (a,b),!spot"),
    )
    assert result.exit_code == 0, result.output
    assert pool.sent()["restartPolicy"] == {"rule": "on_failure", "maxRestarts": 7}
    assert pool.sent()["selector"] == "zone in (a,b),!spot"


def test_explanation_names_who_is_ahead(shell: MakeShell) -> None:
    said = {"sentence": "no room; 2 ahead of it", "firstAhead": ["w1", "w2"]}
    result = shell(at("/api/v1/workloads/w3/explain", said, "GET"))("explain", "w3")
    assert result.stdout == "no room; 2 ahead of it\nahead: w1, w2\n"
