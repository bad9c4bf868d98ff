"""Asking the plane for one thing: a refusal comes back as an entry of the answer, and a route wants it raised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from arcray.core.commands import Command
from arcray.core.errors import ArcrayError
from arcray.core.ports import ControlPlane

__all__ = ["ask", "ask_all"]


async def ask(plane: ControlPlane, command: Command) -> Any:
    """Submits one command and returns its reply, of the type that ``commands.py`` says.

    Raises:
        ArcrayError: it was refused, or the scheduler cannot be reached.
    """
    (reply,) = await ask_all(plane, (command,))
    return reply


async def ask_all(plane: ControlPlane, commands: Sequence[Command]) -> list[Any]:
    """Submits commands in order and returns their replies.

    Raises:
        ArcrayError: the first refusal among them, which says nothing of those after it; or the scheduler cannot be
            reached.
    """
    replies = await plane.submit(commands) if commands else []
    for reply in replies:
        if isinstance(reply, ArcrayError):
            raise reply
    return replies
