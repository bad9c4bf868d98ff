"""The load generator: wrk, which costs a tenth of what it measures.

Both cores of the machine serve what is measured, so every microsecond of the generator is taken from it. A generator in
Python, even on raw sockets, took 45 of the 400 us that a request costs altogether.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["Measured", "measure"]

_SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one run found; latencies in milliseconds."""

    requests: int
    per_s: float
    wrong: int
    p50_ms: float
    p99_ms: float


def measure(url: str, *, connections: int, seconds: float, body: str | None = None) -> Measured:
    """Runs the generator, a closed loop on each connection; fails when an answer was no success."""
    if shutil.which("wrk") is None:
        pytest.skip("the load generator wrk is not installed")
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds:g}s"]
    environment = os.environ | ({"BODY": body} if body is not None else {})
    output = subprocess.run(
        [*command, "--script", str(_SCRIPT), url],
        check=True, capture_output=True, text=True, timeout=seconds + 60, env=environment,
    ).stdout  # fmt: skip
    measured = Measured(**json.loads(output.strip().splitlines()[-1]))
    assert measured.wrong == 0, f"{measured.wrong} of {measured.requests} answers of {url} failed"
    return measured
