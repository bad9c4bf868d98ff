"""The command line against a running arcray: what it says must be what happened."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.digits import container
from tests.served.conftest import Started

Shell = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]


@pytest.fixture
def arcray(served: str, tmp_path: Path) -> Shell:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "arcray.cli.main", "--url", served, *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=150)

    return run


def body_of(run: subprocess.CompletedProcess[str]) -> Any:
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_files_where_arcray_was_typed_are_modules_of_none_of_its_processes(
    arcray: Shell, started: Started, tmp_path: Path
) -> None:
    (tmp_path / "one.py").write_text("print(1)\n")
    assert arcray("submit", "program", "one.py", "--wait").returncode == 0
    assert not started.trapped.exists(), started.trapped.read_text()


def test_status_and_nodes_show_this_machine(arcray: Shell) -> None:
    assert body_of(arcray("status", "--output", "json"))["ready"] is True
    (node,) = body_of(arcray("nodes", "--output", "json"))
    table = arcray("nodes").stdout.splitlines()
    assert table[1].startswith(node["id"])


def test_program_runs_and_its_files_come_back(arcray: Shell, tmp_path: Path) -> None:
    source = tmp_path / "sum.py"
    source.write_text(
        "import os, sys\n"
        "total = sum(map(int, sys.argv[1:])) + int(sys.stdin.read())\n"
        "print(total, os.environ['GREETING'])\n"
        "open(os.environ['ARCRAY_RESULT_DIR'] + '/total.txt', 'w').write(str(total))\n"
    )
    (tmp_path / "input").write_text("4\n")
    run = arcray("submit", "program", "sum.py", "1", "2", "--stdin", "input", "--env", "GREETING=hello", "--wait")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("7 hello\n")
    workload_id = next(line.split()[1] for line in run.stdout.splitlines() if line.startswith("id "))
    assert arcray("logs", workload_id).stdout == "7 hello\n"
    assert arcray("results", workload_id, "--to", "out").returncode == 0
    assert (tmp_path / "out/total.txt").read_text() == "7"


def test_failing_program_fails_the_command(arcray: Shell, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("raise SystemExit(3)\n")
    run = arcray("submit", "program", "bad.py", "--wait", "--output", "json")
    assert run.returncode == 1
    said = json.loads(run.stdout)
    assert (said["phase"], said["exitCode"]) == ("failed", 3)


def test_endless_program_is_followed_and_stopped(arcray: Shell, tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text("import threading\nprint('up', flush=True)\nthreading.Event().wait()\n")
    workload_id = body_of(arcray("submit", "program", "endless.py", "--output", "json"))["id"]
    assert arcray("stop", workload_id).returncode == 0
    followed = arcray("logs", "-f", workload_id)  # returns because it has ended
    assert followed.returncode == 0
    (row,) = [one for one in body_of(arcray("workloads", "--output", "json")) if one["id"] == workload_id]
    assert row["phase"] == "stopped"


def test_container_runs(arcray: Shell) -> None:
    if missing := container.build():
        pytest.skip(missing)
    words = ["submit", "container", container.IMAGE, "--entrypoint", "/bin/busybox", "--wait", "--", "echo", "hello"]
    run = arcray(*words)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("hello\n")


def test_model_is_registered_listed_and_removed(arcray: Shell) -> None:
    run = arcray("models", "register", "parse", "json:loads", "--format", "python", "--wait")
    assert run.returncode == 0, run.stderr
    assert "parse" in arcray("models", "list").stdout
    assert arcray("models", "remove", "parse").returncode == 0
    assert arcray("models", "remove", "parse").returncode == 4


def test_impossible_demand_waits_and_says_why(arcray: Shell, tmp_path: Path) -> None:
    (tmp_path / "big.py").write_text("print(1)\n")
    workload = body_of(arcray("submit", "program", "big.py", "--gpus", "64", "--output", "json"))
    assert workload["phase"] == "pending"
    assert "gpu" in arcray("explain", workload["id"]).stdout.lower()
    assert arcray("stop", workload["id"]).returncode == 0


def test_wrong_demand_is_one_line_that_names_the_field(arcray: Shell, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("print(1)\n")
    run = arcray("submit", "program", "x.py", "--gpu-memory-mb", "5")
    assert run.returncode == 2
    assert run.stderr == "arcray: demand.gpuMemory: needs gpus of at least 1\n"
