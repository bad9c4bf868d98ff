"""One embedded cluster for all cluster tests: real Ray, real actors, real listeners, on ports that are free."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from arcray.config import load
from tests.hivemind_examples import PORT, is_free
from tests.ports import free_ports

if TYPE_CHECKING:
    from tests.embedded_cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Takes about ten seconds, once per session; Ray's sockets need a short path."""
    from arcray.runtime.bootstrap import up  # Ray costs a second, which a run without cluster tests need not pay
    from tests.embedded_cluster import Cluster
    from tests.engine_fixtures import IMAGE
    from tests.matrix.stage import PROGRAMS, SCRIPT

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # A function that tasks call is found where the gateway runs, which has the modules of this process's environment.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PROGRAMS), os.environ.get("PYTHONPATH", ""))))
    directory = Path(tempfile.mkdtemp(prefix="arcray-", dir="/tmp"))
    first, second, grpc, serve = free_ports(4)
    settings = load(
        None,
        state_dir=directory / "state",
        # Programs of a protocol's document know its own port alone.
        gateway={
            "http_ports": (first, second),
            "grpc_port": PORT if is_free(PORT) else grpc,
            "serve_port": serve,
            "drain_s": 3.0,
        },
        node={
            "heartbeat_s": 0.5,
            "labels": {"suite": "cluster"},
            "models": {"python_path": tuple(Path(__file__).parent / each / "models" for each in ("cluster", "gpu"))},
        },
        pool={
            "programs": {
                "process-data": {"entry_point": "arcray.facades.pool.demonstration:process_data"},
                "matrix-program": {"entry_point": "matrix_program:wait"},
                "matrix-image": {"image": IMAGE, "args": ("sh", "-c", SCRIPT)},
            }
        },
    )
    arcray = up(
        settings,
        dashboard=False,
        ray_options={"num_cpus": 2, "object_store_memory": 100 * 2**20, "_temp_dir": str(directory / "ray")},
    )
    try:
        yield Cluster(arcray, settings)
    finally:
        arcray.down()
        shutil.rmtree(directory, ignore_errors=True)
