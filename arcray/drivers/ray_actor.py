"""Ray nodes: orders to the node actor of a name, and the one way in which arcray awaits an actor.

What lives here: handles by name, time-outs, and what each failure of Ray means in our errors. What does not: when an
order is tried again (``control.dispatch``), and the line that a node keeps open, which orders take when it stands (an
actor call costs fifty times as much). Our actors return an ``ArcrayError`` where a local call would raise it:
Ray would wrap a raised one in its traceback and log it at both ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Final

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from arcray.core.errors import ArcrayError, InternalError, UnavailableError
from arcray.core.ids import NodeId
from arcray.core.orders import Order
from arcray.drivers.frames import encode
from arcray.drivers.line import Lines

__all__ = ["NAMESPACE", "Handles", "RayActorDriver", "call"]

NAMESPACE: Final = "arcray"
"""Ray namespace of every actor of ours."""

_TIMEOUT_S: Final = 10.0


async def call(answer: Awaitable[Any], timeout_s: float, actor: str) -> Any:
    """Returns what an actor answers; raises an ``ArcrayError`` that it returned.

    Args:
        answer: what ``handle.method.remote(...)`` returned.
        actor: its name, for messages.

    Raises:
        UnavailableError: it is away, or did not answer in time; whether the call was executed is unknown.
        InternalError: the method raised.
    """
    try:
        async with asyncio.timeout(timeout_s):
            value = await answer
    except TimeoutError as error:
        raise UnavailableError(f"{actor} did not answer in {timeout_s:g} s") from error
    except RayTaskError as error:
        raise InternalError(f"{actor} failed: {error.cause!r}") from error
    except RayError as error:
        raise UnavailableError(f"{actor} is away: {_reason(error)}") from error
    if isinstance(value, ArcrayError):
        raise value
    return value


class Handles:
    """Actor handles by name. A handle outlives restarts of its actor, but not an actor made anew under its name."""

    def __init__(self, namespace: str = NAMESPACE) -> None:
        self._namespace = namespace
        self._known: dict[str, Any] = {}

    async def get(self, name: str) -> Any:
        """Returns the handle of an actor.

        Raises:
            UnavailableError: no actor has that name now.
        """
        handle = self._known.get(name)
        if handle is None:
            try:
                # The lookup asks Ray's head and blocks.
                handle = await asyncio.to_thread(ray.get_actor, name, self._namespace)
            except (ValueError, RayError) as error:
                raise UnavailableError(f"there is no actor {name} now") from error
            self._known[name] = handle
        return handle

    def forget(self, name: str) -> None:
        """Looks the name up again next time."""
        self._known.pop(name, None)


class RayActorDriver:
    """Delivers orders to node actors; a registration's address is the actor's name.

    Args:
        lines: taken where they stand; None always calls the actor.
        timeout_s: longest wait for a node to take its orders.
    """

    def __init__(
        self, *, lines: Lines | None = None, timeout_s: float = _TIMEOUT_S, handles: Handles | None = None
    ) -> None:
        self._lines = lines
        self._timeout_s = timeout_s
        self._handles = handles or Handles()

    async def deliver(self, node_id: NodeId, address: str, epoch: int, orders: Sequence[Order]) -> None:
        """Hands orders to a node; returns when it has them.

        Raises:
            UnavailableError: the actor is away.
            StaleReportError: the node is attached under another epoch.
        """
        if self._lines is not None and self._lines.reaches(address):
            await self._lines.deliver(address, node_id, epoch, orders)
            return
        handle = await self._handles.get(address)
        try:
            await call(handle.deliver.remote(epoch, encode(tuple(orders))), self._timeout_s, address)
        except UnavailableError as error:
            if isinstance(error.__cause__, ActorDiedError):
                self._handles.forget(address)
            raise


def _reason(error: RayError) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
