"""Shares of a GPU's memory are kept: work that takes more than its share is found out, so that it can be ended.

No driver divides a device's memory among processes of several users, and a framework may take all that it finds: its
neighbours, which were promised theirs, would fail in its place. What counts is what the driver says that the processes
hold, their contexts included (half a GiB each on an H200). Where a device is held whole, nobody else is there to harm.

Not held is who cannot be told apart: work in containers, and all work where the driver numbers processes otherwise than
this agent does, which is then in a container itself. Most drivers give the machine's numbers there, where another of
the container's processes may have the same one: what names a process that is not here is not believed at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from arcray.core.ports import Clock
from arcray.core.resources import Allocation
from arcray.node.gpu import GpuHolding
from arcray.node.process_tree import descendants

__all__ = ["GpuShares", "is_namespaced", "overdrawn"]

_log = logging.getLogger(__name__)

_LOOK_S: Final = 0.5
_FRESH_S: Final = 0.25  # a look that is younger is everybody's
_ASKERS: Final = ThreadPoolExecutor(2, thread_name_prefix="gpu-shares")  # a driver that hangs holds up nothing else

_STRANGE_LOOKS: Final = 10  # in a row, of which a process that has just ended makes one or two
_REMEDY: Final = "run the agent's container with the machine's process numbers (--pid=host)"
_PROC: Final = Path("/proc")
_MACHINES_OWN: Final = 0xEFFFFFFC  # the kernel's number of the first namespace of processes (PROC_PID_INIT_INO)

_Holdings = tuple[GpuHolding, ...]


class GpuShares:
    """Who holds what of this machine's GPUs, asked once for all the work that shares them.

    The driver takes milliseconds to answer for a machine of many GPUs, and answers one at a time.

    Args:
        holdings: as the probe tells them; may block.
        namespaced: whether the driver may number processes otherwise than we do.
    """

    def __init__(self, holdings: Callable[[], _Holdings], clock: Clock, *, namespaced: bool = False) -> None:
        self._holdings = holdings
        self._clock = clock
        self._namespaced = namespaced
        self._strange = 0  # looks in a row that named a process which is not here
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
            self._look = asyncio.get_running_loop().run_in_executor(_ASKERS, self._ask)
            self._began_s = now_s
        return await asyncio.shield(self._look)

    def _ask(self) -> _Holdings:
        """Returns what the driver says, if it speaks of processes by our numbers."""
        holdings = self._holdings()
        if not self._namespaced or all((_PROC / str(each.pid)).exists() for each in holdings):
            self._strange = 0
            return holdings
        self._strange += 1
        if self._strange == _STRANGE_LOOKS:
            _log.warning("shares of GPUs are not kept", extra={"remedy": _REMEDY})
        return ()


def is_namespaced() -> bool:
    """Returns whether this process may be in a namespace of processes that is not the machine's own."""
    try:
        return (_PROC / "self/ns/pid").stat().st_ino != _MACHINES_OWN
    except OSError:  # some sandboxes have no such file
        return True


def overdrawn(holdings: Collection[GpuHolding], pids: Collection[int], allocation: Allocation) -> str:
    """Returns of which share these processes hold more than it has; "" of none."""
    for share in allocation.gpus:
        held = sum(each.memory_bytes for each in holdings if each.index == share.index and each.pid in pids)
        if not share.whole and held > share.memory_bytes:
            return f"used more than {share.memory_bytes} bytes of the memory of GPU {share.index}"
    return ""
