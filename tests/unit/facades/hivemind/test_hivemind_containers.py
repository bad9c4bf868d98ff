"""Containers that go to workers as programs. One test runs what a worker would run, which takes 30 ms."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from arcray.core.errors import InvalidArgumentError
from arcray.core.orders import StartWorkload
from arcray.core.quantity import GIB
from arcray.core.resources import Allocation, Demand
from arcray.core.workload import Container
from arcray.facades.hivemind import containers, orders
from arcray.facades.hivemind.uploads import is_archive
from arcray.testing.builders import a_workload

ASKED = Container(image="busybox:1", command=("sh", "-c"), args=("echo $A",), env=(("A", "b c"),))


def packed(container: Container = ASKED) -> bytes:
    order = StartWorkload(
        workload_id=a_workload(1).id,
        attempt=2,
        payload=container,
        demand=Demand(cpu_milli=1_500, memory_bytes=GIB, gpus=1),
        allocation=Allocation(),
        owner="ana",
    )
    request = orders.execution_of(order, b"")
    assert request.task_id == f"arcray-{a_workload(1).id}.arcray-2"
    return request.task_data


def test_a_container_that_was_packed_is_read_again() -> None:
    asked = containers.asked_of(packed())
    assert asked is not None
    assert asked.container == ASKED
    assert asked.demand == Demand(cpu_milli=1_500, memory_bytes=GIB, gpus=1)


def test_an_archive_that_asks_for_none_is_a_program() -> None:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as bundle:
        bundle.writestr("main.py", "1")
    assert containers.asked_of(written.getvalue()) is None


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"image": "x", "command": 1}'])
def test_what_asks_for_no_container_is_refused(content: str) -> None:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as bundle:
        bundle.writestr("arcray-container.json", content)
    with pytest.raises(InvalidArgumentError):
        containers.asked_of(written.getvalue())


def test_a_worker_runs_it_by_dockers_command_line(tmp_path: Path) -> None:
    data = packed()
    assert is_archive(data, unpacked_bytes=GIB)
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    docker.chmod(0o755)
    with zipfile.ZipFile(io.BytesIO(data)) as bundle:
        bundle.extractall(tmp_path)
    told = subprocess.run(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
        env={"PATH": f"{tmp_path}:{os.defpath}"},
    )
    said = told.stdout.decode().splitlines()
    assert said[:5] == ["run", "--rm", "--init", "--name", f"arcray-{a_workload(1).id}-2"]
    for pair in (["--cpus", "1.5"], ["--memory", str(GIB)], ["--gpus", "1"], ["--cap-drop", "ALL"], ["--env", "A=b c"]):
        at = said.index(pair[0])
        assert said[at : at + 2] == pair
    assert said[-6:] == ["--entrypoint", "sh", "--", "busybox:1", "-c", "echo $A"]


def test_a_worker_without_docker_says_so(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(packed())) as bundle:
        bundle.extractall(tmp_path)
    told = subprocess.run(
        [sys.executable, "main.py"], cwd=tmp_path, capture_output=True, check=False, env={"PATH": str(tmp_path)}
    )
    assert told.returncode == 1
    assert b"this worker has no Docker" in told.stderr


@pytest.mark.parametrize(
    ("status", "offers"),
    [
        ("enabled", False),
        ("available", False),
        ("disabled", False),
        ("", False),
        ("enabled, containers", True),
        ("Containers", True),
    ],
)
def test_only_workers_that_say_so_get_containers(status: str, offers: bool) -> None:
    assert containers.offers_containers(status) is offers
