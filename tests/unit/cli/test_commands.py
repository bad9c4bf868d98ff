from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from arcray.cli.exit_codes import EXIT_CODES
from arcray.cli.output import shown
from arcray.core.errors import Code
from tests.cli_fixtures import URL, MakeShell, Routes

WORKLOAD = {"id": "w1", "kind": "program", "name": "train", "phase": "running", "nodeId": "n1", "message": ""}
DONE = {**WORKLOAD, "phase": "succeeded", "exitCode": 0, "durationMs": 12.34}
NODE = {
    "id": "n1",
    "name": "head",
    "status": "idle",
    "driver": "ray_actor",
    "gpuCount": 2,
    "gpuUtilization": 0.25,
    "modelsLoaded": ["digits", "llama"],
}


def test_nodes_are_a_table(shell: MakeShell) -> None:
    result = shell({"GET /api/v1/nodes": {"nodes": [NODE], "total": 1}})("nodes")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "ID  NAME  STATUS  DRIVER     GPUS  LOAD  MODELS",
        "n1  head  idle    ray_actor     2  25%   digits, llama",
    ]


def test_json_is_the_servers_own(shell: MakeShell) -> None:
    routes = {"GET /api/v1/nodes": {"nodes": [{**NODE, "geohash": "9q9hvu"}], "total": 1}}
    for words in (["nodes", "--output", "json"], ["--output", "json", "nodes"]):
        assert json.loads(shell(routes)(*words).stdout) == [{**NODE, "geohash": "9q9hvu"}]


