from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from arcray.core.ids import ModelId, WorkloadId
from arcray.core.orders import RunInference
from arcray.core.workload import Phase
from arcray.node.models.registry import Copy, ModelRegistry
from arcray.testing.clock import FakeClock

if TYPE_CHECKING:
    from arcray.node.models.link import Answer, ModelLink
    from arcray.node.work import End

ECHO = ModelId("echo")


class PaperLink:
    """A link that keeps what is sent."""

    def __init__(self) -> None:
        self.pid = 7
        self.sent: list[int] = []
        self.cancelled: list[int] = []

    def on_answers(self, answers: list[Answer]) -> None:
        raise AssertionError(f"the registry listens, {answers} would be lost")

    def send_request(self, seq: int, data: bytes | None, context_tokens: int) -> None:
        _ = data, context_tokens
        self.sent.append(seq)

    def send_cancel(self, seq: int) -> None:
        self.cancelled.append(seq)


class Desk:
    """A registry with one copy, and what it told."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.link = PaperLink()
        self.began: list[str] = []
        self.ends: list[tuple[str, Phase]] = []
        self.registry = ModelRegistry(
            clock=self.clock, changed=lambda: None, began=lambda key, _: self.began.append(key), ended=self._on_end
        )
        link = cast("ModelLink", self.link)
        self.registry.add(Copy(model_id=ECHO, workload_id=WorkloadId("m"), slots=2, link=link, hung=lambda: None))

    def _on_end(self, workload_id: WorkloadId, attempt: int, end: End) -> None:
        _ = attempt
        self.ends.append((workload_id, end.phase))

    def ask(self, name: str, timeout_s: float = 30.0, attempt: int = 1) -> None:
        self.registry.run(
            RunInference(
                workload_id=WorkloadId(name),
                attempt=attempt,
                model_id=ECHO,
                input=None,
                context_window_tokens=1,
                timeout_s=timeout_s,
            )
        )

    async def later(self, seconds: float) -> None:
        sweep = asyncio.ensure_future(self.registry.sweep_forever())
        try:
            await self.clock.advance(seconds)
        finally:
            sweep.cancel()
            await asyncio.gather(sweep, return_exceptions=True)


async def test_a_request_that_takes_long_is_told_of_once() -> None:
    desk = Desk()
    desk.ask("slow")
    await desk.later(0.2)
    await desk.later(0.2)
    assert desk.began == ["slow"]


async def test_a_request_that_is_answered_at_once_is_not_told_of() -> None:
    desk = Desk()
    desk.ask("quick")
    desk.link.on_answers([(desk.link.sent[0], True, b"1", 0.1)])
    await desk.later(0.2)
    assert (desk.began, desk.ends) == ([], [("quick", Phase.SUCCEEDED)])


async def test_requests_are_told_of_in_the_order_they_came() -> None:
    desk = Desk()
    desk.ask("first")
    await desk.later(0.2)
    desk.ask("second")
    await desk.later(0.2)
    assert desk.began == ["first", "second"]


async def test_a_request_whose_time_is_up_is_given_up() -> None:
    desk = Desk()
    desk.ask("late", timeout_s=1.0)
    await desk.later(1.1)
    assert (desk.ends, desk.link.cancelled) == ([("late", Phase.FAILED)], desk.link.sent)


async def test_two_attempts_of_one_request_end_each_for_itself() -> None:
    """A scheduler that was killed has the request come again while its first attempt still runs here."""
    desk = Desk()
    desk.ask("again", attempt=1)
    desk.ask("again", attempt=1001)
    assert [(work.workload_id, work.attempt) for work in desk.registry.requests] == [("again", 1), ("again", 1001)]
    desk.link.on_answers([(desk.link.sent[0], True, b"1", 0.1)])
    assert desk.registry.stop(WorkloadId("again"), 1001)
    assert (desk.ends, len(desk.registry)) == ([("again", Phase.SUCCEEDED), ("again", Phase.STOPPED)], 0)
