"""The main job as `make demo` runs it, on an embedded Ray cluster of its own. Takes the time of starting Ray."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.cluster
@pytest.mark.timeout(400)
def test_main_job_is_well_from_start_to_end() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ARCRAY_")}
    run = subprocess.run(
        [sys.executable, "-m", "examples.digits"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=380,
    )
    said = run.stdout
    assert run.returncode == 0, said + run.stderr

    accuracy = re.search(r"^accuracy: ([01]\.\d\d)$", said, flags=re.MULTILINE)
    assert accuracy is not None, said
    assert float(accuracy[1]) > 0.9
    servers = re.findall(r"^answered by: node .+, process (\d+)$", said, flags=re.MULTILINE)
    gateway = re.search(r"^gateway: process (\d+)$", said, flags=re.MULTILINE)
    assert servers
    assert gateway is not None, said
    assert gateway[1] not in servers
    assert re.search(r"^events seen: .*\b540 inference completed\b", said, flags=re.MULTILINE), said
    ran, _, grid = said.partition("\nPROTOCOL ")
    kinds = re.findall(r"^\S+ +(program|model|inference|container) ", ran, flags=re.MULTILINE)
    assert kinds == ["program", "model", "inference", "container"]
    assert len(re.findall(r"^C=\S+ +HiveMind task .* accuracy 0\.9\d+ in 5 folds", said, flags=re.MULTILINE)) == 4, said
    balances = re.findall(r"^(ana|ben)-\w+ +(\d+) +(\d+)$", said, flags=re.MULTILINE)
    paid = {name: int(after) - int(before) for name, before, after in balances}
    assert paid["ana"] + paid["ben"] == 0, said
    if missing := re.search(r"not run: (.*)", said):
        pytest.skip(missing[1])
    assert "    hello from a container\n" in said
    assert "    hello from a claw node\n" in said
    assert re.search(r"^hello +claw container +claw-[0-9a-f]{6} ", said, flags=re.MULTILINE), said
    found = {(row[0], row[1]): row[2:] for row in (re.split(" {2,}", line) for line in grid.splitlines()[1:8])}
    assert {way: tuple(cell.startswith("no") for cell in cells) for way, cells in found.items()} == {
        #                             Ray    HiveMind claw  pool
        ("REST", "program"): (False, False, True, False),
        ("REST", "container"): (False, False, False, False),
        ("REST", "model"): (False, True, True, True),
        ("ArcNet", "inference"): (False, True, True, True),
        ("HiveMind", "task"): (False, False, True, False),
        ("Resource Pool", "task"): (False, False, True, False),
        ("Resource Pool", "image"): (False, False, False, False),
    }, grid
    assert found["HiveMind", "task"][3] == "1229 primes"
    assert "[1] no: must offer program or program-in-container\n" in grid
