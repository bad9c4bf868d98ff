"""``arcray agent --protocol claw`` as a process that really runs containers, for a gateway made of frames."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from arcray import claw_proto as claw
from arcray.claw_proto import WorkloadState as S
from tests.claw_gateway import PATIENCE_S, Gateway, a_deployment, a_gateway, an_agent
from tests.ports import free_ports

pytestmark = pytest.mark.docker

UNTIL_TOLD = 'echo begun; while [ ! -e /in/go ]; do sleep 0.1; done; echo over; [ "$(cat /in/go)" = well ]'


@asynccontextmanager
async def a_machine(
    url: str, directory: Path, *options: str, exits: int | None = 0
) -> AsyncIterator[asyncio.subprocess.Process]:
    """An agent with containers, which may mount ``directory / "in"``."""
    shared = directory / "in"
    shared.mkdir(exist_ok=True)
    settings: dict[str, Any] = {"ARCRAY_NODE__CONTAINERS__MOUNTS": json.dumps([str(shared)])}
    async with an_agent(url, directory / "state", *options, containers="always", exits=exits, **settings) as process:
        yield process


def waiting(image: str, directory: Path, **spec: Any) -> claw.Workload:
    """A workload that ends when a test says how."""
    volumes = (claw.VolumeMount(source=str(directory / "in"), target="/in", read_only=True),)
    return a_deployment(image, "sh", "-c", UNTIL_TOLD, volumes=volumes, **spec)


def left(client: docker.DockerClient, workload: claw.Workload) -> list[Any]:
    found: list[Any] = client.containers.list(all=True, filters={"label": f"arcray.workload_id={workload.id}"})
    return found


@pytest.mark.parametrize("encoding", ["json", "bincode"])
async def test_a_machine_runs_what_the_gateway_deploys(
    encoding: str, image: str, tmp_path: Path, docker_client: docker.DockerClient
) -> None:
    """Takes seconds: an interpreter starts, and containers do."""
    async with a_gateway() as (gateway, url), a_machine(url, tmp_path, "--encoding", encoding):
        await gateway.joined()
        assert gateway.openings[0].capabilities.supported_runtimes == ("docker",)
        assert gateway.openings[0].capabilities.max_concurrent_workloads == 100
        (tmp_path / "in" / "file").write_text("from the host\n")
        volumes = (claw.VolumeMount(source=str(tmp_path / "in"), target="/in"),)
        script = 'cat /in/file; echo "$A"; echo made > /in/made; echo to stderr >&2'
        good = a_deployment(
            image, "sh", "-c", script, volumes=volumes, env=(("A", "é"),), memory_mb=64, cpu_millicores=500
        )
        await gateway.deploy(good)
        await gateway.reached(good, S.COMPLETED)
        assert gateway.states(good) == [S.STARTING, S.RUNNING, S.COMPLETED]
        assert sorted(gateway.lines[good.id]) == ["from the host", "to stderr", "é"]
        assert (tmp_path / "in" / "made").read_text() == "made\n"

        bad = await gateway.deploy(a_deployment(image, "sh", "-c", "exit 3"))
        assert (await gateway.reached(bad, S.FAILED)).message == "exit code 3"
        absent = await gateway.deploy(a_deployment("localhost:1/nobody/has:this"))
        await gateway.reached(absent, S.FAILED)
        assert gateway.states(absent) == [S.PULLING, S.FAILED]
        strange = await gateway.deploy(a_deployment(image, volumes=(claw.VolumeMount(source="/", target="/host"),)))
        message = (await gateway.reached(strange, S.FAILED)).message
        assert message == "payload.volumes.0.source: is not below node.containers.mounts"

        endless = await gateway.deploy(a_deployment(image, "sleep", "1000"))
        await gateway.reached(endless, S.RUNNING)
        await gateway.say(claw.GetWorkloadStatus(workload_id=endless.id))
        await gateway.reached(endless, S.RUNNING, 2)
        await gateway.say(claw.StopWorkload(workload_id=endless.id, force=True))
        assert (await gateway.reached(endless, S.STOPPED)).message == "stopped on request"
        assert not any(left(docker_client, each) for each in (good, bad, absent, strange, endless))
    assert list((tmp_path / "state" / "claw" / "workloads").iterdir()) == []


async def test_a_port_of_a_container_is_reached_at_the_same_port_of_the_host(image: str, tmp_path: Path) -> None:
    """Takes seconds: an interpreter starts, and containers do."""
    (port,) = free_ports(1)
    async with a_gateway() as (gateway, url), a_machine(url, tmp_path):
        await gateway.joined()
        (tmp_path / "in" / "page").write_text("served")
        volumes = (claw.VolumeMount(source=str(tmp_path / "in"), target="/in"),)
        serving = a_deployment(image, "httpd", "-f", "-p", str(port), "-h", "/in", volumes=volumes, ports=(port,))
        await gateway.deploy(serving)
        assert (await gateway.reached(serving, S.RUNNING)).message == f"published {port} at {port}"
        assert b"served" in await fetched(port)
        second = a_deployment(image, "httpd", "-f", "-p", str(port), "-h", "/in", volumes=volumes, ports=(port,))
        await gateway.deploy(second)
        message = (await gateway.reached(second, S.RUNNING)).message
        assert message is not None
        assert b"served" in await fetched(int(message.removeprefix(f"published {port} at ")))
    # It has failed because its node left.
    assert (gateway.last(serving).state, gateway.last(second).state) == (S.FAILED, S.FAILED)


async def fetched(port: int) -> bytes:
    """What a server that has just been started answers; it may not listen yet."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /page HTTP/1.0\r\n\r\n")
                answer = await reader.read()
                writer.close()
            except ConnectionError:
                continue
            if answer:
                return answer


