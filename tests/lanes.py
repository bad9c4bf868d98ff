"""How the tests are shared out among processes: those that share something in a row, by one."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Final

from xdist.scheduler.loadscope import LoadScopeScheduling

__all__ = ["LANE", "Lanes", "drawn"]

LANE: Final = (
    "tests/cluster/",
    "tests/conformance/hivemind/test_hivemind_examples.py",
    "tests/conformance/pool/test_pool_examples.py",
    "tests/contract/",
    "tests/docker/",
    "tests/gpu/",
    "tests/matrix/",
    "tests/served/",
    "tests/started/",
)
"""Where the tests lie that share a Ray cluster, a container engine, a GPU, or the ports that documents name."""

# Made by the first of the processes, inherited by the others: all of them must draw the same.
_DRAW: Final = os.environ.setdefault("ARCRAY_TEST_DRAW", str(random.SystemRandom().getrandbits(64)))


def drawn(test: str, count: int) -> Sequence[int]:
    """Returns seeds for a test of chance: others in each run, the same in every process of it."""
    return random.Random(f"{_DRAW} {test}").sample(range(1 << 32), count)


class Lanes(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives one process the tests of the lane, first and in a row, and each of the rest to whoever is free, by file."""

    def _split_scope(self, nodeid: str) -> str:
        return "the lane" if nodeid.startswith(LANE) else nodeid.split("::", 1)[0]
