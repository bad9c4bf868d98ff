"""Passwords are worked on a few at a time, and those that wait are counted and bounded."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from arcray.core.errors import ResourceExhaustedError, UnauthenticatedError
from arcray.core.ids import AccountId
from arcray.core.queues import QueueReading
from arcray.facades.hivemind.callers import ANYBODY, Callers
from arcray.facades.hivemind.calls import Call
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.guesses import Guesses
from arcray.facades.hivemind.queues import Queue
from arcray.facades.hivemind.tokens import KEY_BYTES, Tokens
from arcray.facades.hivemind.user_service import UserService
from arcray.testing.builders import T0
from arcray.testing.clock import FakeClock, SequenceIds
from arcray.testing.node_fakes import FakePlane

REQUEST = pool.RegisterRequest(username="ana", password="p")


class Passwords:
    """Hashes once it is let, and counts how many are at it."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.now = self.most = 0
        self._lock = threading.Lock()

    def hash(self, password: str, salt: bytes) -> str:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        assert self.go.wait(10)
        with self._lock:
            self.now -= 1
        return f"{password}{len(salt)}"

    def matches(self, stored: str | None, password: str) -> bool:
        _ = stored
        assert self.hash(password, b"")
        return password == "right"


def service_of(passwords: Passwords, at_once: int) -> UserService:
    tokens = Tokens(b"k" * KEY_BYTES)
    plane: Any = FakePlane()
    hashing: Any = passwords
    return UserService(
        plane,
        SequenceIds(),
        Callers(tokens, strict=False),
        tokens,
        passwords=hashing,
        guesses=Guesses(FakeClock(), at_once=3, per_minute=6),
        initial_balance=0,
        reserved={AccountId("local")},
        max_hashing=at_once,
    )


async def test_so_many_are_worked_on_at_a_time_and_as_many_wait_as_are_allowed() -> None:
    passwords = Passwords()
    service = service_of(passwords, at_once=2)
    calls = [asyncio.create_task(service.register(REQUEST, Call(ANYBODY, T0))) for _ in range(66)]
    await asyncio.sleep(0)
    assert service.queues() == (QueueReading(queue=Queue.LOGINS, length=66, limit=66),)
    with pytest.raises(ResourceExhaustedError, match="too many logins at once"):
        await service.register(REQUEST, Call(ANYBODY, T0))
    passwords.go.set()
    answers = await asyncio.gather(*calls)
    assert all(answer.success for answer in answers)
    assert passwords.most <= 2
    assert service.queues() == (QueueReading(queue=Queue.LOGINS, length=0, limit=66),)


async def test_who_gives_up_waiting_leaves_the_place_to_others() -> None:
    passwords = Passwords()
    service = service_of(passwords, at_once=1)
    calls = [asyncio.create_task(service.register(REQUEST, Call(ANYBODY, T0))) for _ in range(65)]
    await asyncio.sleep(0)
    calls[-1].cancel()
    await asyncio.gather(calls[-1], return_exceptions=True)
    assert service.queues()[0].length == 64
    passwords.go.set()
    await asyncio.gather(*calls[:-1])
    assert service.queues()[0].length == 0


async def test_who_leaves_while_their_password_is_worked_on_keeps_the_turn_until_that_is_done() -> None:
    passwords = Passwords()
    service = service_of(passwords, at_once=1)
    for _ in range(3):
        call = asyncio.create_task(service.register(REQUEST, Call(ANYBODY, T0)))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert service.queues()[0].length == 1
    passwords.go.set()
    assert (await service.register(REQUEST, Call(ANYBODY, T0))).success
    assert passwords.most == 1
    assert service.queues()[0].length == 0


async def test_right_passwords_at_once_are_no_wrong_guesses() -> None:
    passwords = Passwords()
    passwords.go.set()
    service = service_of(passwords, at_once=4)
    request = pool.LoginRequest(username="ana", password="right")
    answers = await asyncio.gather(*(service.login(request, Call(ANYBODY, T0)) for _ in range(8)))
    assert all(answer.success for answer in answers)


async def test_wrong_passwords_at_once_are_no_way_around_the_limit_of_guesses() -> None:
    passwords = Passwords()
    passwords.go.set()
    service = service_of(passwords, at_once=4)
    request = pool.LoginRequest(username="ana", password="wrong")
    errors = await asyncio.gather(
        *(service.login(request, Call(ANYBODY, T0)) for _ in range(8)), return_exceptions=True
    )
    assert [type(error) for error in errors] == [UnauthenticatedError] * 3 + [ResourceExhaustedError] * 5
