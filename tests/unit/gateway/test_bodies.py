"""How many bytes of bodies are in memory, and whose turn it is. No sockets."""

from __future__ import annotations

import asyncio

import pytest

from arcray.core.errors import DeadlineExceededError, ResourceExhaustedError
from arcray.gateway.bodies import Bodies, Host
from arcray.testing.clock import FakeClock

LARGEST = 100


def bodies_of(places: int, *, waiting: int = 100, timeout_s: float = 60.0, clock: FakeClock | None = None) -> Bodies:
    given = FakeClock() if clock is None else clock
    return Bodies(given, limit_bytes=places * LARGEST, largest_bytes=LARGEST, timeout_s=timeout_s, waiting=waiting)


def at(name: str) -> Host:
    return lambda: name


class Sender:
    """A call whose message comes when the test says so."""

    def __init__(self, bodies: Bodies, host: str = "a") -> None:
        self.reading = False
        self.message: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.call = asyncio.create_task(bodies.receive(self._read, at(host)))

    async def _read(self) -> str:
        self.reading = True
        return await self.message


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def reading(senders: list[Sender]) -> list[bool]:
    await settled()
    return [each.reading for each in senders]


async def test_one_host_leaves_a_quarter_of_the_places_to_others() -> None:
    bodies = bodies_of(4)
    senders = [Sender(bodies) for _ in range(5)]
    assert await reading(senders) == [True, True, True, False, False]
    other = Sender(bodies, "b")
    assert await reading([other]) == [True]
    other.message.set_result("there")
    assert await other.call == "there"
    assert await reading(senders) == [True, True, True, False, False]
    senders[0].message.set_result("there")
    assert await reading(senders) == [True, True, True, True, False]
    for each in senders:
        each.call.cancel()
    await asyncio.gather(*(each.call for each in senders), return_exceptions=True)
    assert (bodies.waiting, bodies.has_room) == (0, True)


async def test_hosts_have_their_turns_one_after_the_other() -> None:
    bodies = bodies_of(1)
    bodies.hold(1)
    senders = [Sender(bodies, host) for host in ("a", "a", "a", "b", "c")]
    await settled()
    bodies.let_go(1)
    order: list[int] = []
    for _ in senders:
        (now,) = [number for number, reads in enumerate(await reading(senders)) if reads and number not in order]
        order.append(now)
        senders[now].message.set_result("")
    assert order == [0, 3, 4, 1, 2]


async def test_more_calls_of_one_host_than_may_wait_are_refused_at_once() -> None:
    bodies = bodies_of(1, waiting=2)
    bodies.hold(1)
    senders = [Sender(bodies) for _ in range(2)]
    await settled()
    with pytest.raises(ResourceExhaustedError, match="2 messages wait from there already"):
        await Sender(bodies).call
    other = Sender(bodies, "b")
    await settled()
    assert bodies.waiting == 3
    for each in (*senders, other):
        each.call.cancel()
    await settled()
    assert bodies.waiting == 0


async def test_a_turn_that_is_given_to_a_call_as_it_ends_is_the_next_ones() -> None:
    bodies = bodies_of(1)
    bodies.hold(1)
    first, second = Sender(bodies), Sender(bodies)
    await settled()
    bodies.let_go(1)  # the turn is the first's, which has not run since
    first.call.cancel()
    assert await reading([first, second]) == [False, True]
    second.message.set_result("there")
    assert await second.call == "there"
    assert bodies.has_room


async def test_who_has_no_turn_in_time_is_refused() -> None:
    bodies = bodies_of(1, timeout_s=0.01)
    bodies.hold(1)
    with pytest.raises(ResourceExhaustedError, match="too many messages come at once"):
        await Sender(bodies).call
    bodies.let_go(1)
    assert (bodies.waiting, bodies.has_room) == (0, True)


async def test_a_message_that_does_not_come_is_given_up_and_others_come() -> None:
    clock = FakeClock()
    bodies = bodies_of(1, clock=clock)
    stuck, next_one = Sender(bodies), Sender(bodies)
    await settled()
    await clock.advance(60.0)
    bodies.give_up_late()
    bodies.give_up_late()
    with pytest.raises(DeadlineExceededError, match="did not come within 60 s"):
        await stuck.call
    assert await reading([next_one]) == [True]
    next_one.message.set_result("there")
    assert await next_one.call == "there"


async def test_a_message_that_is_there_counts_with_its_own_size() -> None:
    bodies = bodies_of(2)
    rooms: list[bool] = []
    for size in (LARGEST, 1):
        bodies.hold(size)
        rooms.append(bodies.has_room)
    bodies.let_go(1)
    rooms.append(bodies.has_room)
    assert rooms == [True, False, True]
