"""Whatever is told in a worker's name, its service answers or refuses as an ``ArcrayError``, and no work changes by it.

Against a whole control plane in this process, without gRPC: with a task that runs on a node of the pool's own, and with
work of two protocols that runs on a worker, whose words then count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from arcray.core.commands import SubmitWorkload
from arcray.core.errors import ArcrayError
from arcray.core.events import Topic
from arcray.core.ids import AccountId, WorkloadId
from arcray.core.quantity import GIB
from arcray.core.queries import GetWorkload
from arcray.core.workload import Phase, Program
from arcray.facades.hivemind import tasks
from arcray.facades.hivemind.callers import ANYBODY, Caller
from arcray.facades.hivemind.calls import Call
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.worker_channel import Answer, Certainty, GrpcChannel
from arcray.facades.hivemind.worker_link import Limits
from arcray.facades.hivemind.worker_links import WorkerLinks
from arcray.facades.hivemind.worker_service import WorkerService
from arcray.testing.builders import T0, a_workload
from arcray.testing.plane import InProcessPlane, in_process_plane
from arcray.testing.simulated_node import Script, SimulatedNode
from arcray.wire.submitting import submit_work
from tests.property.test_hivemind_fuzz import messages
from tests.unit.facades.hivemind.test_hivemind_returned import a_zip

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


class Willing:
    """A worker that takes everything."""

    async def reach(self, timeout_s: float) -> bool:
        _ = timeout_s
        return True

    async def execute(self, request: object, timeout_s: float, words: object) -> Answer:
        _ = request, timeout_s, words
        return Answer(Certainty.ACCEPTED)

    async def stop(self, task_id: str, timeout_s: float) -> Answer:
        _ = task_id, timeout_s
        return Answer(Certainty.ACCEPTED)

    async def broken(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """Has nothing open."""


OF_REST = a_workload(1, Program(blob="programs/x"))
ABOUT_WORK = [name for name in NAMES if "task_id" in REQUESTS[name].fields_by_name and name != "ExecuteTask"]
ZIP = a_zip({"a": b"the quick brown fox " * 4 + bytes(range(32, 96)), "b/c": b"1"})
_RESULTS = st.builds(
    lambda at, byte: ZIP[:at] + bytes([byte]) + ZIP[at + 1 :], st.integers(0, len(ZIP) - 1), st.integers(0, 255)
)


@st.composite
def words_of_the_worker(draw: st.DrawFn) -> tuple[str, Message]:
    """A word about one of its two pieces of work, with anything in its other fields."""
    name = draw(st.sampled_from(ABOUT_WORK))
    request: Any = draw(messages(REQUESTS[name]))
    request.task_id = draw(st.sampled_from(["task-001", f"arcray-{OF_REST.id}"]))
    if "node_id" in REQUESTS[name].fields_by_name:
        request.node_id = "worker-1"
    if "result_data" in REQUESTS[name].fields_by_name:
        request.result_data = draw(_RESULTS)
    return name, request


@settings(max_examples=15, deadline=None)
@given(told=st.lists(words_of_the_worker(), min_size=5, max_size=30))
def test_whatever_a_worker_says_of_its_own_work_is_taken_or_refused(told: Sequence[tuple[str, Message]]) -> None:
    """Takes two seconds: a control plane is started for each example."""
    asyncio.run(_said(told))


async def _said(told: Sequence[tuple[str, Message]]) -> None:
    async with in_process_plane(nodes=[]) as cluster:
        limits = Limits(orders=8, dial_timeout_s=1.0)
        links = WorkerLinks(cluster.plane, cluster.driver, cluster.clock, limits=limits, dial=lambda _: Willing())
        service = WorkerService(cluster.plane, links, log_bytes=1 << 20, unpacked_bytes=1 << 20)
        methods: dict[str, Any] = {**service.master_methods(), **service.worker_methods()}
        running = asyncio.create_task(links.run())
        await asyncio.sleep(0)
        registration = pool.RegisterWorkerNodeRequest(
            node_id="worker-1", hostname="127.0.0.1", port=1, cpu_cores=8, memory_gb=8
        )
        await service.register_worker_node(registration, Call(ANYBODY, cluster.clock.now()))
        upload = tasks.upload_of(
            pool.UploadTaskRequest(task_id="task-001", task_data=b"1"),
            user=AccountId("ana"), registered=True, call_id="c", now=T0, house_rate=0, unpacked_bytes=GIB,
        )  # fmt: skip
        for spec, blob in ((upload.spec, upload.code_key), (OF_REST, "programs/x")):
            await submit_work(cluster.plane, spec, {blob: b"1"})
        async for _ in cluster.plane.events(frozenset({Topic.WORKLOADS})):
            views: list[Any] = [await _view(cluster, spec.id) for spec in (upload.spec, OF_REST)]
            if all(view.phase is Phase.RUNNING for view in views):
                break
        for name, request in told:
            with suppress(ArcrayError):
                await methods[name](request, Call(ANYBODY, cluster.clock.now()))
        for spec in (upload.spec, OF_REST):
            view = await _view(cluster, spec.id)
            assert view.attempt == 1
            for key in view.result.blobs if view.result is not None else ():
                assert await cluster.plane.blobs.size(key) is not None
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _view(cluster: InProcessPlane, workload_id: WorkloadId) -> Any:
    return await cluster.plane.query(GetWorkload(workload_id=workload_id))
