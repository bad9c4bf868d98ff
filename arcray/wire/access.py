"""Doors: which scope a route needs, stated where the route is added, and asked for before its endpoint runs.

``door(Scope.SUBMIT, endpoint)`` is the endpoint behind a check; ``scope_of`` tells what it checks, so that a test can
walk every route and find none without a door. The endpoint reads who came in by ``identity_of``. What is meant for
everyone, or asks for credentials in its protocol's own way, says so by ``public``; the gateway serves nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocket

from arcray.core.errors import ArcrayError, PermissionDeniedError
from arcray.core.keys import Scope
from arcray.wire.identity import Authenticator, Identity
from arcray.wire.problem import problem_response
from arcray.wire.streams import answer_until, serve_until

__all__ = ["Door", "deny", "has_door", "identity_of", "public", "scope_of", "scopes_of"]

_IDENTITY: Final = "arcray.identity"
_NEEDED: Final = "__arcray_scope__"
_BESIDE: Final = "__arcray_scopes_beside__"
_E = TypeVar("_E", bound=Callable[..., Any])


class Door:
    """Puts endpoints behind checks by one authenticator."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def __call__(
        self, needed: Scope, endpoint: Callable[..., Awaitable[Response]]
    ) -> Callable[..., Coroutine[Any, Any, Response]]:
        """Returns the endpoint of an HTTP route for those who have a scope. It may do without the request."""
        authenticator = self._authenticator
        signature = inspect.signature(endpoint, eval_str=True)
        takes_request = "request" in signature.parameters

        async def admitted(request: Request, **values: Any) -> Response:
            identity = authenticator.recognise(request)
            if identity is None:
                identity = await authenticator.identify(request)
            _check(identity, needed)
            request.scope[_IDENTITY] = identity
            response = await (endpoint(request, **values) if takes_request else endpoint(**values))
            if isinstance(response, StreamingResponse) and identity.key_id is not None:
                chunks = aiter(response.body_iterator)
                response.body_iterator = answer_until(chunks, partial(authenticator.worthless, request))
            return response

        # What the framework reads of an endpoint: its parameters, and the words for its documentation.
        admitted.__doc__ = f"{inspect.getdoc(endpoint) or ''}\n\nNeeds scope `{needed}`."
        admitted.__name__ = getattr(endpoint, "__name__", "endpoint")
        if not takes_request:
            request = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Request)
            signature = signature.replace(parameters=[request, *signature.parameters.values()])
        setattr(admitted, "__signature__", signature)  # noqa: B010 - mypy knows no such attribute
        setattr(admitted, _NEEDED, needed)
        return admitted

    def socket(
        self, needed: Scope, endpoint: Callable[[WebSocket], Coroutine[Any, Any, None]], *, beside: Sequence[Scope] = ()
    ) -> Callable[[WebSocket], Coroutine[Any, Any, None]]:
        """Returns the endpoint of a WebSocket route for those who have a scope; others are denied before it opens.

        Args:
            beside: scopes that open it too; the endpoint looks at what each may do there.
        """
        authenticator = self._authenticator

        async def admitted(socket: WebSocket) -> None:
            try:
                identity = await authenticator.identify(socket)
                if not any(identity.scope.allows(scope) for scope in beside):
                    _check(identity, needed)
            except ArcrayError as error:
                await deny(socket, error)
                return
            socket.scope[_IDENTITY] = identity
            if identity.key_id is None:
                await endpoint(socket)  # for keys of the settings last as long as this process
            else:
                await serve_until(endpoint(socket), authenticator.worthless(socket), socket)

        setattr(admitted, _NEEDED, needed)
        setattr(admitted, _BESIDE, tuple(beside))
        return admitted


def public(endpoint: _E) -> _E:
    """Returns an endpoint that everyone may reach, marked as meant so."""
    setattr(endpoint, _NEEDED, None)
    return endpoint


def has_door(endpoint: object) -> bool:
    """Whether an endpoint says who may reach it."""
    return hasattr(endpoint, _NEEDED)


def scope_of(endpoint: object) -> Scope | None:
    """Returns the scope that an endpoint is behind; None when it is public, or says nothing."""
    found: Scope | None = getattr(endpoint, _NEEDED, None)
    return found


def scopes_of(endpoint: object) -> tuple[Scope, ...]:
    """Returns every scope that opens an endpoint by itself; none where it is public, or says nothing."""
    needed = scope_of(endpoint)
    beside: tuple[Scope, ...] = getattr(endpoint, _BESIDE, ())
    return () if needed is None else (needed, *beside)


def identity_of(connection: HTTPConnection) -> Identity:
    """Returns who came in by the door."""
    found: Identity = connection.scope[_IDENTITY]
    return found


async def deny(socket: WebSocket, error: ArcrayError) -> None:
    """Refuses a WebSocket that is not open yet: with a problem document, where the server can send one."""
    if "websocket.http.response" in socket.scope.get("extensions", {}):
        await socket.send_denial_response(problem_response(error, instance=socket.url.path))
    else:
        await socket.close()  # the server answers 403; it cannot do better


def _check(identity: Identity, needed: Scope) -> None:
    if not identity.scope.allows(needed):
        raise PermissionDeniedError(f"this needs scope {needed}; the key has {identity.scope}")
