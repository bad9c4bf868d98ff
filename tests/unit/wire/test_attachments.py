"""Who takes the orders of machines that joined through this process."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from arcray.core.errors import UnavailableError
from arcray.core.ids import WorkloadId
from arcray.core.orders import Order, StopAttempt
from arcray.testing.builders import node_id
from arcray.wire.attachments import Attachments

N1, N2 = node_id(1), node_id(2)
ORDER = StopAttempt(workload_id=WorkloadId("w"), attempt=1, grace_s=1.0)


class Taker:
    def __init__(self) -> None:
        self.taken: list[tuple[int, Order]] = []

    async def deliver(self, epoch: int, orders: Sequence[Order]) -> None:
        self.taken += [(epoch, order) for order in orders]


async def test_orders_go_to_the_machine_of_their_node() -> None:
    attachments, first, second = Attachments(), Taker(), Taker()
    attachments.add(N1, first)
    attachments.add(N2, second)
    await attachments.take(N2, 7, [ORDER])
    assert (first.taken, second.taken) == ([], [(7, ORDER)])


async def test_a_machine_that_has_gone_is_unavailable() -> None:
    attachments = Attachments()
    attachments.add(N1, Taker())
    attachments.remove(N1)
    attachments.remove(N1)
    with pytest.raises(UnavailableError, match=N1):
        await attachments.take(N1, 1, [ORDER])


async def test_the_good_bye_of_an_older_attachment_leaves_the_newer_one() -> None:
    attachments, older, newer = Attachments(), Taker(), Taker()
    attachments.add(N1, older)
    attachments.add(N1, newer)
    attachments.remove(N1, older)
    await attachments.take(N1, 2, [ORDER])
    assert newer.taken == [(2, ORDER)]
    attachments.remove(N1, newer)
    assert len(attachments) == 0
