"""Parts of the demonstration's search over HiveMind; the whole of it is tested with the main job on a real cluster."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from arcray.core.errors import UnavailableError
from examples.digits.promises import UnwellError
from examples.hivemind.pool import Pool
from examples.hivemind.search import archive_of
from tests.hivemind_server import hivemind
from tests.ports import free_ports

CANDIDATE = Path(__file__).parents[2] / "examples/hivemind/candidate.py"


def test_a_candidate_is_measured_on_digits_it_has_not_seen(tmp_path: Path) -> None:
    """Takes two seconds: it trains."""
    program = tmp_path / "main.py"
    program.write_bytes(CANDIDATE.read_bytes())
    (tmp_path / "candidate.json").write_text('{"C": 10.0}')
    run = subprocess.run(
        [sys.executable, str(program)],
        env={"ARCRAY_RESULT_DIR": str(tmp_path), "HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    score = json.loads((tmp_path / "score.json").read_text())
    assert score["C"] == 10.0
    assert len(score["accuracy"]) == 5
    assert min(score["accuracy"]) > 0.95
    assert run.stdout.splitlines()[-1] == f"C=10, fold 5 of 5: {score['accuracy'][-1]:.4f}"


async def test_a_user_of_the_pool_hands_in_a_task_and_is_told_of_it() -> None:
    def use(address: str) -> None:
        with Pool(address) as pool:
            assert pool.health("nobody") == "not_found"
            user, other = pool.user("ana"), pool.user("ana")
            assert user.name != other.name
            assert user.balance() == 100
            user.upload("a task", archive_of(1.0))
            with pytest.raises(UnwellError, match="UploadTask: task_id"):
                other.upload("a task", archive_of(1.0))
            assert user.poll("a task")[0] in {"PENDING", "RUNNING", "COMPLETED"}
            assert set(user.tasks()) == {"a task"}
            assert other.tasks() == {}

    async with hivemind() as served:
        await asyncio.to_thread(use, f"127.0.0.1:{served.port}")


def test_a_pool_that_is_not_there_is_told() -> None:
    (port,) = free_ports(1)
    with Pool(f"127.0.0.1:{port}") as pool, pytest.raises(UnavailableError, match=f"127.0.0.1:{port} does not answer"):
        pool.user("ana")
