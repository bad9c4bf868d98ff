"""What a killed agent leaves: the next one removes it, and not before the earlier one has let go."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from arcray.config import Settings
from arcray.core.errors import UnavailableError
from arcray.core.ids import NodeId
from arcray.node.agent import NodeAgent
from arcray.node.leftovers import sweep
from arcray.node.sandbox import UserPool
from arcray.testing.clock import FakeClock, SequenceIds

if TYPE_CHECKING:
    from arcray.testing.node_fakes import FakeEngine, FakeGpus, FakePlane


@pytest.fixture
def new_agent(tmp_path: Path, plane: FakePlane, engine: FakeEngine, gpus: FakeGpus) -> Callable[[], NodeAgent]:
    settings = Settings.model_validate({"state_dir": tmp_path, "node": {"programs": {"sandbox": "none"}}})

    def new() -> NodeAgent:
        return NodeAgent(
            node_id=NodeId("n"),
            plane=plane,
            settings=settings,
            clock=FakeClock(),
            ids=SequenceIds(),
            probe=gpus,
            engine=engine,
        )

    return new


async def _look(agent: NodeAgent) -> None:
    await agent.registration(driver="local", facade="ray", address="")


async def test_files_of_a_killed_agent_are_gone_before_the_next_one_offers_its_disk(
    tmp_path: Path, new_agent: Callable[[], NodeAgent]
) -> None:
    home = tmp_path / "node" / "n"
    for path in ("programs/w-1/work", "programs/w-1/results", "models/w-1", "models/w-2"):
        (home / path).mkdir(parents=True)
    (home / "models" / "w-1" / "model.onnx").write_bytes(b"1")
    (home / "containers").mkdir()
    (home / "containers" / "c-1.log-position").write_text("2026-01-01T00:00:00Z")
    agent = new_agent()
    await _look(agent)
    assert sorted(path.name for path in home.glob("*/*")) == ["c-1.log-position"]
    await agent.stop()


async def test_a_second_agent_of_a_node_touches_nothing_until_the_first_has_ended(
    tmp_path: Path, new_agent: Callable[[], NodeAgent]
) -> None:
    first, second = new_agent(), new_agent()
    await _look(first)
    (tmp_path / "node" / "n" / "programs" / "w-1").mkdir()
    with pytest.raises(UnavailableError, match="another agent of this node still works in"):
        await _look(second)
    assert (tmp_path / "node" / "n" / "programs" / "w-1").is_dir()
    await first.stop()
    await _look(second)
    await second.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as programs with users of their own do")
def test_what_still_runs_as_the_user_of_a_program_is_ended(tmp_path: Path) -> None:
    uid = UserPool().take()
    work = tmp_path / "w-1" / "work"
    work.mkdir(parents=True)
    os.chown(work, uid, uid)
    (tmp_path / "w-2" / "work").mkdir(parents=True)  # ours: a program without a user of its own
    left = subprocess.Popen(("sleep", "600"), user=uid, start_new_session=True)
    sweep((tmp_path,))
    assert left.wait(20) == -9
    assert list(tmp_path.iterdir()) == []
