"""What the scheduler actor does: ``control.Plane`` in a process that Ray keeps alive.

What lives here: assembly, and answering while not ready. What does not: decisions, durability (control), what is said
over the lines (switchboard), what Ray calls (``scheduler_actor``, whose constructor imports this).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Mapping
from typing import Any, Final

import ray

from arcray import logs, state_directory
from arcray.config import Settings
from arcray.control.blobs import FsspecBlobs
from arcray.control.journal import Journal
from arcray.control.plane import Plane
from arcray.core.blobkeys import workload_of_log
from arcray.core.errors import ArcrayError, UnavailableError
from arcray.core.events import LogAppended
from arcray.core.ids import WorkloadId
from arcray.drivers.line import LineDriver
from arcray.drivers.ray_actor import RayActorDriver
from arcray.runtime.actors import supervise, tune_interpreter
from arcray.runtime.gauges import Gauges
from arcray.runtime.installed import installed_version
from arcray.runtime.line import LineAddress, LineServer
from arcray.runtime.policy import policy_of
from arcray.runtime.ray_nodes import RayNodes
from arcray.runtime.reconcile import Reconciler
from arcray.runtime.scheduler_handle import SCHEDULER
from arcray.runtime.switchboard import Switchboard
from arcray.wire.attachments import DRIVER
from arcray.wire.system import SystemClock

__all__ = ["SchedulerLife"]

_log = logging.getLogger(__name__)

_READY_TIMEOUT_S: Final = 8.0  # below the clients' own, so that they hear the reason
_RECOVER_RETRY_S: Final = 2.0
_BLOB_OPERATIONS: Final = frozenset({"put", "append", "get", "size", "delete"})


class SchedulerLife:
    """The methods of the actor, and what it does by itself. It is made without the garbage collector.

    Args:
        settings: all of them; passed on to the node actors.
    """

    def __init__(self, settings: Settings) -> None:
        logs.configure(settings.log_level, settings.log_format)
        self._settings = settings
        self._clock = SystemClock()
        state_directory.make(settings.state_dir)
        self._blobs = FsspecBlobs(settings.blob_place, max_blob_bytes=settings.blobs.max_blob_bytes)
        self._plane: Plane | None = None
        self._address: LineAddress | None = None
        self._ready = asyncio.Event()
        self._reason = "it is starting"
        self._began_at = self._clock.now()
        self._recovery_s: float | None = None
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
            self._loop.call_soon_threadsafe(self.logs_grew, {workload_id: result})
        return result

    def logs_grew(self, sizes: Mapping[WorkloadId, int]) -> None:
        """Publishes that logs were appended to; on the loop of the plane.

        Args:
            sizes: bytes of each one.
        """
        if self._plane is not None:
            at = self._clock.now()
            self._plane.publish(LogAppended(workload_id=each, size_bytes=size, at=at) for each, size in sizes.items())

    def status(self) -> dict[str, Any]:
        """Returns the version, the process, whether it serves and takes writes, and why not.

        ``began_at`` is when this process began to recover, ``recovery_s`` how long it took; None before the end.
        """
        refusal = self._plane.refusal if self._plane is not None and self._ready.is_set() else None
        return {
            "version": installed_version(),
            "pid": os.getpid(),
            "ready": self._ready.is_set() and refusal is None,
            "reason": self._reason if refusal is None else refusal.message,
            "began_at": self._began_at.isoformat(),
            "recovery_s": self._recovery_s,
        }

    async def stop(self) -> None:
        """Commits what was accepted and answers everyone; the actor may then be killed."""
        self._life.cancel()
        await asyncio.gather(self._life, return_exceptions=True)

    async def _live(self) -> None:
        began_s = self._clock.monotonic()
        switchboard = Switchboard()
        plane = self._plane = await self._recovered(switchboard)
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
                self._recovery_s = self._clock.monotonic() - began_s
                self._ready.set()
                _log.info(
                    "scheduler serves",
                    extra={
                        "version": installed_version(),
                        "port": self._address.port,
                        "recovery_s": round(self._recovery_s, 3),
                    },
                )
        finally:
            server.close()
            await plane.stop()

    async def _recovered(self, switchboard: Switchboard) -> Plane:
        """Returns the plane once it has recovered from its rows, trying for as long as the database is away."""
        while True:
            plane = Plane(
                policy=policy_of(self._settings),
                journal=Journal(self._settings.sql_url, self._settings.database),
                drivers={"ray": RayActorDriver(lines=switchboard), DRIVER: LineDriver(switchboard)},
                blobs=self._blobs,
                clock=self._clock,
                settings=self._settings.scheduler,
                meters=(switchboard.queues,),
                retention=self._settings.retention,
            )
            try:
                await plane.start()
            except ArcrayError as error:
                gc.enable()  # it may fail for hours, and what failed leaves cycles
                self._reason = str(error)
                _log.error("cannot recover yet", extra={"reason": str(error)})
                await self._clock.sleep(_RECOVER_RETRY_S)
            else:
                return plane
