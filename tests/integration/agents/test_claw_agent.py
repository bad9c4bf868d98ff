"""``arcray agent --protocol claw`` as a process of its own, without containers, and a gateway that it works for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from arcray import claw_proto as claw
from arcray.claw_proto import WorkloadState
from arcray.claw_proto.frames import Form
from tests.claw_gateway import NOW, PATIENCE_S, Gateway, a_deployment, a_gateway, an_agent
from tests.integration.test_node_gpu_stub import build
from tests.ports import free_ports


@pytest.mark.parametrize(("encoding", "form"), [("json", Form.INTERNAL), ("bincode", Form.BINARY)])
async def test_a_machine_registers_and_speaks_as_often_as_it_is_told(encoding: str, form: Form, tmp_path: Path) -> None:
    """Takes seconds: an interpreter starts, and a machine speaks every one."""
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    build(libraries)
    options = ("--encoding", encoding, "--name", "gpu-7", "--api-key", "k")
    async with (
        a_gateway() as (gateway, url),
        an_agent(url, tmp_path / "state", *options, LD_LIBRARY_PATH=str(libraries)),
    ):
        await gateway.joined()
        assert (gateway.forms, gateway.keys) == ([form], ["Bearer k"])
        register = gateway.openings[0]
        assert (register.name, register.protocol_version) == ("gpu-7", 1)
        has = register.capabilities
        assert (has.gpu_count, has.total_vram_mb, has.supported_runtimes) == (2, 2 * 80 * 1024, ())
        assert has.max_concurrent_workloads == 0  # for it has no container engine
        assert [(gpu.index, gpu.name, gpu.vram_mb) for gpu in has.gpus] == [
            (index, "Stub GPU", 80 * 1024) for index in (0, 1)
        ]
        await gateway.until(lambda: gateway.heartbeats >= 3 and len(gateway.metrics) >= 1)
        reading = gateway.metrics[-1].gpu_metrics[0]
        assert (reading.index, reading.utilization_percent, reading.temperature_celsius) == (0, 25, 41)
        await gateway.say(claw.Ping(timestamp=NOW))
        before = gateway.heartbeats
        await gateway.until(lambda: gateway.heartbeats > before)
        refused = await gateway.deploy(a_deployment("busybox"))
        update = await gateway.reached(refused, WorkloadState.FAILED)
        assert update.message is not None
        assert "no container engine" in update.message
        await gateway.say(claw.GetWorkloadStatus(workload_id=refused.id))
        await gateway.reached(refused, WorkloadState.FAILED, 2)
    assert gateway.closes == [1000]


async def test_a_machine_comes_back_to_a_gateway_that_was_away(tmp_path: Path) -> None:
    """Takes seconds: an interpreter starts, and a machine waits between tries."""
    (port,) = free_ports(1)
    gateway = Gateway(form=Form.EXTERNAL)  # whatever its own form, a machine reads all
    async with an_agent(f"ws://127.0.0.1:{port}/claw", tmp_path):
        for times in (1, 2):
            async with a_gateway(port, gateway):
                await gateway.joined(times)
        async with a_gateway(port, gateway):
            await gateway.joined(3)
            gateway.cut()
            await gateway.joined(4)
    assert len({opening.node_id for opening in gateway.openings}) == 1


async def test_a_machine_leaves_when_it_is_told_to(tmp_path: Path) -> None:
    """Takes seconds: an interpreter starts."""
    for place, graceful in (("a", True), ("b", False)):
        async with a_gateway() as (gateway, url), an_agent(url, tmp_path / place) as process:
            await gateway.joined()
            await gateway.say(claw.Shutdown(reason="enough", graceful=graceful))
            async with asyncio.timeout(PATIENCE_S):
                assert await process.wait() == 0
        assert gateway.closes == [1000]


async def test_a_machine_goes_when_the_gateway_says_good_bye(tmp_path: Path) -> None:
    """Takes seconds: an interpreter starts."""
    async with a_gateway() as (gateway, url), an_agent(url, tmp_path) as process:
        await (await gateway.joined()).close(1000)
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() == 0


@pytest.mark.parametrize(("code", "status"), [(1002, 5), (1008, 5)])
async def test_a_machine_that_is_never_let_in_says_so_and_ends(code: int, status: int, tmp_path: Path) -> None:
    """Takes seconds: an interpreter starts."""
    async with a_gateway() as (gateway, url):
        gateway.refusal = code
        async with an_agent(url, tmp_path, exits=status) as process, asyncio.timeout(PATIENCE_S):
            await process.wait()
