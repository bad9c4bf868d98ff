"""The scheduler actor as Ray knows it: a thin wrapper round ``scheduler_life``.

The class is plain; ``options`` makes the actor of it. Ray starts it again in a new process whenever it has died, and
until that serves the pool decides nothing. So this module imports next to nothing, and the constructor the rest,
without the garbage collector: all that is made until the scheduler serves is here to stay, and the collector would walk
it again and again (measured on two cores at 100,000 finished workloads: 0.1 s of importing, 0.1 s of recovery, and
0.1 s for nothing at its end).
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arcray.config import Settings
    from arcray.core.errors import ArcrayError
    from arcray.core.ids import WorkloadId
    from arcray.runtime.line import LineAddress

__all__ = ["SchedulerActor", "create_scheduler"]


class SchedulerActor:
    """One per cluster.

    Args:
        settings: all of them; passed on to the node actors.
    """

    def __init__(self, settings: Settings) -> None:
        gc.disable()  # ``tune_interpreter`` enables it once this serves
        from arcray.runtime.scheduler_life import SchedulerLife

        self._life = SchedulerLife(settings)

    async def line(self) -> LineAddress | ArcrayError:
        """Returns where a client opens its line, once this serves."""
        return await self._life.line()

    async def blob(self, operation: str, key: str, *arguments: Any) -> Any:
        """Calls a method of the blob store. Runs on the loop of its concurrency group, not on that of the plane."""
        return await self._life.blob(operation, key, *arguments)

    async def logs_grew(self, sizes: dict[WorkloadId, int]) -> None:
        """Tells followers of logs that were appended to where this does not see it."""
        self._life.logs_grew(sizes)

    async def status(self) -> dict[str, Any]:
        """Returns the version, the process, whether it serves, and why not.

        ``began_at`` is when this process began to recover, ``recovery_s`` how long it took; None before the end.
        """
        return self._life.status()

    async def stop(self) -> None:
        """Commits what was accepted and answers everyone; the actor may then be killed."""
        await self._life.stop()


def create_scheduler(settings: Settings) -> Any:
    """Returns the handle of the cluster's scheduler actor, made now unless there is one. Does not wait for it."""
    from arcray.runtime.actors import keep
    from arcray.runtime.ray_nodes import head_node_id
    from arcray.runtime.scheduler_handle import BLOBS, SCHEDULER

    # Pinned to the head node, because the default database and blob store are files there. Parked exchanges, two per
    # client, count as calls that run.
    return keep(
        SchedulerActor, settings, name=SCHEDULER, node_id=head_node_id(), groups={BLOBS: 16}, max_concurrency=10_000
    )
