"""The document's own programs, unchanged and in order, against a fresh server, on their own port where that is free."""

from __future__ import annotations

import re
from pathlib import Path

from arcray.testing.simulated_node import Script, SimulatedNode
from tests.hivemind_examples import (
    NODES,
    PORT,
    PRINTED,
    PROGRAMS,
    TASKS,
    USERS,
    WORKERS,
    compiled_client,
    is_free,
    output_of,
)
from tests.hivemind_server import hivemind


async def printed(chosen: tuple[int, ...], client: Path) -> str:
    await compiled_client(client)
    node = SimulatedNode(script=lambda _: Script(log=b"Hello, HiveMind!\n"))
    async with hivemind(nodes=[node], port=PORT if is_free(PORT) else 0) as pool:
        return await output_of([PROGRAMS[each] for each in chosen], client, pool.port)


def test_there_are_four_programs() -> None:
    assert len(PROGRAMS) == 4


async def test_the_programs_of_users_and_tasks_run_unchanged(tmp_path: Path) -> None:
    """Compiles a client and starts a process, which takes a second."""
    found = await printed((USERS, TASKS), tmp_path)
    assert re.fullmatch(PRINTED[USERS] + PRINTED[TASKS], found), found


async def test_all_programs_run_unchanged(tmp_path: Path) -> None:
    """Compiles a client and starts a process, which takes a second."""
    found = await printed((USERS, NODES, TASKS, WORKERS), tmp_path)
    assert re.fullmatch("".join(PRINTED), found), found
