"""The scheduler as other processes find it: by its actor's name, then by the line that the actor tells of."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import ray
from ray.exceptions import ActorDiedError

from arcray.core.errors import UnavailableError
from arcray.core.ids import WorkloadId
from arcray.drivers.ray_actor import Handles, call
from arcray.runtime.line import Line, LineAddress, Receiver, dial

__all__ = ["BLOBS", "SCHEDULER", "SchedulerHandle"]

SCHEDULER: Final = "arcray-scheduler"
"""Name of the scheduler actor."""

BLOBS: Final = "blobs"
"""Its concurrency group for bytes."""

_CALL_TIMEOUT_S: Final = 10.0
_PATIENCE_S: Final = (*(0.2,) * 15, 1.0, 2.0)  # a killed scheduler is back in 3 s: until then, ask often
_BLOB_TIMEOUT_S: Final = 120.0  # 2 GiB at the slowest disk that makes sense


class SchedulerHandle:
    """Calls the scheduler actor; implements ``remote_plane.Dialer`` and ``remote_blobs.BlobTransport``.

    Args:
        client: names this process at the other end of its line.
        patience_s: how long each call for the line may go unanswered before another is made beside it.
    """

    def __init__(
        self,
        *,
        client: str,
        handles: Handles | None = None,
        name: str = SCHEDULER,
        patience_s: Sequence[float] = _PATIENCE_S,
    ) -> None:
        self._client = client
        self._patience_s = patience_s
        self._handles = handles or Handles()
        self._name = name

    async def dial(self, receiver: Receiver) -> Line:
        """Opens a line.

        Raises:
            UnavailableError: the scheduler is away, or does not serve yet; says why.
        """
        address = await self.line()
        here = await asyncio.to_thread(lambda: ray.get_runtime_context().get_node_id())
        return await dial(address, receiver, name=self._client, ray_node_id=here)

    async def line(self) -> LineAddress:
        """Returns where a client opens its line.

        A call that is made while the scheduler dies hangs: Ray waits one to two seconds for news of the death, by when
        the next scheduler may serve for long. So an unanswered call is followed by others, and the first answer counts.

        Raises:
            UnavailableError: the scheduler is away, or does not serve yet; says why.
        """
        calls: set[asyncio.Task[LineAddress]] = set()
        try:
            for patience_s in (*self._patience_s, None):
                calls.add(asyncio.create_task(self._call("line", timeout_s=_CALL_TIMEOUT_S)))
                answered, _ = await asyncio.wait(calls, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                if answered:
                    break
            return answered.pop().result()
        finally:
            for each in calls:
                each.cancel()
            await asyncio.gather(*calls, return_exceptions=True)  # several may have failed at once

    async def blob(self, operation: str, key: str, *arguments: Any) -> Any:
        """Calls a method of the scheduler's blob store."""
        return await self._call("blob", operation, key, *arguments, timeout_s=_BLOB_TIMEOUT_S, group=BLOBS)

    async def logs_grew(self, sizes: Mapping[WorkloadId, int]) -> None:
        """Tells the scheduler of logs that were appended to elsewhere."""
        await self._call("logs_grew", dict(sizes), timeout_s=_CALL_TIMEOUT_S)

    async def status(self) -> dict[str, Any]:
        """Returns the scheduler's version, whether it serves, and why not."""
        status: dict[str, Any] = await self._call("status", timeout_s=_CALL_TIMEOUT_S)
        return status

    async def _call(self, method: str, *arguments: Any, timeout_s: float, group: str | None = None) -> Any:
        handle = await self._handles.get(self._name)
        bound = getattr(handle, method)
        if group is not None:
            bound = bound.options(concurrency_group=group)
        try:
            return await call(bound.remote(*arguments), timeout_s, self._name)
        except UnavailableError as error:
            if isinstance(error.__cause__, ActorDiedError):
                self._handles.forget(self._name)  # it may be made anew under the same name
            raise