async def test_what_fails_is_started_again_as_its_policy_says(image: str, tmp_path: Path) -> None:
    """Takes seconds: an interpreter starts, and containers do."""
    async with a_gateway() as (gateway, url), a_machine(url, tmp_path):
        await gateway.joined()
        policy = claw.OnFailure(max_retries=1)
        bad = await gateway.deploy(a_deployment(image, "sh", "-c", "echo again; exit 3", restart_policy=policy))
        await gateway.reached(bad, S.FAILED)
        assert gateway.states(bad) == [S.STARTING, S.RUNNING, S.RUNNING, S.RUNNING, S.FAILED]
        assert gateway.updates[bad.id][2].message == "exit code 3; started again in 1 s, time 1"
        assert gateway.lines[bad.id] == ["again", "again"]


@pytest.mark.parametrize("encoding", ["json", "bincode"])
async def test_nothing_is_lost_while_the_gateway_is_away(encoding: str, image: str, tmp_path: Path) -> None:
    """Takes seconds: an interpreter starts, containers do, and a machine waits between tries."""
    (port,) = free_ports(1)
    gateway = Gateway()
    async with a_machine(f"ws://127.0.0.1:{port}/claw", tmp_path, "--encoding", encoding):
        async with a_gateway(port, gateway):
            await gateway.joined()
            goes_on, ends = waiting(image, tmp_path), a_deployment(image, "sh", "-c", "sleep 2; seq 3")
            for workload in (goes_on, ends):
                await gateway.deploy(workload)
                await gateway.reached(workload, S.RUNNING)
            gateway.cut()
            await gateway.joined(2)
            await gateway.reached(goes_on, S.RUNNING, 2)
            gateway.cut()
        # Nobody listens now, and one of them ends.
        async with a_gateway(port, gateway):
            await gateway.reached(ends, S.COMPLETED)
            await gateway.reached(goes_on, S.RUNNING, 3)
            assert gateway.lines[ends.id] == ["1", "2", "3"]
            (tmp_path / "in" / "go").write_text("well\n")
            await gateway.reached(goes_on, S.COMPLETED)
            assert gateway.lines[goes_on.id][-1] == "over"
            assert set(gateway.lines[goes_on.id]) == {"begun", "over"}


async def test_the_next_agent_goes_on_where_a_killed_one_was(
    image: str, tmp_path: Path, docker_client: docker.DockerClient
) -> None:
    """Takes seconds: two interpreters start, and containers do."""
    async with a_gateway() as (gateway, url):
        async with a_machine(url, tmp_path, exits=None) as process:
            await gateway.joined()
            goes_on, ends = waiting(image, tmp_path), a_deployment(image, "sleep", "1000")
            for workload in (goes_on, ends):
                await gateway.deploy(workload)
                await gateway.reached(workload, S.RUNNING)
            process.kill()
        for container in left(docker_client, ends):
            container.remove(force=True)
        async with a_machine(url, tmp_path):
            await gateway.joined(2)
            assert (await gateway.reached(ends, S.FAILED)).message == "it ended while its node's agent was away"
            await gateway.reached(goes_on, S.RUNNING, 2)
            assert len(left(docker_client, goes_on)) == 1
            (tmp_path / "in" / "go").write_text("badly\n")
            assert (await gateway.reached(goes_on, S.FAILED)).message == "exit code 1"
            assert gateway.lines[goes_on.id][-1] == "over"
    assert gateway.openings[0].node_id == gateway.openings[1].node_id
    assert not left(docker_client, goes_on)


async def test_the_next_agent_holds_restart_policies_of_a_killed_one(
    image: str, tmp_path: Path, docker_client: docker.DockerClient
) -> None:
    """Takes seconds: three interpreters start, and containers do."""
    once = claw.OnFailure(max_retries=1)
    async with a_gateway() as (gateway, url):
        async with a_machine(url, tmp_path, exits=None) as process:
            await gateway.joined()
            found = waiting(image, tmp_path, restart_policy=once)
            gone = a_deployment(image, "sleep", "1000", restart_policy=once)
            for workload in (found, gone):
                await gateway.deploy(workload)
                await gateway.reached(workload, S.RUNNING)
            process.kill()
        for container in left(docker_client, gone):
            container.remove(force=True)
        away = "it ended while its node's agent was away"
        async with a_machine(url, tmp_path, exits=None) as process:
            await gateway.told(gone, f"{away}; started again in 1 s, time 1")
            (tmp_path / "in" / "go").write_text("badly\n")
            await gateway.told(found, "exit code 1; started again in 1 s, time 1")
            process.kill()  # while it waits to start that again
        async with a_machine(url, tmp_path):
            assert (await gateway.reached(found, S.FAILED)).message == "exit code 1"
            assert not left(docker_client, found)


async def test_a_machine_that_is_to_leave_gracefully_waits_for_what_runs(image: str, tmp_path: Path) -> None:
    """Takes seconds: an interpreter starts, and a container does."""
    async with a_gateway() as (gateway, url), a_machine(url, tmp_path) as process:
        await gateway.joined()
        work = await gateway.deploy(waiting(image, tmp_path))
        await gateway.reached(work, S.RUNNING)
        await gateway.say(claw.Shutdown(reason="enough", graceful=True))
        refused = await gateway.deploy(a_deployment(image))
        assert (await gateway.reached(refused, S.FAILED)).message == "this node is leaving: enough"
        (tmp_path / "in" / "go").write_text("well\n")
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() == 0
        assert gateway.last(work).state is S.COMPLETED
