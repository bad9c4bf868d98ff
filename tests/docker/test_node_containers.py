"""Containers on a real engine. Each test starts one, which takes a few tenths of a second."""

from __future__ import annotations

import asyncio
import os
import re
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import docker
import pytest

from arcray.config import Settings
from arcray.core.blobkeys import log_key
from arcray.core.commands import AttachNode, Command, ReportEnd, ReportPhase, Running
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.core.resources import Allocation, Demand
from arcray.core.workload import Container, Phase, PortMapping, Program, VolumeMount
from arcray.node.agent import NodeAgent
from arcray.testing.node_fakes import FakePlane
from arcray.wire.system import RandomIds, SystemClock

pytestmark = pytest.mark.docker

SHELL = ("/bin/sh", "-c")


class Node:
    """An agent with a recording plane, and how to order containers of it."""

    def __init__(self, image: str, state_dir: Path, plane: FakePlane, **containers: Any) -> None:
        self.image, self.plane = image, plane
        self.settings = Settings(state_dir=state_dir, node={"containers": {"enabled": "always", **containers}})  # type: ignore[arg-type]  # pydantic makes the section
        self.node_id = NodeId(RandomIds().new())
        self.agent = self.new_agent()

    def new_agent(self) -> NodeAgent:
        return NodeAgent(
            node_id=self.node_id, plane=self.plane, settings=self.settings, clock=SystemClock(), ids=RandomIds()
        )

    async def attach(self) -> None:
        await self.agent.start(await self.agent.registration(driver="local", facade="ray", address=""))

    async def start(self, script: str, *, demand: Demand | None = None, max_duration_s: float | None = None,
                    **payload: Any) -> WorkloadId:  # fmt: skip
        workload_id = WorkloadId(RandomIds().new())
        container = Container(**({"image": self.image, "command": SHELL, "args": (script,)} | payload))
        order = StartWorkload(
            workload_id=workload_id,
            attempt=1,
            payload=container,
            demand=demand or Demand(),
            allocation=Allocation(),
            owner="local",
            max_duration_s=max_duration_s,
        )
        await self.agent.deliver(self.agent.epoch, [order])
        return workload_id

    async def end(self, workload_id: WorkloadId) -> ReportEnd:
        def over(commands: list[Command]) -> bool:
            return any(isinstance(each, ReportEnd) and each.workload_id == workload_id for each in commands)

        await self.plane.until(over, 60)
        (end,) = (e for e in self.plane.commands if isinstance(e, ReportEnd) and e.workload_id == workload_id)
        return end

    async def running(self, workload_id: WorkloadId) -> ReportPhase:
        def told(commands: list[Command]) -> bool:
            return any(_is_running(each, workload_id) for each in commands)

        await self.plane.until(told, 60)
        return next(e for e in self.plane.commands if isinstance(e, ReportPhase) and _is_running(e, workload_id))

    async def run(self, script: str, **options: Any) -> tuple[ReportEnd, str]:
        workload_id = await self.start(script, **options)
        end = await self.end(workload_id)
        return end, self.log(workload_id)

    def log(self, workload_id: WorkloadId) -> str:
        return self.plane.blobs.data.get(log_key(workload_id), b"").decode()

    def phases(self, workload_id: WorkloadId) -> list[Phase]:
        return [e.phase for e in self.plane.commands if isinstance(e, ReportPhase) and e.workload_id == workload_id]


def _is_running(command: Command, workload_id: WorkloadId) -> bool:
    return isinstance(command, ReportPhase) and command.workload_id == workload_id and command.phase is Phase.RUNNING


@pytest.fixture
async def node(image: str, tmp_path: Path, docker_client: docker.DockerClient) -> AsyncIterator[Node]:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    node = Node(image, tmp_path / "state", FakePlane(), mounts=[str(allowed)], pull=False)
    await node.attach()
    yield node
    await node.agent.stop()
    for container in docker_client.containers.list(all=True, filters={"label": f"arcray.node_id={node.node_id}"}):
        container.remove(force=True)


def left(docker_client: docker.DockerClient, node: Node) -> list[Any]:
    found: list[Any] = docker_client.containers.list(all=True, filters={"label": f"arcray.node_id={node.node_id}"})
    return found


async def test_container_runs_logs_and_ends(node: Node, docker_client: docker.DockerClient) -> None:
    workload_id = await node.start("echo out; echo err >&2; echo $GREETING", env=(("GREETING", "hi"),))
    end = await node.end(workload_id)
    assert (end.phase, end.message, end.result.exit_code) == (Phase.SUCCEEDED, "", 0)
    assert sorted(node.log(workload_id).splitlines()) == ["err", "hi", "out"]
    assert node.phases(workload_id) == [Phase.STARTING, Phase.RUNNING]
    assert left(docker_client, node) == []


async def test_exit_code_is_the_containers(node: Node) -> None:
    end, _ = await node.run("exit 7")
    assert (end.phase, end.message, end.result.exit_code) == (Phase.FAILED, "exit code 7", 7)


