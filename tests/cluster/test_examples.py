"""The clients of ``examples/`` as a reader starts them, each in a process of its own, on a real cluster."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from arcray.client import WorkOptions
from tests.hivemind_examples import compiled_client
from tests.pool_examples import node_modules

if TYPE_CHECKING:
    from tests.embedded_cluster import Cluster

__all__ = ["node_modules"]

pytestmark = pytest.mark.cluster

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
PATIENCE_S: Final = 60.0
ENDLESS: Final = "trap 'exit 0' TERM; while true; do sleep 0.1; done"


def command(name: str, *words: str) -> list[str]:
    """How a reader starts an example."""
    path = EXAMPLES / name
    starts = {".py": [sys.executable, "-u", str(path)], ".js": ["node", str(path)], ".sh": [str(path)]}
    return [*starts[path.suffix], *words]


def printed(name: str, *words: str, **environment: str) -> str:
    """What an example prints that ends well."""
    run = subprocess.run(
        command(name, *words),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


class Running:
    """An example that runs until it is told to end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def printed(self, pattern: str) -> re.Match[str]:
        """Waits for a line; the test's own limit of time ends a wait for one that never comes."""
        assert self._process.stdout is not None
        seen = []
        for line in self._process.stdout:
            seen.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"{pattern!r} is not in {seen}")


@contextmanager
def running(words: Sequence[str], **environment: str) -> Iterator[Running]:
    """Runs an example until the block ends, and then presses Ctrl-C, which a shell's background jobs do not hear."""
    hears = ["env", "--default-signal=INT", *words]
    with subprocess.Popen(hears, env=os.environ | environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Running(process)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(PATIENCE_S)
            except BaseException:
                process.kill()
                raise


def web_socket(cluster: Cluster, path: str) -> str:
    return cluster.url.replace("http", "ws") + path


def test_rest_by_curl(cluster: Cluster) -> None:
    answer, _, rest = printed("rest/program.sh", cluster.url).partition("\n")
    work = json.loads(rest)
    assert (answer, work["phase"], work["name"], work["kind"]) == ("42", "succeeded", "answer", "program")


def test_rest_by_the_client(cluster: Cluster) -> None:
    assert printed("rest/program.py", cluster.url) == "squares of 5\nsquares.txt [0, 1, 4, 9, 16]\n"


def test_arcnet_by_curl_while_telemetry_is_shown(cluster: Cluster) -> None:
    with (
        cluster.client() as client,
        running(command("arcnet/telemetry.py", web_socket(cluster, "/telemetry"))) as shown,
    ):
        client.register_model("example-echo", "python", source="cluster_models:echo")
        client.wait_model("example-echo", timeout_s=60)
        shown.printed(r"^node \S+: \d+% busy, .*example-echo")
        nodes, answer, stats = printed("arcnet/inference.sh", "example-echo", '{"x": 1}', cluster.url).splitlines()
        request_id = json.loads(answer)["requestId"]
        shown.printed(f"^request {request_id} of example-echo: completed$")
    assert json.loads(answer)["output"] == {"x": 1}
    assert json.loads(nodes)["limit"] == 5
    assert json.loads(stats)["inference"]["completed"] >= 1


def test_resource_pool_in_javascript_and_python(cluster: Cluster, node_modules: Path) -> None:
    """Installs a package of npm."""
    address = web_socket(cluster, "/ws")
    with running(command("pool/lend.js", address), NODE_PATH=str(node_modules)) as lender:
        device_id = lender.printed(r"^in the pool with \d+ others, as (\S+)$")[1]
        lent = json.loads(printed("pool/devices.sh", cluster.url).splitlines()[1])["devices"][0]
        borrowed = printed("pool/borrow.py", address, "19 and 23 make").splitlines()
        lender.printed("^joined: Borrower$")
        lender.printed("^left: borrower-")
    assert (lent["id"], lent["platform"]) == (device_id, "linux")
    assert int(borrowed[0].removesuffix(" other devices")) >= 1
    assert "held" in borrowed
    assert json.loads(borrowed[-1])["sum"] == 42


def test_hivemind_with_a_compiled_client(cluster: Cluster, tmp_path: Path) -> None:
    asyncio.run(compiled_client(tmp_path))
    address = f"127.0.0.1:{cluster.settings.gateway.grpc_port}"
    lines = printed("hivemind/client.py", address, "example", PYTHONPATH=str(tmp_path)).splitlines()
    assert lines == ["COMPLETED", "task example-1", "answer.txt 42"]


@pytest.mark.docker
def test_claw_node_runs_containers(cluster: Cluster, image: str) -> None:
    words = command("claw/node.py", web_socket(cluster, "/claw"), "example-node")
    with cluster.client() as client, running(words) as node:
        options = WorkOptions(node_id=node.printed("^registered as (.*)$")[1])
        good = client.submit_container(
            image, command=["sh", "-c"], args=["echo $A; exit $B"], env={"A": "é", "B": "0"}, options=options
        )
        bad = client.submit_container(image, command=["sh", "-c", "exit 3"], options=options)
        endless = client.submit_container(image, command=["sh", "-c", ENDLESS], options=options)
        done = client.wait(good.id, timeout_s=PATIENCE_S)
        assert (done.phase, client.logs(good.id)) == ("succeeded", "é\n")
        done = client.wait(bad.id, timeout_s=PATIENCE_S)
        assert (done.phase, done.message) == ("failed", "exit code 3")
        cluster.until(lambda: client.get(endless.id).phase == "running" or None, "it runs")
        client.stop(endless.id)
        assert client.wait(endless.id, timeout_s=PATIENCE_S).phase == "stopped"


def test_every_client_is_in_the_list_and_is_run_here() -> None:
    """Those of the demonstration have tests of their own."""
    found = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.glob("*/*") if path.suffix in {".sh", ".js"}}
    found |= {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.glob("*/*.py") if "sys.argv" in path.read_text()}
    listed = set(re.findall(r"`(\w+/\w+\.\w+)[^`]*` \|", (EXAMPLES / "README.md").read_text()))
    run_here = set(re.findall(r'(?:command|printed)\("(\w+/\w+\.\w+)"', Path(__file__).read_text()))
    assert listed == run_here
    assert found - {"digits/train.py"} == listed  # which is a program for the pool