def test_all_work_is_listed_page_by_page(shell: MakeShell) -> None:
    page = {"workloads": [WORKLOAD, {**WORKLOAD, "id": "w2"}], "total": 2, "nextCursor": None}
    pool = shell({"GET /api/v1/workloads": page})
    lines = pool("workloads", "--all", "--output", "json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["w1", "w2"]
    assert len(shell({"GET /api/v1/workloads": page})("workloads", "--all").stdout.splitlines()) == 3
    assert len(shell({"GET /api/v1/workloads": page})("workloads", "--limit", "1").stdout.splitlines()) == 2


def test_program_is_submitted_with_what_it_asks(shell: MakeShell, tmp_path: Path) -> None:
    source = tmp_path / "train.py"
    source.write_text("print(1)")
    pool = shell({"POST /api/v1/workloads": WORKLOAD})
    result = pool(
        *("submit", "program", str(source), "--cpu", "1.5", "--memory-mb", "64", "--gpus", "1", "--env", "A=b=c"),
        *("--name", "train", "--", "--epochs", "3"),
    )
    assert result.exit_code == 0, result.output
    assert pool.sent() == {
        "kind": "program",
        "source": "print(1)",
        "args": ["--epochs", "3"],
        "env": {"A": "b=c"},
        "name": "train",
        "demand": {"cpu": 1.5, "memoryMb": 64, "gpus": 1},
    }
    assert "phase    running" in result.stdout


def test_container_is_submitted(shell: MakeShell) -> None:
    pool = shell({"POST /api/v1/workloads": {**WORKLOAD, "kind": "container"}})
    result = pool(
        *("submit", "container", "busybox:1", "-p", "80", "-v", "/data:/in:ro", "--restart", "always"),
        *("--entrypoint", "sh", "--", "-c", "true"),
    )
    assert result.exit_code == 0, result.output
    assert pool.sent() == {
        "kind": "container",
        "image": "busybox:1",
        "command": ["sh"],
        "args": ["-c", "true"],
        "ports": [{"containerPort": 80}],
        "volumes": [{"source": "/data", "target": "/in", "readOnly": True}],
        "restartPolicy": {"rule": "always", "maxRestarts": 3},
    }


@pytest.mark.parametrize("text", ["/data", ":/in", "/data:", "/data:/in:rx"])
def test_volume_that_is_none_is_refused(shell: MakeShell, text: str) -> None:
    result = shell({})("submit", "container", "x", "-v", text)
    assert (result.exit_code, result.stderr) == (2, f"arcray: volumes: {text!r} is not SOURCE:TARGET[:ro]\n")


def test_waiting_work_is_explained(shell: MakeShell) -> None:
    said = {"nodes": 2, "refusals": [], "suggestion": "", "sentence": "2 nodes lack GPUs"}
    pool = shell({"GET /api/v1/workloads/w1/explain": said})
    assert pool("explain", "w1").stdout == "2 nodes lack GPUs\n"
    assert json.loads(pool("explain", "w1", "--output", "json").stdout) == said


def test_waiting_prints_the_log_and_returns_the_works_own_success(shell: MakeShell) -> None:
    routes: Routes = {
        "POST /api/v1/workloads": WORKLOAD,
        "GET /api/v1/workloads/w1/logs": "epoch 1\n",
        "GET /api/v1/workloads/w1": DONE,
    }
    good = shell(routes)("submit", "container", "x", "--wait")
    assert good.exit_code == 0
    assert good.stdout.startswith("epoch 1\n")
    assert "ms       12.3" in good.stdout
    bad = shell({**routes, "GET /api/v1/workloads/w1": {**DONE, "phase": "failed", "exitCode": 3}})(
        "submit", "container", "x", "--wait", "--output", "json"
    )
    assert bad.exit_code == 1
    assert json.loads(bad.stdout)["exitCode"] == 3


def test_waiting_says_what_the_work_waits_for_once_that_takes_a_while(
    shell: MakeShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arcray.cli.work._LOOK_S", 0.0)
    looks = iter([{**DONE, "phase": "pending"}] * 7)
    pool = shell(
        {
            "POST /api/v1/workloads": WORKLOAD,
            "GET /api/v1/workloads/w1/explain": {"sentence": "1 node lacks GPUs\x1b[2J"},
            "GET /api/v1/workloads/w1/logs": "",
            "GET /api/v1/workloads/w1": lambda _: next(looks, DONE),
        }
    )
    result = pool("submit", "container", "x", "--wait", "--output", "json")
    assert result.stderr == "arcray: w1 waits: 1 node lacks GPUs\\x1b[2J\n"
    assert json.loads(result.stdout)["phase"] == "succeeded"


def test_names_cannot_forge_rows_nor_command_a_terminal(shell: MakeShell) -> None:
    name = "evil\nw2  container\x1b[2J\u202e"
    pool = shell({"GET /api/v1/workloads": {"workloads": [{**DONE, "name": name}], "total": 1, "nextCursor": None}})
    table = pool("workloads").stdout
    assert len(table.splitlines()) == 2
    assert "evil\\nw2  container\\x1b[2J\\u202e" in table
    assert json.loads(pool("workloads", "--output", "json").stdout)[0]["name"] == name


def test_logs_are_printed_and_followed(shell: MakeShell) -> None:
    pool = shell({"GET /api/v1/workloads/w1/logs": "one\ntwo"})
    assert pool("logs", "w1").stdout == pool("logs", "-f", "w1").stdout == "one\ntwo"
    assert [request.url.query for request in pool.requests] == [b"", b"follow=true&offset=0"]


def test_results_are_listed_and_fetched(shell: MakeShell, tmp_path: Path) -> None:
    pool = shell(
        {
            "GET /api/v1/workloads/w1/results": {"results": [{"path": "out/m.onnx", "sizeBytes": 3}]},
            "GET /api/v1/workloads/w1/results/out/m.onnx": b"abc",
        }
    )
    result = pool("results", "w1", "--to", str(tmp_path / "here"))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "here/out/m.onnx").read_bytes() == b"abc"
    assert result.stdout.splitlines()[1].split() == ["out/m.onnx", "3"]


def test_results_that_cannot_be_had_are_named_and_the_others_fetched(shell: MakeShell, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "out").symlink_to(tmp_path)
    (here / "loop").symlink_to("loop")
    (here / "taken").mkdir()
    refused = [
        "../evil",
        f"{tmp_path}/evil",
        "out/evil",
        "",
        ".",
        "loop/x",
        "taken",
        "n\0ul",
        "l" * 300,
        "\udce9",
        "\ud800",
        "gone",
    ]
    kept = ["first", "two\nlines", "last/one"]
    listed = [{"path": path, "sizeBytes": 1} for path in [kept[0], *refused, *kept[1:]]]
    routes: Routes = {f"GET /api/v1/workloads/w1/results/{path}": b"x" for path in (*refused[:-3], *kept)}
    pool = shell(
        {
            "GET /api/v1/workloads/w1/results": json.dumps({"results": listed}),
            "GET /api/v1/workloads/w1/evil": b"x",
            **routes,
        }
    )
    result = pool("results", "w1", "--to", str(here))
    assert result.exit_code == 1
    assert [(here / path).read_bytes() for path in kept] == [b"x"] * 3
    assert len(result.stderr.splitlines()) == len(refused)
    for path, line in zip(refused, result.stderr.splitlines(), strict=True):
        assert line.startswith(f"arcray: {shown(path)!s}: "), line
    assert {path.name for path in tmp_path.iterdir()} == {"here"}


def test_fetching_ends_when_the_server_has_gone(shell: MakeShell, tmp_path: Path) -> None:
    listed = [{"path": path, "sizeBytes": 1} for path in "abc"]
    pool = shell(
        {
            "GET /api/v1/workloads/w1/results": {"results": listed},
            "GET /api/v1/workloads/w1/results/a": httpx.Response(503, json={"code": "UNAVAILABLE", "error": "away"}),
        }
    )
    assert pool("results", "w1", "--to", str(tmp_path)).exit_code == 3
    assert {request.url.path[-2:] for request in pool.requests} == {"ts", "/a"}


def test_work_is_stopped(shell: MakeShell) -> None:
    result = shell({"POST /api/v1/workloads/w1/stop": {**WORKLOAD, "phase": "stopping"}})("stop", "w1")
    assert "phase    stopping" in result.stdout


def test_models_are_registered_listed_and_removed(shell: MakeShell, tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(b"onnx")
    model = {"name": "digits", "format": "onnx", "readyOn": ["n1"]}
    routes: Routes = {
        "POST /api/v1/models": model,
        "GET /api/v1/models": {"models": [model], "total": 1},
        "DELETE /api/v1/models/digits": "",
    }
    pool = shell(routes)
    assert pool("models", "register", "digits", str(file), "--format", "onnx").exit_code == 0
    assert pool.sent() == {"name": "digits", "format": "onnx", "replicas": 1, "content": "b25ueA=="}
    assert "digits  onnx    n1" in pool("models", "list").stdout
    assert pool("models", "remove", "digits").exit_code == 0


def test_models_alone_are_listed_as_nodes_are(shell: MakeShell) -> None:
    pool = shell({"GET /api/v1/models": {"models": []}})
    assert json.loads(pool("models", "--output", "json").stdout) == json.loads(
        pool("models", "list", "--output", "json").stdout
    )


def test_models_are_listed_with_what_is_to_say_about_their_copies(shell: MakeShell) -> None:
    copies = [{"id": "w1", "message": "away"}, {"id": "w2", "message": ""}, {"id": "w3", "message": "away"}]
    pool = shell(
        {
            "GET /api/v1/models": {
                "models": [{"name": "m", "format": "openai", "readyOn": [], "servers": copies}],
                "total": 1,
            }
        }
    )
    assert pool("models").stdout.splitlines()[-1].split()[-1] == "away"


def test_model_that_cannot_be_loaded_is_a_failure_and_no_conflict(shell: MakeShell) -> None:
    model = {"name": "m", "format": "python", "readyOn": []}
    looks = iter([{**model, "servers": [{"id": "w1"}]}])
    pool = shell(
        {
            "POST /api/v1/models": model,
            "GET /api/v1/models/m": lambda _: next(looks, {**model, "servers": []}),
            "GET /api/v1/workloads/w1": {**DONE, "phase": "failed", "message": "no such module"},
        }
    )
    result = pool("models", "register", "m", "a:b", "--format", "python", "--wait")
    assert (result.exit_code, "no such module" in result.stderr) == (1, True)


def test_model_comes_from_a_programs_result(shell: MakeShell) -> None:
    pool = shell({"POST /api/v1/models": {"name": "m", "format": "onnx", "readyOn": []}})
    pool("models", "register", "m", "model.onnx", "--format", "onnx", "--from-workload", "w1", "--cpu", "1")
    assert pool.sent()["fromWorkload"] == {"id": "w1", "path": "model.onnx"}
    assert pool.sent()["demand"] == {"cpu": 1.0, "memoryMb": 0, "gpus": 0}


def test_refusal_is_one_line_that_names_the_field(shell: MakeShell) -> None:
    problem = {"code": "INVALID_ARGUMENT", "detail": "must be at\nmost 64", "field": "demand.gpus"}
    result = shell({"POST /api/v1/workloads": httpx.Response(400, json=problem)})("submit", "container", "x")
    assert result.exit_code == 2
    assert result.stderr == "arcray: demand.gpus: must be at most 64\n"
    assert result.stdout == ""


def test_unknown_workload_has_its_own_exit_code(shell: MakeShell) -> None:
    assert shell({})("logs", "w9").exit_code == 4


def test_no_server_says_so(shell: MakeShell) -> None:
    result = shell({"GET /readyz": httpx.Response(503, json={"code": "UNAVAILABLE", "detail": "starting"})})("status")
    assert result.exit_code == 3
    assert result.stderr == "arcray: not ready: starting\n"


def test_status_shows_counts(shell: MakeShell) -> None:
    stats = {"nodes": {"total": 2, "online": 1}, "uptimeS": 3.0}
    result = shell({"GET /readyz": {"status": "ready"}, "GET /api/v1/stats": stats})("status")
    assert result.exit_code == 0
    assert "nodes.total   2" in result.stdout
    said = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert (said["url"], said["pid"], said["state_dir"]) == (URL, "-", "-")  # it is not the one of our directory


@pytest.mark.parametrize("answer", [httpx.Response(404, text="<html>Not Found"), {"error": "no"}, "hello"])
def test_status_tells_what_is_no_arcray(shell: MakeShell, answer: Any) -> None:
    pool = shell({"GET /readyz": answer})
    result = pool("status")
    assert result.exit_code == 3
    assert f"{URL}/readyz answers" in result.stderr
    assert "not as arcray does" in result.stderr
    said = json.loads(pool("status", "--output", "json").stdout)
    assert (said["ready"], said["url"], said["pid"]) == (False, URL, None)


def test_key_and_address_reach_the_client(shell: MakeShell, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = shell({"GET /api/v1/nodes": {"nodes": [], "total": 0}})
    pool("nodes", "--url", "http://a:1", "--api-key", "k")
    monkeypatch.setenv("ARCRAY_URL", "http://b:2")
    pool("nodes")
    monkeypatch.delenv("ARCRAY_URL")
    pool("nodes")
    assert pool.clients == [("http://a:1", "k"), ("http://b:2", None), ("http://127.0.0.1:8080", None)]


def test_stopping_nothing_is_no_failure(shell: MakeShell, tmp_path: Path) -> None:
    result = shell({})("down")
    assert result.exit_code == 0
    assert str(tmp_path) in result.stdout


def test_stopping_is_told_to_programs(shell: MakeShell) -> None:
    said = json.loads(shell({})("down", "--output", "json").stdout)
    assert said == {"pid": None, "gently": True, "containersLeft": None}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"gateway: [", "is no YAML"),
        (b"just words", "holds no mapping of settings"),
        (b"a: \xff", "is not UTF-8 text"),
        (b"gateway: {http_ports: [70000]}", "gateway.http_ports.0: "),
    ],
)
def test_file_that_is_no_settings_is_named(shell: MakeShell, tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "arcray.yaml"
    file.write_bytes(content)
    result = shell({})("up", "--config", str(file))
    assert result.exit_code == 2
    assert complaint in result.stderr


def test_environment_that_is_no_json_is_named(shell: MakeShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCRAY_GATEWAY", "{bad")
    result = shell({})("up")
    assert (result.exit_code, "gateway" in result.stderr) == (2, True)


def test_wrong_settings_are_named(shell: MakeShell, tmp_path: Path) -> None:
    file = tmp_path / "arcray.yaml"
    file.write_text("gateway: {replicas: 0}\n")
    result = shell({})("up", "--config", str(file))
    assert result.exit_code == 2
    assert result.stderr.startswith("arcray: gateway.replicas: ")


def test_every_code_has_an_exit_code() -> None:
    assert set(EXIT_CODES) == set(Code)
    assert all(1 <= code <= 8 for code in EXIT_CODES.values())


def test_help_loads_neither_ray_nor_a_web_library() -> None:
    """Starts an interpreter. Help and completion must be quick: this is what makes them so."""
    code = (
        "import sys, arcray.cli.main\n"
        "print(sorted({'ray', 'httpx', 'pydantic', 'psutil', 'asyncio'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[]"


def test_typed_option_wins_over_the_environment_on_either_side(
    shell: MakeShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCRAY_URL", "http://environment")
    monkeypatch.setenv("ARCRAY_API_KEY", "of-the-environment")
    typed = ("--url", "http://typed", "--api-key", "typed")
    for words in ((*typed, "nodes"), ("nodes", *typed), (*typed, "models", "list")):
        pool = shell({"GET /api/v1/nodes": {"nodes": [], "total": 0}, "GET /api/v1/models": {"models": [], "total": 0}})
        assert pool(*words).exit_code == 0
        assert pool.clients == [("http://typed", "typed")]
    pool = shell({"GET /api/v1/nodes": {"nodes": [], "total": 0}})
    pool("nodes")
    assert pool.clients == [("http://environment", "of-the-environment")]


@pytest.mark.parametrize("words", [("--cpu", "nan"), ("--cpu", "inf"), ("--max-duration", "nan"), ("--cpu", "-1")])
def test_amount_that_is_no_amount_is_wrong_use(shell: MakeShell, tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "ok.py").write_text("print(1)")
    result = shell({})("submit", "program", str(tmp_path / "ok.py"), *words)
    assert result.exit_code == 2
    assert words[0] in result.stderr


def test_standard_input_arrives_as_it_is(shell: MakeShell, tmp_path: Path) -> None:
    (tmp_path / "ok.py").write_text("print(1)")
    (tmp_path / "data").write_bytes(b"a\r\nb\r\n\r")
    pool = shell({"POST /api/v1/workloads": WORKLOAD})
    assert pool("submit", "program", str(tmp_path / "ok.py"), "--stdin", str(tmp_path / "data")).exit_code == 0
    assert pool.sent()["stdin"] == "a\r\nb\r\n\r"


def test_standard_input_that_is_no_text_is_wrong_use(shell: MakeShell, tmp_path: Path) -> None:
    (tmp_path / "ok.py").write_text("print(1)")
    (tmp_path / "data").write_bytes(b"\xff\xfe")
    result = shell({})("submit", "program", str(tmp_path / "ok.py"), "--stdin", str(tmp_path / "data"))
    assert (result.exit_code, result.exception.__class__) == (2, SystemExit)
    assert "is not UTF-8 text" in result.stderr


HELD = {
    "id": "r1",
    "state": "active",
    "slices": [{"nodeId": "n1", "demand": {"cpu": 2}, "left": {"cpu": 2}}],
    "expiresAt": "2026-11-25T00:05:00Z",
    "message": "",
}


def test_how_work_stands_to_other_work_is_submitted(shell: MakeShell) -> None:
    pool = shell({"POST /api/v1/workloads": WORKLOAD})
    words = ("--priority", "background", "--preemptible", "--gang", "g:2:spread", "--reservation", "r1")
    assert pool("submit", "container", "x", *words).exit_code == 0
    sent = pool.sent()
    assert (sent["priority"], sent["preemptible"], sent["reservationId"]) == ("background", True, "r1")
    assert sent["gang"] == {"id": "g", "size": 2, "layout": "spread"}


def test_all_members_of_a_gang_are_submitted_with_their_rank(shell: MakeShell) -> None:
    pool = shell({"POST /api/v1/workloads": WORKLOAD})
    result = pool("submit", "container", "x", "--gang", "g:2", "--all", "--env", "A=b", "--output", "json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == [WORKLOAD, WORKLOAD]
    sent = [json.loads(request.content)["env"] for request in pool.requests]
    assert sent == [{"A": "b", "ARCRAY_GANG_RANK": rank, "ARCRAY_GANG_SIZE": "2"} for rank in ("0", "1")]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--gang", "g"), "arcray: gang: 'g' is not ID:SIZE[:LAYOUT]\n"),
        (("--gang", "g:2:line"), "arcray: gang: 'g:2:line' is not ID:SIZE[:LAYOUT]\n"),
        (("--all",), "arcray: all: there are no members without a gang\n"),
    ],
)
def test_a_gang_that_is_misspelt_is_named(shell: MakeShell, words: tuple[str, ...], complaint: str) -> None:
    result = shell({})("submit", "container", "x", *words)
    assert (result.exit_code, result.stderr) == (2, complaint)


def test_a_place_is_reserved_listed_and_released(shell: MakeShell) -> None:
    routes = {
        "POST /api/v1/reservations": HELD,
        "GET /api/v1/reservations": {"reservations": [HELD], "total": 1},
        "DELETE /api/v1/reservations/r1": {**HELD, "state": "released"},
    }
    pool = shell(routes)
    made = pool("reserve", "--cpu", "2", "--gpus", "4", "--parts", "2", "--select", "zone=a", "--ttl", "60")
    assert made.exit_code == 0, made.output
    assert pool.sent() == {
        "demand": {"cpu": 2.0, "memoryMb": 0, "gpus": 4},
        "strategy": "even",
        "parts": 2,
        "selector": {"zone": "a"},
        "ttlS": 60.0,
    }
    assert "state    active" in made.stdout
    assert json.loads(pool("reservations", "--output", "json").stdout) == [HELD]
    assert "released" in pool("release", "r1").stdout


def test_a_place_that_does_not_fit_exits_with_no_room(shell: MakeShell) -> None:
    problem = {"code": "NO_CANDIDATES", "error": "0 of 1 nodes can take it", "field": "demand"}
    result = shell({"POST /api/v1/reservations": httpx.Response(503, json=problem)})("reserve", "--gpus", "64")
    assert (result.exit_code, result.stderr) == (7, "arcray: demand: 0 of 1 nodes can take it\n")


ACCOUNT = {"id": "ana", "available": 70, "held": 5, "limit": {"credits": 50, "periodS": 3600}, "spent": 2}
ENTRY = {"id": "e1", "kind": "issue", "credits": 30, "balance": 100, "memo": "", "at": "2026-11-25T00:00:00Z"}
KEY = {"id": "k1", "account": "ana", "scope": "submit", "name": "laptop", "prefix": "arc_abcdefgh", "expiresAt": None}


def test_accounts_are_listed_opened_credited_and_limited(shell: MakeShell) -> None:
    typed = shell(
        {
            "GET /api/v1/accounts": {"accounts": [ACCOUNT], "total": 1},
            "POST /api/v1/accounts": ACCOUNT,
            "GET /api/v1/accounts/ana": ACCOUNT,
            "POST /api/v1/accounts/ana/deposit": ENTRY,
            "PUT /api/v1/accounts/ana/limit": ACCOUNT,
        }
    )
    assert typed("accounts", "list").stdout.splitlines()[1].split() == ["ana", "70", "5", "50", "3600", "2"]
    assert typed("accounts", "create", "ana", "--limit", "50").exit_code == 0
    assert "available  70" in typed("accounts", "show", "ana").stdout
    assert "balance  100" in typed("accounts", "credit", "ana", "30").stdout
    assert typed("accounts", "limit", "ana", "50", "--period-s", "3600").exit_code == 0
    assert typed("accounts", "credit", "ana", "0").exit_code == 2
    bodies = [json.loads(request.content) for request in typed.requests if request.content]
    assert bodies[0] == {"id": "ana", "limit": {"credits": 50, "periodS": 86400}, "overdraft": 0}
    assert bodies[-1] == {"limit": {"credits": 50, "periodS": 3600}}


def test_a_transfer_without_credits_has_an_exit_code_of_its_own(shell: MakeShell) -> None:
    problem = {"code": "INSUFFICIENT_CREDITS", "field": "credits", "error": "account ana has 5 credits"}
    typed = shell({"POST /api/v1/accounts/ana/transfer": httpx.Response(402, json=problem)})
    result = typed("accounts", "transfer", "ana", "bo", "30")
    assert result.exit_code == 8
    assert result.stderr == "arcray: credits: account ana has 5 credits\n"


def test_a_statement_is_shown_newest_first(shell: MakeShell) -> None:
    line = {"entry": "e1", "kind": "settle", "book": "held", "credits": -7, "balance": 0, "workloadId": "w1"}
    page = {"lines": [{**line, "memo": "", "at": "2026-11-25T00:00:00Z"}], "next": None}
    result = shell({"GET /api/v1/accounts/ana/statement": page})("accounts", "statement", "ana")
    assert result.stdout.splitlines()[1].split() == ["2026-11-25T00:00:00Z", "settle", "held", "-7", "0", "w1"]


def test_a_key_is_printed_when_it_is_issued_and_never_listed(shell: MakeShell) -> None:
    typed = shell(
        {
            "POST /api/v1/keys": {**KEY, "key": "arc_abcdefgh-secret"},
            "GET /api/v1/keys": {"keys": [KEY], "total": 1},
            "DELETE /api/v1/keys/k1": httpx.Response(204),
        }
    )
    issued = typed("keys", "create", "ana", "--scope", "submit", "--expires-in-days", "2")
    assert "arc_abcdefgh-secret" in issued.stdout
    assert typed.sent()["expiresInS"] == 2 * 86_400
    listed = typed("keys", "list").stdout
    assert "arc_abcdefgh…" in listed
    assert "secret" not in listed
    assert typed("keys", "revoke", "k1").exit_code == 0


@pytest.mark.parametrize("command", ["up", "down"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e300"])
def test_a_time_to_wait_is_a_number_of_seconds(shell: MakeShell, command: str, value: str) -> None:
    result = shell({})(command, "--timeout", value)
    assert result.exit_code == 2
    assert "'--timeout'" in result.output
