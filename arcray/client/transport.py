"""One HTTP call: sent, repeated where that is safe, its refusal raised as the core's error.

What lives here: which calls are repeated and when, and the way from ``application/problem+json`` to an ``ArcrayError``.
What does not: any path or body of the API, which ``client.py`` knows.

A call is repeated when it provably did not arrive (the connection was refused), or when it may arrive twice without
harm (reading, deleting, and posts with an idempotency key).
"""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx

from arcray.core import errors
from arcray.core.errors import ArcrayError, Code

__all__ = ["RetryPolicy", "Transport", "body_of", "error_of", "new_key"]

_KEY: Final = "Idempotency-Key"
_REPEATABLE: Final = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_PASSING: Final = frozenset({429, 502, 503, 504})  # answers that may be another one a moment later
_MAX_MESSAGE: Final = 500  # characters of an answer that is not ours, quoted in an error


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a failed call is sent again.

    Args:
        attempts: sendings in all, 1 or more.
        backoff_s: wait before the second sending; doubles with each, unless the server names a time.
        max_backoff_s: longest wait; a server that asks for more is taken at its word and not asked again.
    """

    attempts: int = 4
    backoff_s: float = 0.1
    max_backoff_s: float = 5.0

    def wait_s(self, attempt: int, retry_after: str | None) -> float | None:
        """Returns the wait after the given failed attempt (1 is the first), None to give up."""
        if attempt >= self.attempts:
            return None
        if retry_after is None or not retry_after.isdecimal():
            return min(self.max_backoff_s, self.backoff_s * 2.0 ** (attempt - 1))
        return float(retry_after) if float(retry_after) <= self.max_backoff_s else None


def _error_classes() -> dict[Code, type[ArcrayError]]:
    # IllegalTransitionError shares its parent's code, so only direct children count.
    return {kind.code: kind for kind in ArcrayError.__subclasses__()}


_CLASSES: Final = _error_classes()
_MODEL_FAILED: Final = "INFERENCE_FAILED"  # ArcNet's own: the request arrived, and its model failed on it


def _class_of(code: object) -> type[ArcrayError] | None:
    if code == _MODEL_FAILED:
        return errors.InternalError
    return _CLASSES.get(code) if isinstance(code, str) else None  # type: ignore[call-overload]  # a StrEnum's value


_BY_STATUS: Final[Mapping[int, type[ArcrayError]]] = {
    400: errors.InvalidArgumentError,
    401: errors.UnauthenticatedError,
    402: errors.InsufficientCreditsError,
    403: errors.PermissionDeniedError,
    409: errors.ConflictError,
    413: errors.ResourceExhaustedError,
    422: errors.InvalidArgumentError,
    429: errors.ResourceExhaustedError,
    501: errors.UnsupportedError,
    502: errors.UnavailableError,
    503: errors.UnavailableError,
    504: errors.DeadlineExceededError,
}


def new_key() -> str:
    """Returns an ``Idempotency-Key`` that nobody has."""
    return secrets.token_hex(16)


def error_of(response: httpx.Response) -> ArcrayError:
    """Returns the error that a refusing answer stands for.

    The body's ``code`` decides; a body without one is not arcray's, but a proxy's or a stranger's. It is judged by its
    status, of which 404 tells no more than that nobody there knows our paths.
    """
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        body = {}
    kind = _class_of(body.get("code")) or _BY_STATUS.get(response.status_code, errors.InternalError)
    if not isinstance(body.get("code"), str):
        return kind(_not_ours(response))
    # ``detail`` begins with the field, as our errors do by themselves; ``error`` is the message alone.
    said = map(body.get, ("error", "detail", "title"))
    message = next((text for text in said if isinstance(text, str) and text), None)
    known = {"type", "title", "status", "detail", "error", "code", "field", "instance"}
    return kind(message, field=body.get("field"), details={key: body[key] for key in body.keys() - known})


def body_of(response: httpx.Response) -> Mapping[str, Any]:
    """Returns the object that a success carries.

    Raises:
        InternalError: it carries none, so it is not arcray that answered.
    """
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise errors.InternalError(_not_ours(response))
    return body


def _not_ours(response: httpx.Response) -> str:
    said = " ".join(response.text[:_MAX_MESSAGE].split())
    return f"{response.url} answers {response.status_code}, but not as arcray does" + (f": {said}" if said else "")


class Transport:
    """Sends calls to one server.

    Args:
        url: the server's base URL, for example ``http://127.0.0.1:8080``.
        api_key: sent as a bearer token; None sends none.
        timeout_s: longest wait for an answer, unless a call names another.
        transport: replaces the network, for tests.
        sleep: waits between sendings, for tests.

    Raises:
        InvalidArgumentError: the URL, the key or the environment's proxy cannot be one.

    Other machines are reached through the proxy that the environment names, this one never.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retry: RetryPolicy | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        headers = {"Accept": "application/json"}
        if api_key:
            if not (api_key.isascii() and api_key.isprintable()):
                raise errors.InvalidArgumentError("holds characters that a header cannot", field="api_key")
            headers["Authorization"] = f"Bearer {api_key}"
        if not url.startswith(("http://", "https://")):
            raise errors.InvalidArgumentError(f"must begin with http:// or https://, not be {url!r}", field="url")
        try:
            place = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise errors.InvalidArgumentError(f"{url!r} is no URL: {error}", field="url") from error
        if transport is None and _on_this_machine(place.host):
            # The environment's proxy is for other machines: what it would reach is itself, and it would read the key.
            # httpx asks the environment for none once a transport is given.
            transport = httpx.HTTPTransport()
        try:
            self._http = httpx.Client(base_url=place, headers=headers, timeout=timeout_s, transport=transport)
        except (httpx.InvalidURL, ImportError, ValueError) as error:
            raise errors.InvalidArgumentError(f"cannot use the environment's: {error}", field="proxy") from error
        self._retry = retry or RetryPolicy()
        self._sleep = sleep

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, str | int | float] | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = False,
    ) -> httpx.Response:
        """Sends a call and returns its answer, which is a success.

        Args:
            repeatable: the call may arrive twice without harm although its method does not say so.

        Raises:
            InvalidArgumentError: what is to be sent cannot be written as JSON or a header.
            ArcrayError: the server refused; of the class that its code names.
            UnavailableError: the server cannot be reached.
            DeadlineExceededError: it did not answer in time.
        """
        repeatable = repeatable or method in _REPEATABLE
        with _writing():
            request = self._http.build_request(method, path, json=json, params=params, headers=headers)
        attempt = 1
        while True:
            error, wait_s = self._attempt(request, attempt, repeatable=repeatable)
            if isinstance(error, httpx.Response):
                return error
            if wait_s is None:
                raise error
            if isinstance(error, errors.NoCandidatesError) and _KEY in request.headers:
                request.headers[_KEY] = new_key()  # under the old one the rejection stands, and would come back
            self._sleep(wait_s)
            attempt += 1

    def _attempt(
        self, request: httpx.Request, attempt: int, *, repeatable: bool
    ) -> tuple[httpx.Response | ArcrayError, float | None]:
        """Returns the answer, or the error with the time to wait before the next attempt (None: no more)."""
        try:
            response = self._http.send(request)
        except httpx.ConnectError as failure:
            return _unreachable(self._http, failure), self._retry.wait_s(attempt, None)
        except httpx.TransportError as failure:
            return _broken(self._http, failure), self._retry.wait_s(attempt, None) if repeatable else None
        if response.is_success:
            return response, None
        error = error_of(response)
        # A model that failed on a request fails on it again.
        passing = response.status_code in _PASSING and repeatable and not isinstance(error, errors.InternalError)
        return error, self._retry.wait_s(attempt, response.headers.get("Retry-After")) if passing else None

    @contextmanager
    def stream(self, path: str, *, params: Mapping[str, str | int | float] | None = None) -> Iterator[httpx.Response]:
        """Opens an answer that comes bit by bit and may take for ever; never repeated.

        Raises:
            ArcrayError: as ``call`` says.
        """
        # Silence is no failure here: a program may print nothing for hours.
        timeout = httpx.Timeout(self._http.timeout.connect, read=None)
        with _writing():
            request = self._http.build_request("GET", path, params=params, timeout=timeout)
        try:
            with closing(self._http.send(request, stream=True)) as response:
                if not response.is_success:
                    response.read()
                    raise error_of(response)
                yield response
        except httpx.ConnectError as failure:
            raise _unreachable(self._http, failure) from failure
        except httpx.TransportError as failure:
            raise _broken(self._http, failure) from failure

    def follow(self, path: str) -> Iterator[bytes]:
        """Yields an answer that grows as it comes; a lost connection is made anew, and goes on at the byte that is due.

        Raises:
            ArcrayError: as ``call`` says; nothing more came in as many tries as the policy has.
        """
        offset = attempt = 0
        while True:
            try:
                with self.stream(path, params={"follow": "true", "offset": offset}) as response:
                    for chunk in response.iter_bytes():
                        offset, attempt = offset + len(chunk), 0
                        yield chunk
                    return
            except errors.UnavailableError:
                attempt += 1
                wait_s = self._retry.wait_s(attempt, None)
                if wait_s is None:
                    raise
            self._sleep(wait_s)


@contextmanager
def _writing() -> Iterator[None]:
    """Says of what the block fails at that it cannot be sent: it is no JSON, no UTF-8, or too long for a URL."""
    try:
        yield
    except (ValueError, RecursionError, httpx.InvalidURL) as error:
        raise errors.InvalidArgumentError(f"this cannot be sent: {error}") from error


def _on_this_machine(host: str) -> bool:
    """Tells whether a host of a URL is loopback, whatever its spelling."""
    name = host.lower().removesuffix(".")
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _unreachable(client: httpx.Client, failure: httpx.TransportError) -> ArcrayError:
    error = errors.UnavailableError(f"cannot reach {client.base_url}: {failure}")
    error.__cause__ = failure
    return error


def _broken(client: httpx.Client, failure: httpx.TransportError) -> ArcrayError:
    error: ArcrayError
    if isinstance(failure, httpx.TimeoutException):
        error = errors.DeadlineExceededError(f"no answer from {client.base_url} in time; its outcome is unknown")
    else:
        error = errors.UnavailableError(f"lost the connection to {client.base_url}: {failure}")
    error.__cause__ = failure
    return error
