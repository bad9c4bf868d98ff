"""The scheduler actor: ``control.Plane`` in a process that Ray keeps alive. A thin wrapper.

What lives here: assembly, and answering while not ready. What does not: decisions, durability (control), what is said
over the lines (switchboard). The class is plain; ``options`` makes the actor of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import ray

from arcray import logs
from arcray.config import QuotaSettings, Settings
from arcray.control.blobs import FsspecBlobs
from arcray.control.journal import Journal
from arcray.control.plane import Plane
from arcray.core.blobkeys import workload_of_log
from arcray.core.errors import ArcrayError, UnavailableError
from arcray.core.events import LogAppended
from arcray.core.policy import ClusterPolicy
from arcray.core.ports import NodeDriver
from arcray.core.quantity import MIB, milli_cpu
from arcray.core.quota import NO_QUOTA, Quota
from arcray.drivers.ray_actor import RayActorDriver
from arcray.runtime.actors import keep, supervise, tune_interpreter
from arcray.runtime.gauges import Gauges
from arcray.runtime.line import LineAddress, LineServer
from arcray.runtime.ray_nodes import RayNodes, head_node_id
from arcray.runtime.reconcile import Reconciler
from arcray.runtime.scheduler_handle import BLOBS, SCHEDULER
from arcray.runtime.switchboard import Switchboard
from arcray.wire.system import SystemClock

__all__ = ["SchedulerActor", "create_scheduler", "installed_version"]

_log = logging.getLogger(__name__)

_READY_TIMEOUT_S: Final = 8.0  # below the clients' own, so that they hear the reason
_RECOVER_RETRY_S: Final = 2.0
_BLOB_OPERATIONS: Final = frozenset({"put", "append", "get", "size", "delete"})


class SchedulerActor:
    """One per cluster.

    Args:
        settings: all of them; passed on to the node actors.
    """

    def __init__(self, settings: Settings) -> None:
        logs.configure(settings.log_level, settings.log_format)
        self._settings = settings
        self._clock = SystemClock()
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        self._blobs = FsspecBlobs(settings.blob_url, max_blob_bytes=settings.blobs.max_blob_bytes)
        self._plane: Plane | None = None
        self._address: LineAddress | None = None
        self._ready = asyncio.Event()
        self._reason = "it is starting"
        # Ray runs constructors of actors with async methods on their event loop.
        self._loop = asyncio.get_running_loop()
        self._life = supervise(self._live(), self._clock, SCHEDULER)

    async def line(self) -> LineAddress | ArcrayError:
        """Returns where a client opens its line, once this serves."""
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                await self._ready.wait()
        except TimeoutError:
            return UnavailableError(f"the scheduler does not serve: {self._reason}")
        assert self._address is not None
        return self._address

    async def blob(self, operation: str, key: str, *arguments: Any) -> Any:
        """Calls a method of the blob store. Runs on the loop of its concurrency group, not on that of the plane."""
        assert operation in _BLOB_OPERATIONS
        try:
            result = await getattr(self._blobs, operation)(key, *arguments)
        except ArcrayError as error:
            return error
        if operation == "append" and (workload_id := workload_of_log(key)) is not None:
            grown = LogAppended(workload_id=workload_id, size_bytes=result, at=self._clock.now())
            self._loop.call_soon_threadsafe(self._publish, grown)
        return result

    async def status(self) -> dict[str, Any]:
        """Returns the version, the process, whether it serves, and why not."""
        return {
            "version": installed_version(),
            "pid": os.getpid(),
            "ready": self._ready.is_set(),
            "reason": self._reason,
        }

    async def stop(self) -> None:
        """Commits what was accepted and answers everyone; the actor may then be killed."""
        self._life.cancel()
        await asyncio.gather(self._life, return_exceptions=True)

    async def _live(self) -> None:
        switchboard = Switchboard()
        plane = self._plane = await self._recovered(RayActorDriver(lines=switchboard))
        server = LineServer(switchboard.accept)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(switchboard.run(plane))
                group.create_task(Reconciler(RayNodes(self._settings), self._clock).run())
                group.create_task(Gauges(plane, switchboard, self._clock).run())
                await asyncio.sleep(0)  # the switchboard runs before the first line comes
                host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray's
                self._address = await server.start(host, ray.get_runtime_context().get_node_id())
                self._reason = ""
                tune_interpreter()
                self._ready.set()
                _log.info("scheduler serves", extra={"version": installed_version(), "port": self._address.port})
        finally:
            server.close()
            await plane.stop()

    async def _recovered(self, driver: NodeDriver) -> Plane:
        """Returns the plane once it has recovered from its rows, trying for as long as the database is away."""
        while True:
            plane = Plane(
                policy=_policy(self._settings),
                journal=Journal(self._settings.sql_url),
                drivers={"ray": driver},
                blobs=self._blobs,
                clock=self._clock,
                settings=self._settings.scheduler,
            )
            try:
                await plane.start()
            except ArcrayError as error:
                self._reason = str(error)
                _log.error("cannot recover yet", extra={"reason": str(error)})
                await self._clock.sleep(_RECOVER_RETRY_S)
            else:
                return plane

    def _publish(self, event: LogAppended) -> None:
        if self._plane is not None:
            self._plane.publish([event])


def create_scheduler(settings: Settings) -> Any:
    """Returns the handle of the cluster's scheduler actor, made now unless there is one. Does not wait for it."""
    # Pinned to the head node, because the default database and blob store are files there. Parked exchanges, two per
    # client, count as calls that run.
    return keep(
        SchedulerActor, settings, name=SCHEDULER, node_id=head_node_id(), groups={BLOBS: 16}, max_concurrency=10_000
    )


def installed_version() -> str:
    """Returns arcray's version, as its installation states it."""
    try:
        return version("arcray")
    except PackageNotFoundError:
        return "0+source"


def _policy(settings: Settings) -> ClusterPolicy:
    scheduler, inference = settings.scheduler, settings.inference
    return ClusterPolicy(
        max_pending=scheduler.max_pending,
        max_waiting=inference.max_waiting,
        routing_patience=timedelta(milliseconds=sum(inference.backoff_ms)),
        inference_timeout=timedelta(seconds=inference.timeout_s),
        saturation=inference.saturation,
        stale_after=timedelta(seconds=inference.stale_after_s),
        score=settings.arcnet.score,
        keep_finished=scheduler.keep_finished,
        keep_finished_inference=scheduler.keep_finished_inference,
        restart_backoff=timedelta(seconds=scheduler.restart_backoff_s),
        restart_backoff_max=timedelta(seconds=scheduler.restart_backoff_max_s),
        round_batch=scheduler.round_batch,
        restart_rest=timedelta(seconds=scheduler.restart_rest_s),
        max_duration=_optional_s(scheduler.max_duration_s),
        default_max_duration=_optional_s(scheduler.default_max_duration_s),
        overtime_grace=timedelta(seconds=scheduler.overtime_grace_s),
        default_quota=_quota(scheduler.quota),
    )


def _optional_s(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _quota(quota: QuotaSettings) -> Quota:
    if quota == QuotaSettings():
        return NO_QUOTA
    return Quota(
        workloads=quota.workloads,
        cpu_milli=None if quota.cpu is None else milli_cpu(quota.cpu),
        memory_bytes=None if quota.memory_mb is None else quota.memory_mb * MIB,
        gpus=quota.gpus,
        pending=quota.pending,
    )
