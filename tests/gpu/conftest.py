"""Tests on a physical GPU. They skip where there is none, with ``CI=true`` too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from arcray.core.resources import Gpu
from arcray.node.gpu import NvmlProbe
from tests.gpu.on_gpu import OnGpu

if TYPE_CHECKING:
    from tests.embedded_cluster import Cluster


@pytest.fixture(scope="session")
def gpus() -> tuple[Gpu, ...]:
    """The physical GPUs of this machine."""
    found = NvmlProbe().devices()
    if not found:
        pytest.skip("no GPU here that NVML knows of")
    return found


@pytest.fixture(scope="session")
def on_gpu(gpus: tuple[Gpu, ...], cluster: Cluster) -> Iterator[OnGpu]:
    with cluster.client() as client:
        yield OnGpu(cluster, client, gpus)
