from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest

from arcray.client.transport import RetryPolicy, Transport, error_of
from arcray.core.errors import (
    ArcrayError,
    Code,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    NoCandidatesError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)

Handler = Callable[[httpx.Request], httpx.Response]


class Server:
    """Answers with the given steps in turn, and remembers what came."""

    def __init__(self, *steps: httpx.Response | httpx.TransportError) -> None:
        self.steps = list(steps)
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        step = self.steps.pop(0)
        if isinstance(step, httpx.TransportError):
            raise step
        return step

    def transport(self, retry: RetryPolicy | None = None, api_key: str | None = None) -> Transport:
        return Transport(
            "http://pool",
            api_key=api_key,
            retry=retry,
            transport=httpx.MockTransport(self),
            sleep=self.waits.append,
        )


def busy(**headers: str) -> httpx.Response:
    return httpx.Response(503, json={"code": "UNAVAILABLE", "detail": "later"}, headers=headers)


def test_success_is_returned() -> None:
    server = Server(httpx.Response(200, json={"a": 1}))
    assert server.transport().call("GET", "/x").json() == {"a": 1}


def test_key_travels_as_a_bearer_token() -> None:
    server = Server(httpx.Response(200))
    server.transport(api_key="secret").call("GET", "/x")
    assert server.requests[0].headers["Authorization"] == "Bearer secret"


def test_reading_is_repeated_with_growing_waits() -> None:
    server = Server(busy(), httpx.ReadError("cut"), busy(), httpx.Response(200))
    server.transport(RetryPolicy(attempts=4, backoff_s=0.1)).call("GET", "/x")
    assert server.waits == [0.1, 0.2, 0.4]


def test_waits_stop_growing_at_the_longest() -> None:
    policy = RetryPolicy(attempts=20, backoff_s=1.0, max_backoff_s=5.0)
    assert [policy.wait_s(attempt, None) for attempt in (1, 2, 3, 4, 10)] == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_servers_own_time_is_kept() -> None:
    server = Server(busy(**{"Retry-After": "3"}), httpx.Response(200))
    server.transport().call("GET", "/x")
    assert server.waits == [3.0]


def test_server_that_asks_for_too_long_is_not_asked_again() -> None:
    server = Server(busy(**{"Retry-After": "600"}))
    with pytest.raises(UnavailableError, match="later"):
        server.transport().call("GET", "/x")
    assert server.waits == []


def test_post_that_may_have_arrived_is_not_repeated() -> None:
    server = Server(httpx.ReadError("cut"))
    with pytest.raises(UnavailableError, match="lost the connection"):
        server.transport().call("POST", "/x", json={})
    assert len(server.requests) == 1


def test_post_that_cannot_have_arrived_is_repeated() -> None:
    server = Server(httpx.ConnectError("refused"), httpx.Response(201))
    server.transport().call("POST", "/x", json={})
    assert len(server.requests) == 2


def test_post_with_an_idempotency_key_is_repeated_unchanged() -> None:
    server = Server(httpx.ReadError("cut"), httpx.Response(201))
    server.transport().call("POST", "/x", json={"n": 1}, headers={"Idempotency-Key": "k"}, repeatable=True)
    first, second = server.requests
    assert first.content == second.content
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"] == "k"


def test_attempts_end() -> None:
    server = Server(*(httpx.ConnectError("refused") for _ in range(3)))
    with pytest.raises(UnavailableError, match="cannot reach http://pool") as caught:
        server.transport(RetryPolicy(attempts=3)).call("GET", "/x")
    assert isinstance(caught.value.__cause__, httpx.ConnectError)
    assert len(server.requests) == 3


def test_refusal_is_not_repeated() -> None:
    server = Server(httpx.Response(404, json={"code": "NOT_FOUND", "detail": "no workload w"}))
    with pytest.raises(NotFoundError, match="no workload w"):
        server.transport().call("GET", "/x")
    assert len(server.requests) == 1


def test_silence_is_a_missed_deadline() -> None:
    server = Server(httpx.ReadTimeout("slow"))
    with pytest.raises(DeadlineExceededError, match="unknown"):
        server.transport().call("POST", "/x")


@pytest.mark.parametrize("code", list(Code))
def test_every_code_becomes_its_own_error(code: Code) -> None:
    error = error_of(httpx.Response(400, json={"code": code.value, "detail": "why", "field": "demand.gpus"}))
    assert error.code is code
    assert type(error) in ArcrayError.__subclasses__()
    assert (error.message, error.field) == ("why", "demand.gpus")


