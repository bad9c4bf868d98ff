"""Calling a HiveMind pool: one channel, logging in, and what a failure means. No words of any method."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from arcray.core.errors import PermissionDeniedError, UnavailableError, UnsupportedError
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.own_words import Words
from arcray.facades.hivemind.refusals import CODE_KEY, ErrorCode

__all__ = ["Credentials", "PoolCaller", "Told"]

_TIMEOUT_S: Final = 15.0
_S_PER_MIB: Final = 1.0
_MESSAGE_BYTES: Final = 110 << 20
_SERVICES: Final = pool.DESCRIPTOR.services_by_name
_CODES: Final = {str(code.value): code for code in ErrorCode}
_NO_WORDS: Final[Words] = {}
_LOGGED_OUT: Final = grpc.StatusCode.UNAUTHENTICATED
_BUSY: Final = ErrorCode.INSUFFICIENT_RESOURCES  # it works on so many logins at a time


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who this machine's owner is."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Told:
    """What a pool has answered.

    Args:
        code: of the document, from the trailing metadata; SUCCESS where there was none.
    """

    success: bool
    message: str
    code: ErrorCode


class PoolCaller:
    """Calls the methods of a pool.

    Args:
        address: ``host:port``.
        credentials: None shows no token.
    """

    def __init__(self, address: str, credentials: Credentials | None) -> None:
        self._credentials = credentials
        self._token = ""
        self._login = asyncio.Lock()
        self._channel = grpc.aio.insecure_channel(
            address,
            options=(
                ("grpc.max_send_message_length", _MESSAGE_BYTES),
                ("grpc.enable_http_proxy", 0),
                ("grpc.max_reconnect_backoff_ms", 5_000),
            ),
        )

    async def tell(self, method: str, request: Message, words: Words = _NO_WORDS) -> Told:
        """Calls ``Service.Method``, logging in first where that is needed.

        Args:
            words: for a pool of arcray's; others ignore them.

        Raises:
            UnavailableError: there is no answer now.
            PermissionDeniedError: the pool does not let this user in.
            UnsupportedError: the pool has no such method.
        """
        for again in (True, False):
            token = await self._logged_in()
            try:
                told = await self._call(method, request, token, words)
            except grpc.aio.AioRpcError as error:
                if error.code() is not _LOGGED_OUT or not again or self._credentials is None:
                    raise _meaning(error) from error
            else:
                if told.code is not ErrorCode.INVALID_SESSION or not again or self._credentials is None:
                    return told
            if self._token == token:
                self._token = ""  # it has expired, or the pool has another key
        raise AssertionError("the second time has returned or raised")

    async def close(self) -> None:
        """Hangs up."""
        await self._channel.close(None)

    async def _logged_in(self) -> str:
        if self._credentials is None:
            return ""
        async with self._login:
            if not self._token:
                self._token = await self._log_in(self._credentials)
            return self._token

    async def _log_in(self, credentials: Credentials) -> str:
        """Returns a token; a user whom nobody knows is registered.

        Raises:
            UnavailableError: the pool cannot be asked now, or has too many logins to see to.
            PermissionDeniedError: it does not let this user in.
        """
        shown = {"username": credentials.user, "password": credentials.password}
        login, register, besides = "UserService.Login", "UserService.Register", ""
        try:
            answer, trailing = await self._raw(login, pool.LoginRequest(**shown), ())
            if not answer.success and _code(trailing) is not _BUSY:
                registered, trailing = await self._raw(register, pool.RegisterRequest(**shown), ())
                if registered.success:
                    answer, trailing = await self._raw(login, pool.LoginRequest(**shown), ())
                else:
                    besides = f", nor register them: {registered.message}"
        except grpc.aio.AioRpcError as error:
            raise _meaning(error) from error
        if not answer.success and _code(trailing) is _BUSY:
            raise UnavailableError(f"the pool has no time to log {credentials.user} in: {answer.message}", field="user")
        if not answer.success:
            said = f"{answer.message}{besides}"
            raise PermissionDeniedError(f"the pool does not log {credentials.user} in: {said}", field="user")
        token: str = answer.token
        return token

    async def _call(self, method: str, request: Message, token: str, words: Words) -> Told:
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        answer, trailing = await self._raw(method, request, (*metadata, *words.items()))
        return Told(answer.success, answer.message, _code(trailing))

    async def _raw(
        self, method: str, request: Message, metadata: tuple[tuple[str, str], ...]
    ) -> tuple[Any, Sequence[tuple[str, Any]]]:
        service, _, name = method.partition(".")
        response: Any = GetMessageClass(_SERVICES[service].methods_by_name[name].output_type)
        call: Any = self._channel.unary_unary(
            f"/nodepool.{service}/{name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        timeout_s = _TIMEOUT_S + _S_PER_MIB * (request.ByteSize() >> 20)
        under_way = call(request, timeout=timeout_s, metadata=metadata)
        return await under_way, tuple(await under_way.trailing_metadata() or ())


def _code(trailing: Sequence[tuple[str, Any]]) -> ErrorCode:
    codes = [value for key, value in trailing if key == CODE_KEY]
    return _CODES.get(codes[0], ErrorCode.SUCCESS) if codes else ErrorCode.SUCCESS


def _meaning(error: grpc.aio.AioRpcError) -> UnavailableError | PermissionDeniedError | UnsupportedError:
    said = f"the pool answers {error.code().name}: {(error.details() or '')[:512]}"
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return UnsupportedError(said)
    if error.code() in (_LOGGED_OUT, grpc.StatusCode.PERMISSION_DENIED):
        return PermissionDeniedError(said)
    return UnavailableError(said)
