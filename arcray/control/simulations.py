"""Simulations: where and for how long "what if" is worked out.

Only the copy is taken on the loop; the rest runs in a thread of its own, one at a time, because it is plain Python and
shares the interpreter with the loop: two at once would take each other's time and the loop's. Between its steps it
rests longer than it worked, for whoever waits for the interpreter waits 5 ms each time. The copy shows what has
been applied, a little more than what is on disk; it is about what might be, so nothing is promised by it.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from threading import Event
from time import monotonic
from typing import Final

from arcray.control.loops import contain
from arcray.core.cluster import Cluster
from arcray.core.errors import ArcrayError, DeadlineExceededError, ResourceExhaustedError
from arcray.core.simulation import check, image, simulate
from arcray.core.what_if import Simulate, Simulation

__all__ = ["Simulations"]

_LONGEST_S: Final = 20.0  # below what a gateway waits for an answer
_SLICE_S: Final = 0.002  # of work without a rest; a step that takes longer is not interrupted
_REST: Final = 1.5  # times as long as it worked


class Simulations:
    """Runs one at a time.

    Args:
        longest_s: after this a simulation is given up.
    """

    def __init__(self, *, longest_s: float = _LONGEST_S) -> None:
        self._longest_s = longest_s
        self._running = False

    async def run(self, cluster: Cluster, wanted: Simulate, now: datetime) -> Simulation:
        """Returns what would happen.

        Raises:
            InvalidArgumentError: it asks for too much.
            NotFoundError: it names a node that there is not.
            ResourceExhaustedError: another one is running.
            DeadlineExceededError: it takes too long.
        """
        check(wanted)
        if self._running:
            raise ResourceExhaustedError("another simulation is running; try again when it has ended")
        self._running = True
        given_up = Event()
        rested_s = monotonic()

        def keep_on() -> None:
            nonlocal rested_s
            worked_s = monotonic() - rested_s
            if given_up.wait(_REST * worked_s if worked_s >= _SLICE_S else 0.0):
                raise DeadlineExceededError(f"the simulation took longer than {self._longest_s:g} s; ask for less")
            if worked_s >= _SLICE_S:
                rested_s = monotonic()

        def work() -> Simulation | ArcrayError:
            return contain(simulate, taken, cluster.policy, wanted, keep_on)

        try:
            taken = image(cluster.state, now)
            running = asyncio.get_running_loop().run_in_executor(None, work)
        except BaseException:
            self._running = False
            raise
        running.add_done_callback(lambda _: self._ended())
        try:
            async with asyncio.timeout(self._longest_s):
                found = await asyncio.shield(running)
        except (TimeoutError, asyncio.CancelledError) as error:
            given_up.set()  # the thread notices at its next step
            if isinstance(error, asyncio.CancelledError):
                raise
            raise DeadlineExceededError(
                f"the simulation took longer than {self._longest_s:g} s; ask for less"
            ) from error
        if isinstance(found, ArcrayError):
            raise found
        return found

    def _ended(self) -> None:
        self._running = False