def test_explanation_survives() -> None:
    error = error_of(httpx.Response(503, json={"code": "NO_CANDIDATES", "detail": "no node", "refused": {"gpu": 3}}))
    assert isinstance(error, NoCandidatesError)
    assert error.details == {"refused": {"gpu": 3}}


ASKED = httpx.Request("GET", "http://127.0.0.1:8080/api/v1/nodes")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidArgumentError),
        (401, UnauthenticatedError),
        (404, InternalError),
        (500, InternalError),
        (502, UnavailableError),
    ],
)
def test_answer_that_is_not_ours_is_judged_by_its_status(status: int, kind: type[ArcrayError]) -> None:
    error = error_of(httpx.Response(status, text="<html>\n  proxy</html>", request=ASKED))
    assert type(error) is kind
    assert error.message == f"{ASKED.url} answers {status}, but not as arcray does: <html> proxy</html>"


def test_refused_stream_raises_its_error() -> None:
    server = Server(httpx.Response(404, json={"code": "NOT_FOUND", "detail": "gone"}))
    with pytest.raises(NotFoundError, match="gone"), server.transport().stream("/logs"):
        pytest.fail("a refused stream must not open")


def test_stream_yields_what_comes() -> None:
    server = Server(httpx.Response(200, text="one\ntwo\n"))
    with server.transport().stream("/logs", params={"follow": "true"}) as response:
        assert list(response.iter_lines()) == ["one", "two"]
    assert server.requests[0].url.query == b"follow=true"


def test_message_does_not_repeat_its_field() -> None:
    body = {"code": "INVALID_ARGUMENT", "detail": "limit: too small", "error": "too small", "field": "limit"}
    assert str(error_of(httpx.Response(400, json=body))) == "limit: too small"


def test_model_that_failed_is_not_asked_again() -> None:
    server = Server(httpx.Response(502, json={"code": "INFERENCE_FAILED", "detail": "ValueError: nope"}))
    with pytest.raises(InternalError, match="nope"):
        server.transport().call("POST", "/x", repeatable=True)
    assert len(server.requests) == 1


def test_answer_with_a_strange_code_is_judged_by_its_status() -> None:
    assert type(error_of(httpx.Response(400, json={"code": ["x"], "detail": 5}, request=ASKED))) is InvalidArgumentError


@pytest.mark.parametrize(
    ("url", "api_key"), [("pool", None), ("http://pool:port", None), ("http://pool", "\u00e9"), ("http://pool", "a\nb")]
)
def test_what_can_be_no_url_or_key_is_wrong_use(url: str, api_key: str | None) -> None:
    with pytest.raises(InvalidArgumentError):
        Transport(url, api_key=api_key)


class Listener:
    """Listens on loopback; answers each connection with an empty object, and remembers the head of what came."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, 0), family=family)
        self.port = self._socket.getsockname()[1]
        self.heads: list[str] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.heads.append(connection.recv(65_536).decode())
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    listener = Listener()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listener.port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield listener
    listener.close()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}", "http://LOCALHOST:{port}", "http://127.9.9.9:{port}", "http://[::1]:{port}"]
)
def test_a_key_for_this_machine_is_shown_to_no_proxy(proxy: Listener, url: str) -> None:
    try:
        server = Listener(
            next(host for host in ("::1", "127.9.9.9", "127.0.0.1") if host in url or host == "127.0.0.1")
        )
    except OSError:
        pytest.skip("this machine lacks that loopback address")
    try:
        transport = Transport(url.format(port=server.port), api_key="secret")
        transport.call("GET", "/x")
        transport.close()
    finally:
        server.close()
    assert "Bearer secret" in server.heads[0]
    assert proxy.heads == []


def test_other_machines_are_reached_through_the_proxy_of_the_environment(proxy: Listener) -> None:
    transport = Transport("http://pool.example:8080")
    transport.call("GET", "/x")
    transport.close()
    assert proxy.heads[0].startswith("GET http://pool.example:8080/x ")


def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "nope://x")
    with pytest.raises(InvalidArgumentError) as refused:
        Transport("http://pool.example")
    assert refused.value.field == "proxy"
    Transport("http://127.0.0.1:8080").close()
