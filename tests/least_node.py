"""The least that a node can be, for streams of work in which a real one's costs would show."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from arcray.core.commands import Attached, AttachNode, Command, ReportModels
from arcray.core.ids import ModelId, NodeId
from arcray.core.model import ModelSlots
from arcray.core.node import NodeRegistration
from arcray.core.orders import Order
from arcray.core.ports import ControlPlane
from arcray.wire.asking import ask

__all__ = ["ECHO", "Answer", "LeastNode"]

ECHO: Final = ModelId("echo")

Answer: TypeAlias = Callable[[NodeId, int, Sequence[Order]], Sequence[Command]]
"""What a node reports of a delivery: by its id, its epoch and the orders."""


class LeastNode:
    """It joins, answers for ``ECHO``, and reports of each delivery with one call; it remembers nothing.

    Args:
        slots: requests that it takes at once.
    """

    def __init__(self, registration: NodeRegistration, plane: ControlPlane, slots: int, answer: Answer) -> None:
        self.registration = registration
        self._plane = plane
        self._slots = slots
        self._answer = answer
        self._calls: set[asyncio.Task[Any]] = set()

    async def attach(self) -> None:
        """Joins, and says what it answers for."""
        attached: Attached = await ask(self._plane, AttachNode(registration=self.registration))
        models = (ModelSlots(model_id=ECHO, slots=self._slots),)
        await ask(self._plane, ReportModels(node_id=self.id, epoch=attached.epoch, models=models))

    @property
    def id(self) -> NodeId:
        return self.registration.id

    async def deliver(self, epoch: int, orders: Sequence[Order]) -> None:
        """Takes orders as a driver hands them over."""
        call = asyncio.ensure_future(self._plane.submit(self._answer(self.id, epoch, orders)))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
