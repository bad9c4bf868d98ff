"""HiveMind on a running cluster: the document's programs, and the task of theirs that runs for real."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from tests.hivemind_examples import PRINTED, PROGRAMS, compiled_client, output_of

if TYPE_CHECKING:
    from tests.embedded_cluster import Cluster

pytestmark = pytest.mark.cluster


def test_the_documents_programs_run_and_so_does_their_task(cluster: Cluster, tmp_path: Path) -> None:
    """Unchanged, where the port is free that they are written for."""
    port = cluster.settings.gateway.grpc_port
    assert port is not None
    asyncio.run(compiled_client(tmp_path))
    printed = asyncio.run(output_of(PROGRAMS, tmp_path, port))
    assert re.fullmatch("".join(PRINTED), printed), printed
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        poll: Any = channel.unary_unary(
            "/nodepool.MasterNodeService/PollTaskStatus",
            pool.PollTaskStatusRequest.SerializeToString,
            pool.PollTaskStatusResponse.FromString,
        )

        def ended() -> Any:
            answer = poll(pool.PollTaskStatusRequest(task_id="task-001"), timeout=20)
            return answer if answer.status not in {"PENDING", "RUNNING"} else None

        answer = cluster.until(ended, "the task has ended")
    assert (answer.status, list(answer.output)) == ("COMPLETED", ["Hello, HiveMind!"]), answer