async def test_container_is_confined(node: Node, docker_client: docker.DockerClient) -> None:
    workload_id = await node.start("cat /proc/self/status; sleep 60")
    await node.running(workload_id)
    (container,) = left(docker_client, node)
    row = container.attrs
    host = row["HostConfig"]
    assert (host["Privileged"], host["CapDrop"], host["SecurityOpt"]) == (False, ["ALL"], ["no-new-privileges"])
    assert host["PidsLimit"] == node.settings.node.containers.pids_limit
    assert host["LogConfig"]["Config"] == {"max-file": "2", "max-size": str(16 * 2**20)}
    assert row["Config"]["Labels"]["arcray.attempt"] == "1"
    await node.plane.blobs.holds(log_key(workload_id), b"NoNewPrivs:\t1")
    assert "CapEff:\t0000000000000000" in node.log(workload_id)


async def test_limits_are_the_demand(node: Node, docker_client: docker.DockerClient) -> None:
    workload_id = await node.start("sleep 60", demand=Demand(cpu_milli=500, memory_bytes=64 * 2**20))
    await node.running(workload_id)
    (container,) = left(docker_client, node)
    host = container.attrs["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (500_000_000, 64 * 2**20, 64 * 2**20)


async def test_out_of_memory_says_so(node: Node) -> None:
    end, log = await node.run("tail -c 200m /dev/zero | wc -c; exit 9", demand=Demand(memory_bytes=16 * 2**20))
    assert end.phase is Phase.FAILED, log
    assert end.message == "out of memory"


async def test_published_port_answers_on_loopback(node: Node) -> None:
    workload_id = await node.start(
        "echo hello > /data/index.html; httpd -f -p 80 -h /data", ports=(PortMapping(container_port=80),)
    )
    (port,) = (await node.running(workload_id)).ports
    assert port.container_port == 80
    url = f"http://127.0.0.1:{port.host_port}/index.html"

    def read() -> bytes:
        for _ in range(200):
            try:
                with urllib.request.urlopen(url, timeout=5) as response:
                    return bytes(response.read())
            except OSError:
                continue  # the proxy listens before httpd does
        raise AssertionError("nothing answers")

    assert await asyncio.to_thread(read) == b"hello\n"


async def test_volume_of_an_allowed_directory_is_written(node: Node, tmp_path: Path) -> None:
    source = tmp_path / "allowed" / "out"
    source.mkdir()
    source.chmod(0o777)
    end, log = await node.run("echo hi > /data/f", volumes=(VolumeMount(source=str(source), target="/data"),))
    assert end.phase is Phase.SUCCEEDED, log
    assert (source / "f").read_text() == "hi\n"


async def test_volume_of_another_directory_is_refused(node: Node, tmp_path: Path) -> None:
    (tmp_path / "allowed" / "link").symlink_to("/etc")
    for source in ("/etc", str(tmp_path / "allowed" / "link"), str(tmp_path / "allowed" / ".." / "state")):
        end, _ = await node.run("true", volumes=(VolumeMount(source=source, target="/data"),))
        assert end.phase is Phase.FAILED
        assert end.message == "payload.volumes.0.source: is not below node.containers.mounts"


async def test_stop_is_polite_then_certain(node: Node) -> None:
    polite = await node.start("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.1; done")
    await node.plane.blobs.holds(log_key(polite), b"ready\n")
    await node.agent.deliver(1, [StopAttempt(workload_id=polite, attempt=1, grace_s=30)])
    end = await node.end(polite)
    assert (end.phase, end.result.exit_code) == (Phase.STOPPED, 0)
    assert node.log(polite) == "ready\nbye\n"
    deaf = await node.start("trap '' TERM; echo ready; while :; do sleep 0.1; done")
    await node.plane.blobs.holds(log_key(deaf), b"ready\n")
    await node.agent.deliver(1, [StopAttempt(workload_id=deaf, attempt=1, grace_s=1)])
    end = await node.end(deaf)
    assert (end.phase, end.result.exit_code) == (Phase.STOPPED, 137)


async def test_running_too_long_is_a_failure(node: Node) -> None:
    end, _ = await node.run("trap 'exit 0' TERM; while :; do sleep 0.1; done", max_duration_s=0.5)
    assert (end.phase, end.message) == (Phase.FAILED, "ran longer than 0.5 s")


async def test_absent_image_fails_with_its_name(node: Node) -> None:
    end, _ = await node.run("true", image="arcray-test/absent:1")
    assert end.phase is Phase.FAILED
    assert end.message == "payload.image: no image arcray-test/absent:1 here, and none is pulled"


async def test_impossible_command_fails_with_the_engines_words(node: Node, docker_client: docker.DockerClient) -> None:
    end, _ = await node.run("true", command=("/absent",))
    assert end.phase is Phase.FAILED
    assert re.search("no such file", end.message)
    assert left(docker_client, node) == []


async def test_failed_pull_is_reported_as_pulling_then_failed(image: str, tmp_path: Path) -> None:
    node = Node(image, tmp_path / "state", FakePlane())
    await node.attach()
    workload_id = await node.start("true", image="127.0.0.1:1/absent:1")
    end = await node.end(workload_id)
    assert node.phases(workload_id) == [Phase.PULLING]
    assert end.message.startswith("payload.image: cannot pull 127.0.0.1:1/absent:1: ")
    await node.agent.stop()


async def test_next_agent_goes_on_with_the_container_and_its_log(
    node: Node, docker_client: docker.DockerClient
) -> None:
    script = "for i in $(seq 1 40); do echo line $i; sleep 0.05; done; exit 3"
    workload_id = await node.start(script, max_duration_s=600)
    await node.plane.blobs.holds(log_key(workload_id), b"line 5\n")
    await node.agent.stop()
    assert len(left(docker_client, node)) == 1
    before = node.log(workload_id)
    node.agent = node.new_agent()
    await node.attach()
    attach = [each for each in node.plane.commands if isinstance(each, AttachNode)]
    assert attach[-1].inventory == (Running(workload_id=workload_id, attempt=1),)
    end = await node.end(workload_id)
    assert (end.epoch, end.phase, end.result.exit_code) == (2, Phase.FAILED, 3)
    assert node.log(workload_id).startswith(before)
    assert node.log(workload_id) == "".join(f"line {i}\n" for i in range(1, 41))
    assert left(docker_client, node) == []


async def test_container_that_ended_meanwhile_is_reported_by_the_next_agent(
    node: Node, docker_client: docker.DockerClient
) -> None:
    workload_id = await node.start("echo ready; sleep 1; echo done; exit 4")
    await node.plane.blobs.holds(log_key(workload_id), b"ready\n")
    await node.agent.stop()
    (container,) = left(docker_client, node)
    await asyncio.to_thread(container.wait, timeout=30)
    node.agent = node.new_agent()
    await node.attach()
    end = await node.end(workload_id)
    assert end.result.exit_code == 4
    assert node.log(workload_id) == "ready\ndone\n"


async def test_container_removed_by_others_is_a_failure(node: Node, docker_client: docker.DockerClient) -> None:
    workload_id = await node.start("sleep 60")
    await node.running(workload_id)
    (container,) = left(docker_client, node)
    container.remove(force=True)
    end = await node.end(workload_id)
    assert (end.phase, end.message) == (Phase.FAILED, "its container was removed by others")


async def test_large_log_keeps_its_newest_lines(image: str, tmp_path: Path) -> None:
    node = Node(image, tmp_path / "state", FakePlane(), log_max_bytes=65_536)
    await node.attach()
    end, log = await node.run("for i in 1 2 3 4 5 6; do seq ${i}0000 ${i}9999; sleep 0.3; done; echo last")
    await node.agent.stop()
    assert end.phase is Phase.SUCCEEDED
    assert log.startswith("[log cut: older lines are gone]\n")
    assert log.endswith("\n69999\nlast\n")
    assert len(log) <= 65_536
    numbers = list(map(int, log.splitlines()[1:-1]))
    assert numbers == list(range(numbers[0], 70_000))


async def test_engine_that_is_absent_is_normal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from arcray.node.docker_engine import DockerEngine

    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/absent.sock")
    assert not await DockerEngine(timeout_s=5).available()


async def test_program_runs_in_the_runner_image_where_it_is_present(
    runner_image: str, tmp_path: Path, docker_client: docker.DockerClient
) -> None:
    """The image's python3 is a shell, so the program is a script: what is tested is everything around it."""
    os.chmod(tmp_path, 0o755)  # noqa: PTH101 - a test may block
    plane = FakePlane()
    settings = Settings.model_validate({"state_dir": tmp_path / "state", "node": {"programs": {"image": runner_image}}})
    agent = NodeAgent(node_id=NodeId("n"), plane=plane, settings=settings, clock=SystemClock(), ids=RandomIds())
    registration = await agent.registration(driver="local", facade="ray", address="")
    assert registration.capabilities.runner_image == runner_image
    await agent.start(registration)
    plane.blobs.data |= {"code": b"echo args $@; cat; echo $TASK_ID > $ARCRAY_RESULT_DIR/r; cat r", "in": b"input\n"}
    order = StartWorkload(
        workload_id=WorkloadId("p"),
        attempt=1,
        payload=Program(blob="code", args=("a", "b c"), stdin_blob="in"),
        demand=Demand(cpu_milli=500, memory_bytes=64 * 2**20),
        allocation=Allocation(),
        owner="local",
    )
    await agent.deliver(agent.epoch, [order])
    await plane.until(lambda commands: any(isinstance(each, ReportEnd) for each in commands), 60)
    await agent.stop()
    end = next(each for each in plane.commands if isinstance(each, ReportEnd))
    lines = plane.blobs.data[log_key(WorkloadId("p"))].splitlines()  # the engine may take the two streams in any order
    assert [line for line in lines if not line.startswith(b"cat: ")] == [b"args a b c", b"input"], end
    assert plane.blobs.data["results/p/r"] == b"p\n"
    assert (end.phase, end.result.exit_code) == (Phase.FAILED, 1)  # there is no ./r
    assert docker_client.containers.list(all=True, filters={"label": "arcray.workload_id=p"}) == []
