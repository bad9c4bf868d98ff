"""The demonstration task runs in a real sandbox of a real machine, and its output comes back over the wire."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from arcray.config import ProgramSettings, Settings
from arcray.core.ids import NodeId
from arcray.node.agent import NodeAgent
from arcray.node.sandbox import UserPool
from arcray.node.sandbox_probe import probe
from arcray.pool_settings import PoolProgram, PoolSettings
from arcray.wire.system import RandomIds, SystemClock
from tests.conformance.conftest import Serve
from tests.conformance.pool.pool_rig import a_client

PROGRAMS = {
    "process-data": PoolProgram(entry_point="arcray.facades.pool.demonstration:process_data"),
    "by-argument": PoolProgram(entry_point="arcray.facades.pool.demonstration:process_data", input="argument"),
}


async def test_a_task_runs_in_a_sandbox(serve: Serve, directory: Path) -> None:
    """Starts two programs, which takes half a second."""
    if await probe(ProgramSettings(sandbox="bubblewrap"), directory, UserPool()) is None:
        pytest.skip("bubblewrap is absent, or may not make namespaces here")
    node = {"containers": {"enabled": "never"}, "models": {"enabled": False}}
    settings = Settings.model_validate({"state_dir": directory, "node": node})
    tasks = PoolSettings(programs=PROGRAMS)
    async with serve(facades=("pool",), nodes=[], listen=True, pool=tasks) as served, a_client(served) as client:
        agent = NodeAgent(
            node_id=NodeId(RandomIds().new()),
            plane=served.cluster.plane,
            settings=settings,
            clock=SystemClock(),
            ids=RandomIds(),
        )
        served.cluster.driver.add(agent.node_id, agent)
        await agent.start(await agent.registration(driver="local", facade="ray", address=""))
        try:
            found = {}
            for command in PROGRAMS:
                data = {"command": command, "input": "Grüße, 3 and 4\nGrüße,"}
                await client.say("task_submit", task={"id": command, "data": data})
                result = (await client.hear("task_result"))["result"]
                assert result["success"], result
                found[command] = json.loads(result["result"])
        finally:
            await agent.stop()
    expected = {"lines": 2, "words": 5, "characters": 21, "mostCommon": "grüße,", "sum": 7}
    assert found == {"process-data": expected, "by-argument": expected}
