"""Shares of a GPU's memory are kept: work that takes more than its share is found out, so that it can be ended.

No driver divides a device's memory among processes of several users, and a framework may take all that it finds: its
neighbours, which were promised theirs, would fail in its place. What counts is what the driver says that the processes
hold, their contexts included (half a GiB each on an H200). Where a device is held whole, nobody else is there to harm.

Not held is who cannot be told apart: work in containers, and all work where the driver numbers processes otherwise than
this agent does, which is then in a container itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from arcray.core.ports import Clock
from arcray.core.resources import Allocation
from arcray.node.gpu import GpuHolding
from arcray.node.process_tree import descendants

__all__ = ["GpuShares", "overdrawn"]

_LOOK_S: Final = 0.5
_FRESH_S: Final = 0.25  # a look that is younger is everybody's
_ASKERS: Final = ThreadPoolExecutor(2, thread_name_prefix="gpu-shares")  # a driver that hangs holds up nothing else

_Holdings = tuple[GpuHolding, ...]


class GpuShares:
    """Who holds what of this machine's GPUs, asked once for all the work that shares them.

    The driver takes milliseconds to answer for a machine of many GPUs, and answers one at a time.

    Args:
        holdings: as the probe tells them; may block.
    """

    def __init__(self, holdings: Callable[[], _Holdings], clock: Clock) -> None:
        self._holdings = holdings
        self._clock = clock
        self._look: asyncio.Future[_Holdings] | None = None
        self._began_s = 0.0

    async def until_overdrawn(self, pid: int, allocation: Allocation) -> str:
        """Returns what a process and those below it took too much of, once they do; never where they share nothing."""
        if all(share.whole for share in allocation.gpus):
            await asyncio.get_running_loop().create_future()
        while True:
            await self._clock.sleep(_LOOK_S)
            holdings = await self._newest()
            if holdings and (excess := overdrawn(holdings, (pid, *descendants(pid)), allocation)):
                return excess

    async def _newest(self) -> _Holdings:
        now_s = self._clock.monotonic()
        if self._look is None or (self._look.done() and now_s - self._began_s >= _FRESH_S):
            self._look = asyncio.get_running_loop().run_in_executor(_ASKERS, self._holdings)
            self._began_s = now_s
        return await asyncio.shield(self._look)


def overdrawn(holdings: Collection[GpuHolding], pids: Collection[int], allocation: Allocation) -> str:
    """Returns of which share these processes hold more than it has; "" of none."""
    for share in allocation.gpus:
        held = sum(each.memory_bytes for each in holdings if each.index == share.index and each.pid in pids)
        if not share.whole and held > share.memory_bytes:
            return f"used more than {share.memory_bytes} bytes of the memory of GPU {share.index}"
    return ""
