"""The connections of a process, without a socket: what is decided for all of them."""

from __future__ import annotations

from typing import Any, Final

from arcray.claw_proto.frames import Form, write_to_gateway
from arcray.claw_settings import ClawSettings
from arcray.facades.claw.link import Link
from arcray.facades.claw.links import NodeLinks
from arcray.testing.clock import FakeClock
from arcray.wire.attachments import Attachments
from arcray.wire.identity import LOCAL
from tests.conformance.claw.claw_rig import registration

NOBODY: Final[Any] = None
"""The cluster and its events, which none of this asks."""


class Door:
    """A process that takes so many registrations of an address a minute."""

    def __init__(self, per_minute: int) -> None:
        self.clock = FakeClock()
        settings = ClawSettings(registrations_per_minute=per_minute)
        self.links = NodeLinks(NOBODY, Attachments(), NOBODY, self.clock, settings)

    async def opened(self, address: str = "10.0.0.1", *, times: int = 1) -> Link:
        """A connection over which a node has registered so often."""
        link = self.links.open(LOCAL, address)
        for _ in range(times):
            await link.take(write_to_gateway(registration(), Form.INTERNAL))
        return link

    async def admits(self, address: str = "10.0.0.1", *, times: int = 1) -> bool:
        closed = (await self.opened(address, times=times)).closed
        assert closed is None or closed.code == 1013
        return closed is None


async def test_registrations_of_one_address_are_bounded_and_others_come_in() -> None:
    door = Door(per_minute=3)
    assert [await door.admits() for _ in range(5)] == [True] * 3 + [False] * 2
    assert await door.admits("10.0.0.2")
    await door.clock.advance(19.0)
    assert not await door.admits()
    await door.clock.advance(1.0)
    assert [await door.admits(), await door.admits()] == [True, False]
    await door.clock.advance(60.0)
    assert [await door.admits() for _ in range(4)] == [True] * 3 + [False]


async def test_registrations_over_one_connection_count_as_well() -> None:
    door = Door(per_minute=3)
    assert await door.admits(times=3)
    assert not await door.admits()
    assert not await Door(per_minute=3).admits(times=4)


async def test_there_need_be_no_limit() -> None:
    assert await Door(per_minute=0).admits(times=100)


async def test_a_storm_is_logged_once_a_minute(caplog: Any) -> None:
    door = Door(per_minute=1)
    for _ in range(10):
        await door.opened()
    assert [record.message for record in caplog.records] == ["too many registrations"]
