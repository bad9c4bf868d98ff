"""Boundaries: the only place in ``control`` that catches everything, so that one fault never ends the writer silently.

Here a foreign exception is logged once with its traceback and then one of three things happens on purpose: the call
returns an ``InternalError`` (``contain``), the loop goes on after a pause (``forever``), or it ends (cancellation).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, ParamSpec, TypeVar

from arcray.core.errors import ArcrayError, InternalError
from arcray.core.ports import Clock

__all__ = ["FaultError", "contain", "contain_async", "forever"]

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")

_PAUSE_S: Final = 0.1  # after a fault, so that one that repeats does not fill the log or the processor


class FaultError(InternalError):
    """arcray failed at this; the server's log has the details."""


def contain(call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | ArcrayError:
    """Returns what the call returns, or its error; any other exception is logged and becomes a ``FaultError``."""
    try:
        return call(*args, **kwargs)
    except ArcrayError as error:
        return error
    except Exception:  # noqa: BLE001 - this is the boundary
        _log.exception("fault", extra={"where": getattr(call, "__qualname__", repr(call))})
        return FaultError()


async def contain_async(call: Awaitable[_T], where: str) -> _T | ArcrayError:
    """Returns what the awaitable returns, or its error; any other exception is logged and becomes a ``FaultError``."""
    try:
        return await call
    except ArcrayError as error:
        return error
    except Exception:  # noqa: BLE001 - this is the boundary
        _log.exception("fault", extra={"where": where})
        return FaultError()


async def forever(turn: Callable[[], Awaitable[Any]], clock: Clock, where: str) -> None:
    """Runs ``turn`` again and again until it is cancelled; a turn that fails is logged, and followed by a pause."""
    while True:
        try:
            await turn()
        except Exception:  # noqa: BLE001 - this is the boundary
            _log.exception("loop fault", extra={"where": where})
            await clock.sleep(_PAUSE_S)
