"""Fakes of the node's ports as fixtures, for every test that wants a node without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from arcray.testing.node_fakes import Attempts, FakeEngine, FakeGpus, FakePlane, MemoryBlobs


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs()


@pytest.fixture
def plane() -> FakePlane:
    return FakePlane()


@pytest.fixture
def attempts() -> Attempts:
    return Attempts()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory that other users may pass through, as a state directory is."""
    for path in (tmp_path, *tmp_path.parents):
        if path.owner() == tmp_path.owner() and path.stat().st_mode & 0o011 == 0:
            path.chmod(path.stat().st_mode | 0o011)
    return tmp_path


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def gpus() -> FakeGpus:
    return FakeGpus()
