"""The plane, the local driver and a real node agent: one request goes the whole path, through a model's own process."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from arcray.config import Settings
from arcray.core.commands import RegisterModel, StopWorkload, SubmitWorkload
from arcray.core.events import ModelsChanged, Topic
from arcray.core.ids import NodeId
from arcray.core.workload import ModelServer, Phase, WorkloadView
from arcray.node.agent import NodeAgent
from arcray.testing.builders import a_model, a_workload, an_inference
from arcray.testing.plane import InProcessPlane, in_process_plane
from arcray.wire.system import RandomIds, SystemClock


async def until_a_model_answers(cluster: InProcessPlane) -> None:
    async with asyncio.timeout(30):
        async for batch in cluster.plane.events(frozenset({Topic.MODELS})):
            if any(isinstance(event, ModelsChanged) and event.models for event in batch.events):
                return


async def test_a_request_is_answered_by_the_process_of_its_model(tmp_path: Path) -> None:
    """Starts the process of a model; takes about a second."""
    (tmp_path / "doubling.py").write_text("def double(value):\n    return value * 2\n")
    settings = Settings.model_validate(
        {"state_dir": tmp_path, "node": {"containers": {"enabled": "never"}, "models": {"python_path": [tmp_path]}}}
    )
    async with in_process_plane(nodes=[], state_dir=tmp_path) as cluster:
        agent = NodeAgent(
            node_id=NodeId(RandomIds().new()),
            plane=cluster.plane,
            settings=settings,
            clock=SystemClock(),
            ids=RandomIds(),
        )
        cluster.driver.add(agent.node_id, agent)
        await agent.start(await agent.registration(driver="local", facade="ray", address=""))
        try:
            ready = asyncio.create_task(until_a_model_answers(cluster))
            model = a_model("double", source="doubling:double")
            await cluster.ask(RegisterModel(model=model))
            server = a_workload(1, ModelServer(model=model))
            await cluster.ask(SubmitWorkload(spec=server))
            await ready
            requests = [
                a_workload(number, an_inference(model_id=model.id, input=str(number).encode()), waiting=True)
                for number in range(10, 30)
            ]
            replies = await cluster.plane.submit([SubmitWorkload(spec=spec) for spec in requests])
            await cluster.ask(StopWorkload(workload_id=server.id, grace_s=2.0))
            stopped = await cluster.finished(server.id, timeout_s=15)
        finally:
            await agent.stop()
    views = [reply for reply in replies if isinstance(reply, WorkloadView)]
    assert [view.result.output for view in views if view.result] == [str(2 * n).encode() for n in range(10, 30)]
    assert {view.result.pid for view in views if view.result}.isdisjoint({os.getpid(), None})
    assert stopped.phase is Phase.STOPPED
