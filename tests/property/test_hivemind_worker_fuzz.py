"""Whatever is told in a worker's name, its service answers or refuses as an ``ArcrayError``, and no work changes by it.

Against a whole control plane in this process, without gRPC, with a task that runs on a node of the pool's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeAlias

from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from arcray.core.commands import SubmitWorkload
from arcray.core.errors import ArcrayError
from arcray.core.ids import AccountId
from arcray.core.quantity import GIB
from arcray.core.queries import GetWorkload
from arcray.facades.hivemind import tasks
from arcray.facades.hivemind.callers import ANYBODY, Caller
from arcray.facades.hivemind.calls import Call
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.worker_channel import GrpcChannel
from arcray.facades.hivemind.worker_link import Limits
from arcray.facades.hivemind.worker_links import WorkerLinks
from arcray.facades.hivemind.worker_service import WorkerService
from arcray.testing.builders import T0
from arcray.testing.plane import in_process_plane
from arcray.testing.simulated_node import Script, SimulatedNode
from tests.property.test_hivemind_fuzz import messages

Calls: TypeAlias = Sequence[tuple[tuple[str, Message], Caller]]

NAMES = (
    "RegisterWorkerNode", "ReportStatus", "StoreOutput", "StoreLogs", "StoreResult", "ReturnTaskResult",
    "TaskCompleted", "ExecuteTask", "ReportOutput", "ReportRunningStatus",
)  # fmt: skip
REQUESTS = {
    name: method.input_type
    for service in pool.DESCRIPTOR.services_by_name.values()
    for name, method in service.methods_by_name.items()
    if name in NAMES
}
CALLS = st.one_of([st.tuples(st.just(name), messages(REQUESTS[name])) for name in NAMES])
CALLERS = st.sampled_from([ANYBODY, Caller(AccountId("ana"))])


@settings(max_examples=6, deadline=None)
@given(calls=st.lists(st.tuples(CALLS, CALLERS), min_size=5, max_size=40))
def test_nothing_that_is_told_as_a_worker_changes_work_of_others(
    calls: Sequence[tuple[tuple[str, Message], Caller]],
) -> None:
    """Takes a second: a control plane is started for each example."""
    asyncio.run(_told(calls))


async def _told(calls: Calls) -> None:
    node = SimulatedNode("own", script=lambda _: Script(end=None))
    async with in_process_plane(nodes=[node]) as cluster:
        limits = Limits(orders=8, dial_timeout_s=0.01)
        links = WorkerLinks(cluster.plane, cluster.driver, cluster.clock, limits=limits, dial=GrpcChannel)
        service = WorkerService(cluster.plane, links, log_bytes=1 << 20, unpacked_bytes=1 << 20)
        methods: dict[str, Any] = {
            **service.node_methods(), **service.master_methods(), **service.worker_methods()
        }  # fmt: skip
        request = pool.UploadTaskRequest(task_id="task-001", task_data=b"1")
        upload = tasks.upload_of(
            request, user=AccountId("ana"), registered=True, call_id="c", now=T0, house_rate=0, unpacked_bytes=GIB
        )
        await cluster.ask(SubmitWorkload(spec=upload.spec))
        running = asyncio.create_task(links.run())
        await asyncio.sleep(0)
        for (name, told), caller in calls:
            try:
                await methods[name](told, Call(caller, cluster.clock.now()))
            except ArcrayError:
                continue
        view: Any = await cluster.plane.query(GetWorkload(workload_id=upload.spec.id))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert not view.phase.terminal
