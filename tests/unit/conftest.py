"""A cluster under test, whose invariants are checked after every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from arcray.core.policy import ClusterPolicy
from arcray.testing.builders import T0
from arcray.testing.world import World


@pytest.fixture
def policy() -> ClusterPolicy:
    return ClusterPolicy()


@pytest.fixture
def world(policy: ClusterPolicy) -> Iterator[World]:
    world = World(policy, T0)
    yield world
    world.cluster.state.check_invariants()
