"""``serve run`` with the configuration of this repository, as its first lines say, on a Ray cluster of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from arcray.client import Client
from arcray.core.errors import ArcrayError
from tests.ports import free_ports

CONFIG = Path(__file__).parents[2] / "serve_configs" / "local.yaml"
BIN = Path(sys.executable).parent

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]


@contextmanager
def running(*words: str, end: signal.Signals, env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output, subprocess.Popen(words, stdout=output, stderr=output, env=env) as process:
        try:
            yield process
        finally:
            process.send_signal(end)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="arcray-", dir="/tmp"))  # Ray's sockets need a short path
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def environment(directory: Path) -> Iterator[dict[str, str]]:
    """The environment of a machine whose Ray runs, which lasts as long as the test."""
    gcs, client = free_ports(2)
    found = os.environ | {
        "RAY_AUTH_MODE": "disabled",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # or ending it waits half a minute for work that is there to stay
        "ARCRAY_STATE_DIR": str(directory / "state"),
    }
    words = [
        *(str(BIN / "ray"), "start", "--head", "--block", f"--port={gcs}", f"--ray-client-server-port={client}"),
        *("--num-cpus=2", f"--object-store-memory={100 * 2**20}", f"--temp-dir={directory}/ray"),
        *("--include-dashboard=false", "--disable-usage-stats", "--node-ip-address=127.0.0.1"),
    ]
    with running(*words, end=signal.SIGTERM, env=found, log=directory / "ray.log"):
        yield found | {"RAY_ADDRESS": f"127.0.0.1:{gcs}"}


def with_free_ports(config: Any) -> tuple[Any, int, int]:
    """Returns the configuration at ports that are free, the port of a listener, and that of Serve's own proxy."""
    first, second, grpc, proxy = free_ports(4)
    config["http_options"]["port"] = proxy
    (application,) = config["applications"]
    application["args"]["settings"]["gateway"] |= {"http_ports": [first, second], "grpc_port": grpc}
    return config, first, proxy


def test_serve_run_serves_by_the_listeners_and_by_its_own_proxy(directory: Path, environment: dict[str, str]) -> None:
    """Starts Ray, which takes most of its 20 s."""
    config, listener, proxy = with_free_ports(yaml.safe_load(CONFIG.read_text(encoding="utf-8")))
    written = directory / "serve.yaml"
    written.write_text(yaml.safe_dump(config), encoding="utf-8")
    log = directory / "serve.log"
    with running(str(BIN / "serve"), "run", str(written), end=signal.SIGINT, env=environment, log=log) as serve:
        for port in (listener, proxy):
            assert nodes_at(f"http://127.0.0.1:{port}", serve, log) == 1
    assert serve.returncode == 0, log.read_text()


def nodes_at(url: str, serve: subprocess.Popen[bytes], log: Path) -> int:
    """Returns how many nodes there are, once there is one."""
    deadline = time.monotonic() + 120
    with Client(url) as client:
        while time.monotonic() < deadline and serve.poll() is None:
            try:
                found = len(client.nodes())
            except ArcrayError:
                found = 0
            if found:
                return found
            time.sleep(0.2)
    raise AssertionError(f"no node at {url}:\n{log.read_text()[-5000:]}")
