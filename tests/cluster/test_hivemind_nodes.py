"""Work goes where its protocol does not lead: work of REST to a HiveMind worker, a HiveMind task to a Ray node.

The worker is the real command in a process of its own, attached over gRPC. That work is real is seen from outside, by
the kernel and the engine: it ends well only because the test finds its process, below the agent that shall run it.
"""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import signal
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import psutil
import pytest
from websockets.sync.client import connect

from arcray.client import Client, WorkOptions
from arcray.node.container import LABEL_NODE, LABEL_WORKLOAD
from arcray.node.identity import hostname
from arcray.node.sandbox import UserPool
from tests.hivemind_agent import PATIENCE_S, a_machine
from tests.hivemind_examples import compiled_client

if TYPE_CHECKING:
    import docker

    from tests.embedded_cluster import Cluster

pytestmark = pytest.mark.cluster

OWNER: Final = "ana"
CALLED: Final = """
import os, pathlib, signal, socket, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
print("waits", *sys.argv[1:], flush=True)
signal.sigwait({signal.SIGUSR1})
print("called", os.environ.get("TASK_ID", ""))
pathlib.Path(os.environ["ARCRAY_RESULT_DIR"], "boot.txt").write_text(open("/proc/sys/kernel/random/boot_id").read())
"""
BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A machine that joined over HiveMind.

    Args:
        node_id: in the cluster.
        machine_id: what its agent calls itself.
        pid: of its agent.
    """

    node_id: str
    machine_id: str
    pid: int


@pytest.fixture(scope="module")
def worker(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """Takes seconds: an interpreter starts, and a sandbox is tried out."""
    directory = tmp_path_factory.mktemp("worker")
    address = f"127.0.0.1:{cluster.settings.gateway.grpc_port}"
    with cluster.client() as client, a_machine(address, directory, user=OWNER, containers="auto") as process:

        def offers() -> str | None:
            listed = (node.id for node in client.nodes() if node.raw["externalId"] == OWNER)
            return next(listed, None)

        node_id = cluster.until(offers, "the worker has joined", PATIENCE_S)
        (found,) = (directory / "node").glob(f"node-id.{hostname()}.*")
        yield Worker(node_id=node_id, machine_id=found.read_text().strip(), pid=process.pid)


class HiveMind:
    """The protocol as others speak it, by a client that was compiled for its contract.

    Args:
        stubs, messages: the two modules that the compiler made.
    """

    def __init__(self, channel: grpc.Channel, stubs: Any, messages: Any) -> None:
        self._messages = messages
        self._master = stubs.MasterNodeServiceStub(channel)
        self._nodes = stubs.NodeManagerServiceStub(channel)

    def master(self, method: str, **fields: Any) -> Any:
        """Calls a method of MasterNodeService."""
        return self._call(self._master, method, fields)

    def nodes(self, method: str, **fields: Any) -> Any:
        """Calls a method of NodeManagerService."""
        return self._call(self._nodes, method, fields)

    def _call(self, stub: Any, method: str, fields: Mapping[str, Any]) -> Any:
        return getattr(stub, method)(getattr(self._messages, f"{method}Request")(**fields), timeout=20)


@pytest.fixture(scope="module")
def hivemind(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HiveMind]:
    """Compiles the client, which takes half a second."""
    directory = tmp_path_factory.mktemp("client")
    asyncio.run(compiled_client(directory))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(directory), *sys.path])
        stubs = importlib.import_module("node_pool.nodepool_pb2_grpc")
        messages = importlib.import_module("node_pool.nodepool_pb2")
    with grpc.insecure_channel(f"127.0.0.1:{cluster.settings.gateway.grpc_port}") as channel:
        yield HiveMind(channel, stubs, messages)


def has_printed(client: Client, work_id: str, text: str) -> bool:
    """Whether work has printed so much; what has ended without is told."""
    work = client.get(work_id)
    assert not work.phase.terminal, work
    return client.logs(work_id) == text


def program_below(pid: int) -> psutil.Process:
    """Returns the process of the one program below another process, fork or not."""
    found = []
    for each in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if not each.children() and (UserPool.has(each.uids().real) or "main.py" in "".join(each.cmdline())):
                found.append(each)
    (one,) = found
    return one


def test_a_program_of_rest_runs_on_a_hivemind_worker(cluster: Cluster, worker: Worker) -> None:
    with cluster.client() as client:
        work = client.submit_program(CALLED, args=("for-ana",), options=WorkOptions(node_id=worker.node_id))
        cluster.until(lambda: has_printed(client, work.id, "waits for-ana\n"), "it has begun")
        assert client.get(work.id).phase == "running"
        program_below(worker.pid).send_signal(signal.SIGUSR1)
        done = client.wait(work.id, timeout_s=30)
        assert (done.phase, done.node_id, done.attempt) == ("succeeded", worker.node_id, 1), done.message
        assert client.logs(work.id) == f"waits for-ana\ncalled arcray-{work.id}\n"
        assert client.result(work.id, "boot.txt").decode() == BOOT.read_text()


def test_a_container_of_rest_runs_on_a_hivemind_worker(
    docker_client: docker.DockerClient, image: str, cluster: Cluster, worker: Worker
) -> None:
    script = "trap 'echo called; exit 0' USR1; echo waits; while true; do sleep 0.1; done"
    with cluster.client() as client:
        options = WorkOptions(node_id=worker.node_id)
        work = client.submit_container(image, command=["sh", "-c"], args=[script], options=options)
        cluster.until(lambda: has_printed(client, work.id, "waits\n"), "it has begun")
        (container,) = docker_client.containers.list(filters={"label": f"{LABEL_WORKLOAD}={work.id}"})
        assert container.labels[LABEL_NODE] == worker.machine_id
        container.kill("SIGUSR1")
        done = client.wait(work.id, timeout_s=30)
        assert (done.phase, done.node_id, done.attempt) == ("succeeded", worker.node_id, 1), done.message
        assert client.logs(work.id) == "waits\ncalled\n"


def test_a_hivemind_task_runs_on_a_ray_node(cluster: Cluster, worker: Worker, hivemind: HiveMind) -> None:
    """Its sender has no account to pay the worker's owner from, so it stays on the pool's own nodes."""
    actor = cluster.status(cluster.node_actor())
    uploaded = hivemind.master("UploadTask", task_id="to-ray", task_data=CALLED.encode(), user_id="stranger")
    assert uploaded.success, uploaded.message
    with cluster.client() as client:
        (work,) = [each for each in client.workloads() if each.name == "to-ray"]
        cluster.until(lambda: has_printed(client, work.id, "waits\n"), "it has begun")
        polled = hivemind.master("PollTaskStatus", task_id="to-ray")
        assert (polled.status, list(polled.output)) == ("RUNNING", ["waits"])
        process = program_below(actor["pid"])
        above = {parent.pid for parent in process.parents()}
        process.send_signal(signal.SIGUSR1)
        done = client.wait(work.id, timeout_s=30)
        assert (done.phase, done.node_id, done.attempt) == ("succeeded", actor["node_id"], 1), done.message
        assert done.node_id != worker.node_id
        assert done.pid in above
        assert client.logs(work.id) == "waits\ncalled to-ray\n"
        assert client.result(work.id, "boot.txt") == BOOT.read_bytes()
        assigned = client.node(actor["node_id"]).raw["externalId"]

    polled = hivemind.master("PollTaskStatus", task_id="to-ray")
    assert (polled.status, list(polled.output)) == ("COMPLETED", ["waits", "called to-ray"])
    assert "waits\ncalled to-ray\n" in hivemind.master("GetTaskLogs", task_id="to-ray").logs
    result = hivemind.master("GetTaskResult", task_id="to-ray")
    with zipfile.ZipFile(io.BytesIO(result.result_data)) as bundle:
        assert {name: bundle.read(name) for name in bundle.namelist()} == {"boot.txt": BOOT.read_bytes()}
    (task,) = [each for each in hivemind.master("GetAllTasks").tasks if each.task_id == "to-ray"]
    assert (task.status, task.assigned_node, task.user_id) == ("COMPLETED", assigned, "stranger")


def test_every_list_of_nodes_has_the_worker(cluster: Cluster, worker: Worker, hivemind: HiveMind) -> None:
    both = {cluster.status(cluster.node_actor())["node_id"], worker.node_id}
    with cluster.client() as client:
        assert both <= {node.id for node in client.nodes()}
        assert client.node(worker.node_id).status in {"online", "idle", "busy"}
        states = {state["id"]: state["health"] for state in client.operations.nodes()}
        assert {states[node_id] for node_id in both} == {"healthy"}
    with connect(cluster.url.replace("http", "ws") + "/telemetry") as telemetry:
        heard: set[str] = set()
        while not both <= heard:
            frame = json.loads(telemetry.recv(timeout=20))
            if frame["type"] == "telemetry":
                heard.add(frame["node"]["id"])
    assert OWNER in {node.node_id for node in hivemind.nodes("GetNodeList").nodes}
    assert hivemind.nodes("HealthCheck", node_id=OWNER).status == "healthy"
