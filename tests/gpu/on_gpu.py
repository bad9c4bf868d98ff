"""What tests say of work on the GPUs of the shared cluster."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arcray.client import Client, WorkloadInfo, WorkOptions
from arcray.core.resources import Demand, Gpu
from arcray.core.workload import Phase
from tests.embedded_cluster import Cluster

__all__ = ["PATIENCE_S", "PROGRAM", "OnGpu", "driver_says", "processes"]

PATIENCE_S = 60.0
PROGRAM = Path(__file__).parent / "models" / "cuda_square.py"


class OnGpu:
    """Work on this machine's GPUs: ``models/cuda_square.py`` as a program, whose first line says what it found."""

    def __init__(self, cluster: Cluster, client: Client, gpus: tuple[Gpu, ...]) -> None:
        self.cluster = cluster
        self.client = client
        self.gpus = gpus

    def submit(self, *args: str, demand: Demand, env: Mapping[str, str] | None = None) -> WorkloadInfo:
        return self.client.submit_program(PROGRAM, args=args, env=env, options=WorkOptions(demand=demand))

    def ended(self, work: WorkloadInfo) -> WorkloadInfo:
        return self.client.wait(work.id, timeout_s=PATIENCE_S)

    def found(self, work: WorkloadInfo) -> dict[str, Any]:
        """What a program has found, once it has said so."""
        text = ""
        for part in self.client.follow_logs(work.id):
            text += part
            if "\n" in text:
                break
        assert text.startswith("{"), (self.client.get(work.id), text)
        found: dict[str, Any] = json.loads(text.splitlines()[0])
        return found

    @contextmanager
    def kept(self, *args: str, demand: Demand) -> Iterator[WorkloadInfo]:
        """Work that goes on for the time of the block, from the moment when it has found a GPU."""
        work = self.submit(*args, demand=demand)
        try:
            assert "reason" not in self.found(work), self.client.logs(work.id)
            yield work
        finally:
            self.client.stop(work.id)
            assert self.ended(work).phase is Phase.STOPPED, self.client.logs(work.id)


def driver_says(*fields: str) -> list[dict[str, str]]:
    """What ``nvidia-smi`` says of each GPU, by the names that it has for its fields."""
    return [dict(zip(fields, line, strict=True)) for line in _ask(f"--query-gpu={','.join(fields)}")]


def processes() -> set[int]:
    """Which processes the driver has on its GPUs."""
    return {int(pid) for (pid,) in _ask("--query-compute-apps=pid")}


def _ask(question: str) -> list[list[str]]:
    command = ["nvidia-smi", question, "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    return [[field.strip() for field in line.split(",")] for line in lines]
