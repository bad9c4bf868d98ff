"""UserService: registration, login, balance and transfer, against the cluster."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from arcray.core.errors import (
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from arcray.core.ids import AccountId
from arcray.core.ledger import Login
from arcray.core.ports import ControlPlane, Ids
from arcray.core.queries import FindLogin, GetAccount
from arcray.core.queues import QueueReading
from arcray.facades.hivemind.callers import Callers
from arcray.facades.hivemind.calls import Call, Method
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.guesses import Guesses
from arcray.facades.hivemind.passwords import SALT_BYTES, Passwords
from arcray.facades.hivemind.queues import Queue
from arcray.facades.hivemind.refusals import ErrorCode
from arcray.facades.hivemind.tokens import Tokens
from arcray.facades.hivemind.users import (
    balance_answer,
    check_balance_of,
    credentials_of,
    opening_of,
    transfer_of,
    wrong_login,
)
from arcray.wire.asking import ask
from arcray.wire.keyed_turns import KeyedTurns

__all__ = ["UserService"]

_T = TypeVar("_T")

_WAITING: Final = 64  # for a turn to have their password worked on; more are refused


class UserService:
    """Answers for users.

    Args:
        reserved: names that nobody may register under, because they mean something here.
        max_hashing: passwords that are worked on at a time.
        registers: whether who comes may register.
    """

    def __init__(
        self,
        plane: ControlPlane,
        ids: Ids,
        callers: Callers,
        tokens: Tokens,
        *,
        passwords: Passwords,
        guesses: Guesses,
        initial_balance: int,
        reserved: Container[str],
        max_hashing: int,
        registers: bool = True,
    ) -> None:
        self._plane = plane
        self._ids = ids
        self._callers = callers
        self._tokens = tokens
        self._passwords = passwords
        self._guesses = guesses
        self._initial_balance = initial_balance
        self._reserved = reserved
        self._registers = registers
        self._turns = KeyedTurns()
        self._hashing = _Turns(max_hashing, _WAITING)

    def methods(self) -> Mapping[str, Method]:
        """Returns the service's methods by name."""
        return {
            "Login": self.login,
            "Register": self.register,
            "Transfer": self.transfer,
            "GetBalance": self.get_balance,
        }

    def queues(self) -> tuple[QueueReading, ...]:
        """Returns how many passwords are worked on or wait."""
        return (QueueReading(queue=Queue.LOGINS, length=self._hashing.here, limit=self._hashing.most),)

    async def register(self, request: pool.RegisterRequest, call: Call) -> pool.RegisterResponse:
        """Makes a user known."""
        _ = call
        if not self._registers:
            raise PermissionDeniedError("registration is closed here; the operator opens it")
        shown = credentials_of(request)
        salt = secrets.token_bytes(SALT_BYTES)
        with self._hashing.place() as place:
            secret = await self._hashing.take(place, partial(self._passwords.hash, shown.password, salt))
        opening = opening_of(
            shown,
            secret=secret,
            entry_id=self._ids.new(),
            initial_balance=self._initial_balance,
            reserved=self._reserved,
        )
        await ask(self._plane, opening)
        return pool.RegisterResponse(success=True, message=f"registered {shown.username}")

    async def login(self, request: pool.LoginRequest, call: Call) -> pool.LoginResponse:
        """Gives a token to who knows the password."""
        try:
            shown = credentials_of(request)
        except InvalidArgumentError as error:
            call.code = ErrorCode.INVALID_PASSWORD
            raise wrong_login() from error  # nobody has such a name or password
        stored = await self._secret_of(shown.username)
        matches = partial(self._passwords.matches, stored, shown.password)
        # One at a time of a user: a guess that is being looked at is no wrong one yet.
        with self._hashing.place() as place:
            async with self._turns.turn(shown.username):
                self._guesses.take(shown.username)
                right = await self._hashing.take(place, matches)
                if right:
                    self._guesses.right(shown.username)
        if not right:
            call.code = ErrorCode.INVALID_PASSWORD
            raise wrong_login()
        return pool.LoginResponse(success=True, message="logged in", token=self._tokens.issue(shown.username, call.now))

    async def transfer(self, request: pool.TransferRequest, call: Call) -> pool.TransferResponse:
        """Gives credits of the caller to another user."""
        sender = self._callers.user_of_message(call.caller, request.token, call.now)
        await ask(self._plane, transfer_of(request, sender, self._ids.new()))
        return pool.TransferResponse(success=True, message=f"{request.amount} to {request.receiver_username}")

    async def get_balance(self, request: pool.GetBalanceRequest, call: Call) -> pool.GetBalanceResponse:
        """Tells what the caller may spend."""
        user = self._callers.user_of_message(call.caller, request.token, call.now)
        check_balance_of(request, user)
        return balance_answer(await self._plane.query(GetAccount(account_id=user)))

    async def _secret_of(self, user: AccountId) -> str | None:
        try:
            login: Login = await self._plane.query(FindLogin(account_id=user))
        except NotFoundError:
            return None
        return login.secret


@dataclass(slots=True)
class _Place:
    """Of one who has a turn or waits for one.

    Args:
        work: what is done for them.
    """

    work: asyncio.Future[Any] | None = None


class _Turns:
    """So many at a time, and so many more that wait for their turn.

    Attributes:
        here: that have a turn or wait for one.
        most: of those.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self._free = asyncio.Semaphore(at_once)
        self.most = at_once + waiting
        self.here = 0

    @contextmanager
    def place(self) -> Iterator[_Place]:
        """Gives a place for the time of the block, and for as long as its work takes: who leaves has it until then.

        Raises:
            ResourceExhaustedError: there is none.
        """
        if self.here >= self.most:
            raise ResourceExhaustedError("too many logins at once; try again shortly")
        self.here += 1
        place = _Place()
        try:
            yield place
        finally:
            if place.work is None or place.work.done():
                self.here -= 1
            else:
                place.work.add_done_callback(self._leave)

    async def take(self, place: _Place, work: Callable[[], _T]) -> _T:
        """Returns what some work returns that is done in a thread, once there is a turn."""
        await self._free.acquire()
        # A thread goes on whoever waits for it.
        done = place.work = asyncio.get_running_loop().run_in_executor(None, work)
        done.add_done_callback(self._ended)
        return await asyncio.shield(done)

    def _ended(self, _done: asyncio.Future[Any]) -> None:
        self._free.release()

    def _leave(self, _done: asyncio.Future[Any]) -> None:
        self.here -= 1
