"""``GET /metrics``, for Prometheus: the queues of this process and of the scheduler, each with its length and limit.

What lives here: gathering, and the text. What does not: what is in a queue (whoever keeps it), which metrics there are
(``arcray.metrics``). The text is that of the exposition format 0.0.4: gauges alone, whose labels need no escaping.

A scrape never fails for a scheduler that is away or slow: what this process knows is told, and that the rest is
missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from arcray import metrics
from arcray.core.errors import ArcrayError
from arcray.core.ports import ControlPlane
from arcray.core.queries import GetQueues, Queues
from arcray.core.queues import Meter, QueueReading

__all__ = ["CONTENT_TYPE", "Measures"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_PATIENCE_S: Final = 1.0  # Prometheus itself gives up after 10 s by default


class Measures:
    """What a scrape is answered with.

    Args:
        meters: of the queues in this process.
        floods: tells how many WebSockets this process has closed for sending too much.
    """

    def __init__(self, plane: ControlPlane, meters: Sequence[Meter], floods: Callable[[], int]) -> None:
        self._plane = plane
        self._meters = meters
        self._floods = floods

    async def text(self) -> str:
        """Returns the page."""
        readings = [reading for meter in self._meters for reading in meter()]
        try:
            async with asyncio.timeout(_PATIENCE_S):
                said: Queues = await self._plane.query(GetQueues())
        except (ArcrayError, TimeoutError):
            reached, writes = 0, 0
        else:
            reached, writes = 1, int(not said.refusal)
            readings += said.readings
        alone = (
            (metrics.SCHEDULER_REACHED, reached),
            (metrics.WRITES_TAKEN, writes),
            (metrics.SOCKETS_FLOODED, self._floods()),
        )
        lines = (line for metric, value in alone for line in _family(metric, [("", value)]))
        return "\n".join([*_lines(readings), *lines, ""])


def _lines(readings: Iterable[QueueReading]) -> Iterator[str]:
    ordered = sorted(readings, key=lambda reading: reading.queue)
    yield from _family(metrics.QUEUE_WAITING, [(reading.queue.value, reading.length) for reading in ordered])
    yield from _family(metrics.QUEUE_ALLOWED, [(reading.queue.value, reading.limit) for reading in ordered])


def _family(metric: metrics.Metric, values: Iterable[tuple[str, int]]) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.help}"
    yield f"# TYPE {metric.name} gauge"
    for label, value in values:
        labels = f'{{{metric.labels[0]}="{label}"}}' if metric.labels else ""
        yield f"{metric.name}{labels} {value}"
