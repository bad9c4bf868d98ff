"""A machine of each kind, started once for all cells and gone after them: other tests know whose work goes where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.matrix.kinds import joined
from tests.matrix.stage import MODEL, Stage

if TYPE_CHECKING:
    from tests.embedded_cluster import Cluster


@pytest.fixture(scope="package")
def stage(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Takes seconds: interpreters start, sandboxes are tried out, and a model is loaded."""
    with cluster.client() as client:
        client.register_model(MODEL, "python", source="cluster_models:echo")
        with joined(cluster, client, tmp_path_factory.mktemp("machines")) as machines:
            client.wait_model(MODEL, timeout_s=60)
            yield Stage(cluster, client, machines)
        client.remove_model(MODEL)
