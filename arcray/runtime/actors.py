"""What our processes have in common: how actors are made, that each lives by one task, and their garbage collection.

Ray restarts an actor whose process ends, so ending on purpose is the cure for every state that we did not foresee. The
pause before it keeps a fault that repeats from starting a process several times a second.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Coroutine, Mapping
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from arcray.core.ports import Clock
from arcray.drivers.ray_actor import NAMESPACE

__all__ = ["keep", "supervise", "tune_interpreter"]

_log = logging.getLogger(__name__)

_PAUSE_S: Final = 2.0
_SWITCH_S: Final = 0.0005  # Python has 0.005
_COLLECT: Final = (50_000, 20, 50)  # allocations, young and middle collections before the next; Python has 700, 10, 10


def keep(
    actor: type,
    *arguments: Any,
    name: str,
    node_id: str | None,
    groups: Mapping[str, int] | None = None,
    max_concurrency: int = 1000,
) -> Any:
    """Returns the handle of a named actor that outlives its maker, made now unless it exists. Does not wait for it.

    Args:
        node_id: the Ray node that it is pinned to; None lets Ray choose.
        groups: concurrency groups and how many calls run in each at once.
    """
    remote: Any = ray.remote  # its types know decorators of tasks only
    made = remote(num_cpus=0, concurrency_groups=dict(groups or {}))(actor)
    return made.options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_concurrency=max_concurrency,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False) if node_id else "DEFAULT",
    ).remote(*arguments)


def tune_interpreter() -> None:
    """Sets Python up for a process that serves; called once it does.

    The cyclic collector is kept from walking what is here to stay. Our values have no cycles and die by reference
    count, so it finds next to nothing; with Python's own thresholds it took a quarter of the scheduler's time at 2,000
    inference requests per second. And a thread waits less for its turn: the one that commits, or reads a disk, holds
    up everyone who waits for it behind a busy event loop (a sixth more requests per second at 64 in flight).

    A process that has started without the collector is not collected first: what its imports left is some hundred
    objects, and looking for them took 0.1 s.
    """
    if gc.isenabled():
        gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(*_COLLECT)
    sys.setswitchinterval(_SWITCH_S)


def supervise(work: Coroutine[Any, Any, None], clock: Clock, name: str) -> asyncio.Task[None]:
    """Runs the work of this process's life; when it fails, the process ends. Cancelling it is no failure."""
    return asyncio.get_running_loop().create_task(_run(work, clock, name), name=name)


async def _run(work: Coroutine[Any, Any, None], clock: Clock, name: str) -> None:
    try:
        await work
    except Exception:  # noqa: BLE001 - the boundary of the process
        _log.exception("actor failed and ends to be restarted", extra={"actor": name})
        await clock.sleep(_PAUSE_S)
        os._exit(1)  # not sys.exit: that would end a thread of Ray's and leave the process
