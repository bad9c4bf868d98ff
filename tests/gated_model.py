"""A model that answers when the test says so: for what happens while requests are in flight."""

from __future__ import annotations

import asyncio

__all__ = ["GatedModel"]


class GatedModel:
    """Gives back what it was asked, once the gate is open.

    Attributes:
        gate: opened by its ``set``.
    """

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def answer(self, value: object) -> object:
        await self.gate.wait()
        return value
