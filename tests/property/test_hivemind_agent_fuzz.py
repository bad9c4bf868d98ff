"""Whatever a pool asks of the HiveMind agent, it takes a task or refuses it, and keeps nothing of what it refused."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from arcray.agents.hivemind_tasks import LiveTasks
from arcray.agents.hivemind_worker import HivemindWorker
from arcray.control.blobs import FsspecBlobs
from arcray.core.orders import Order
from arcray.core.quantity import GIB
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.orders import attempt_of
from arcray.facades.hivemind.tasks import FOREIGN_WORK
from arcray.testing.builders import a_capacity, a_node, a_workload
from arcray.testing.clock import FakeClock
from tests.property.test_hivemind_fuzz import messages
from tests.unit.facades.hivemind.test_hivemind_returned import a_zip

ASKED = {
    "name": "n", "image": "busybox", "command": [], "args": ["x"], "env": [["A", "1"]], "cpu_milli": 1,
    "memory_bytes": 1, "gpus": 0,
}  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.sampled_from(sorted(ASKED)), each, max_size=3),
    max_leaves=6,
)
_CONTAINERS = st.builds(lambda wrong: ASKED | wrong, st.dictionaries(st.sampled_from(sorted(ASKED)), _JSON)) | _JSON
_PACKED = st.builds(
    lambda asked: a_zip({"main.py": b"1", "arcray-container.json": json.dumps(asked).encode()}), _CONTAINERS
)
_DAMAGED = st.builds(
    lambda data, at, byte: data[: at % len(data)] + bytes([byte]) + data[at % len(data) + 1 :],
    _PACKED, st.integers(0, 10_000), st.integers(0, 255),
)  # fmt: skip
_OURS = st.sampled_from([f"arcray-{a_workload(1).id}", f"arcray-{a_workload(1).id}.arcray-2", "t", "t.arcray-3"])
_REQUESTS = messages(pool.DESCRIPTOR.message_types_by_name["ExecuteTaskRequest"]) | st.builds(
    lambda task_id, data: pool.ExecuteTaskRequest(task_id=task_id, task_data=data), _OURS, _PACKED | _DAMAGED
)
_WORDS = st.dictionaries(st.just("arcray-allocation"), st.builds(json.dumps, _JSON) | st.text(max_size=20))


class Context:
    """A call from the pool."""

    def __init__(self, words: Mapping[str, str]) -> None:
        self._words = words

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return tuple(self._words.items())


@settings(max_examples=100, deadline=None)
@given(request=_REQUESTS, words=_WORDS)
def test_a_task_is_taken_or_refused_and_nothing_is_kept_of_what_was_refused(
    request: Message, words: Mapping[str, str]
) -> None:
    asyncio.run(_asked(request, words))


async def _asked(request: Any, words: Mapping[str, str]) -> None:
    orders: list[Order] = []
    tasks = LiveTasks(FakeClock())
    with tempfile.TemporaryDirectory() as directory:
        worker = HivemindWorker(
            tasks,
            FsspecBlobs(Path(directory), max_blob_bytes=1 << 20),
            take=_taking(orders),
            registration=lambda: a_node(capacity=a_capacity(gpus=1)),
            unpacked_bytes=GIB,
            allow_from=[ip_network("127.0.0.0/8")],
        )
        answer = await worker._execute(request, Context(words))
        kept = _files(Path(directory))
    assert answer.success == (len(orders) == 1) == (len(tasks) == 1)
    if not answer.success:
        assert answer.message
        assert kept == []
    elif FOREIGN_WORK.fullmatch(attempt_of(request.task_id)[0]) is None:
        assert len(kept) == 1


def _files(directory: Path) -> Sequence[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def _taking(orders: list[Order]) -> Any:
    async def take(given: Sequence[Order]) -> None:
        orders.extend(given)

    return take
