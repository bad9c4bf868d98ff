"""Open mode takes everyone; keys mode takes a right key from either place, and asks for an issued one once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from arcray.config import AuthSettings
from arcray.core.commands import Command, ReportKeyUse
from arcray.core.errors import (
    ArcrayError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)
from arcray.core.events import Event, KeyIssued, KeyRevoked, Topic
from arcray.core.keys import ApiKey, KeyView, Scope
from arcray.core.ports import BlobStore, EventBatch
from arcray.core.queries import FindKey, Query
from arcray.testing.builders import T0, a_key, node_id
from arcray.testing.clock import FakeClock
from arcray.wire.event_hub import EventHub
from arcray.wire.identity import LOCAL, Authenticator, check_node

KEYS = AuthSettings(mode="keys", keys={"ana": "k-ana", "bo": "k-bo"}, scopes={"ana": Scope.ADMIN})


class KeyPlane:
    """A plane that knows keys, and counts who asks for them."""

    def __init__(self) -> None:
        self.keys: dict[str, ApiKey] = {}
        self.asked: list[str] = []
        self.used: list[ReportKeyUse] = []
        self.answer_when = asyncio.Event()
        self.answer_when.set()
        self._batches: asyncio.Queue[EventBatch | ArcrayError] = asyncio.Queue()

    @property
    def blobs(self) -> BlobStore:
        raise AssertionError("nobody needs them here")

    async def submit(self, commands: Sequence[Command]) -> list[Any]:
        self.used += [command for command in commands if isinstance(command, ReportKeyUse)]
        return [None for _ in commands]

    async def query(self, query: Query) -> Any:
        assert isinstance(query, FindKey)
        self.asked.append(query.digest)
        found = self.keys.get(query.digest)
        await self.answer_when.wait()
        if found is None:
            raise NotFoundError
        return KeyView(key=found, last_used=None)

    async def events(self, topics: frozenset[Topic]) -> AsyncIterator[EventBatch]:
        assert topics == {Topic.KEYS}
        yield EventBatch(events=())
        while True:
            batch = await self._batches.get()
            if isinstance(batch, ArcrayError):
                raise batch
            yield batch

    def issue(self, key: ApiKey) -> None:
        self.keys[key.digest] = key
        self.tell(KeyIssued(key=key, at=T0))

    def revoke(self, key: ApiKey) -> None:
        del self.keys[key.digest]
        self.tell(KeyRevoked(key_id=key.id, digest=key.digest, at=T0))

    def tell(self, *events: Event, gap: bool = False) -> None:
        self._batches.put_nowait(EventBatch(events=events, gap=gap))

    def break_stream(self) -> None:
        self._batches.put_nowait(UnavailableError())


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def plane() -> KeyPlane:
    return KeyPlane()


def authenticator(
    settings: AuthSettings, plane: KeyPlane | None = None, clock: FakeClock | None = None
) -> Authenticator:
    plane, clock = plane or KeyPlane(), clock or FakeClock()
    return Authenticator(settings, plane, EventHub(plane, clock), clock)


@asynccontextmanager
async def following(settings: AuthSettings, plane: KeyPlane, clock: FakeClock) -> AsyncIterator[Authenticator]:
    """Runs an authenticator whose stream stands."""
    hub = EventHub(plane, clock)
    found = Authenticator(settings, plane, hub, clock)
    tasks = [asyncio.create_task(hub.run()), asyncio.create_task(found.run())]
    await settle()
    yield found
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def connection(authorization: str = "", query: str = "", address: str = "10.0.0.1") -> HTTPConnection:
    headers = [(b"authorization", authorization.encode("latin-1"))] if authorization else []
    scope = {"type": "http", "method": "GET", "headers": headers, "query_string": query.encode()}
    return HTTPConnection({**scope, "client": (address, 1)})


def with_secret(number: int = 1, address: str = "10.0.0.1") -> HTTPConnection:
    return connection(f"Bearer secret-{number}", address=address)


# -- settings --------------------------------------------------------------------------------------------------------


async def test_open_mode_takes_everyone_as_local() -> None:
    assert authenticator(AuthSettings()).recognise(connection()) is LOCAL
    assert LOCAL.sees is None


@pytest.mark.parametrize(
    ("authorization", "query"),
    [("Bearer k-bo", ""), ("bearer  k-bo ", ""), ("", "apiKey=k-bo"), ("Basic eDp5", "apiKey=k-bo")],
)
async def test_right_key_is_taken_from_either_place(authorization: str, query: str) -> None:
    found = authenticator(KEYS).recognise(connection(authorization, query))
    assert found is not None
    assert (found.account, found.scope, found.sees) == ("bo", Scope.SUBMIT, "bo")


async def test_a_key_of_the_settings_has_the_scope_that_they_give_it() -> None:
    found = authenticator(KEYS).recognise(connection("Bearer k-ana"))
    assert found is not None
    assert (found.scope, found.sees) == (Scope.ADMIN, None)


@pytest.mark.parametrize(
    ("authorization", "query"),
    [
        ("", ""),
        ("Bearer", ""),
        ("Bearer k-b", ""),
        ("", "apikey=k-bo"),
        ("", "apiKey="),
        ("Bearer \xff", "apiKey=k-bo"),
    ],
)
async def test_missing_or_wrong_key_is_refused(authorization: str, query: str) -> None:
    with pytest.raises(UnauthenticatedError):
        await authenticator(KEYS).identify(connection(authorization, query))


def asked_from(origin: str, method: str = "POST") -> HTTPConnection:
    headers = [(b"host", b"127.0.0.1:8080"), (b"origin", origin.encode())]
    return HTTPConnection({"type": "http", "method": method, "headers": headers, "query_string": b""})


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "127.0.0.1:8080"])
async def test_open_mode_takes_no_changes_from_pages_of_other_sites(origin: str) -> None:
    for method in ("POST", "DELETE"):
        with pytest.raises(PermissionDeniedError) as caught:
            await authenticator(AuthSettings()).identify(asked_from(origin, method))
        assert caught.value.field == "Origin"


async def test_open_mode_takes_its_own_pages_and_lets_others_read() -> None:
    found = authenticator(AuthSettings())
    assert found.recognise(asked_from("http://127.0.0.1:8080")) is LOCAL
    assert found.recognise(asked_from("http://evil.example", "GET")) is LOCAL


# -- issued keys -----------------------------------------------------------------------------------------------------


async def test_an_issued_key_is_asked_for_once(plane: KeyPlane, clock: FakeClock) -> None:
    plane.keys[a_key().digest] = a_key()
    async with following(KEYS, plane, clock) as found:
        assert found.recognise(with_secret()) is None
        first = await found.identify(with_secret())
        assert found.recognise(with_secret()) == first
        assert (first.account, first.scope, first.key_id) == ("ana", Scope.SUBMIT, a_key().id)
    assert plane.asked == [a_key().digest]


async def test_a_key_of_another_wire_is_known_as_well(plane: KeyPlane, clock: FakeClock) -> None:
    plane.keys[a_key().digest] = a_key()
    async with following(KEYS, plane, clock) as found:
        assert (await found.check("secret-1")).account == "ana"
        assert (await found.check("k-bo")).account == "bo"


async def test_a_revoked_key_is_forgotten(plane: KeyPlane, clock: FakeClock) -> None:
    plane.keys[a_key().digest] = a_key()
    async with following(KEYS, plane, clock) as found:
        await found.identify(with_secret())
        plane.revoke(a_key())
        await settle()
        with pytest.raises(UnauthenticatedError):
            await found.identify(with_secret())


async def test_a_revocation_that_comes_while_the_key_is_asked_for_is_not_lost(
    plane: KeyPlane, clock: FakeClock
) -> None:
    plane.keys[a_key().digest] = a_key()
    plane.answer_when.clear()
    async with following(KEYS, plane, clock) as found:
        asking = asyncio.create_task(found.identify(with_secret()))
        await settle()
        plane.revoke(a_key())
        await settle()
        plane.answer_when.set()
        await asking
        assert found.recognise(with_secret()) is None


async def test_a_gap_drops_everything(plane: KeyPlane, clock: FakeClock) -> None:
    plane.keys[a_key().digest] = a_key()
    async with following(KEYS, plane, clock) as found:
        await found.identify(with_secret())
        plane.tell(gap=True)
        await settle()
        assert found.recognise(with_secret()) is None


async def test_nothing_is_remembered_while_no_stream_stands(plane: KeyPlane, clock: FakeClock) -> None:
    plane.keys[a_key().digest] = a_key()
    found = authenticator(KEYS, plane, clock)
    for _ in range(2):
        await found.identify(with_secret())
    assert len(plane.asked) == 2


async def test_a_remembered_key_is_asked_for_again_after_its_term(plane: KeyPlane, clock: FakeClock) -> None:
    plane.keys[a_key().digest] = a_key()
    async with following(KEYS, plane, clock) as found:
        await found.identify(with_secret())
        await clock.advance(KEYS.key_cache_s - 1)
        assert found.recognise(with_secret()) is not None
        await clock.advance(1)
        assert found.recognise(with_secret()) is None


async def test_expiry_is_looked_at_each_time(plane: KeyPlane, clock: FakeClock) -> None:
    plane.keys[a_key().digest] = replace(a_key(), expires_at=clock.now() + timedelta(seconds=10))
    async with following(KEYS, plane, clock) as found:
        await found.identify(with_secret())
        await clock.advance(10)
        with pytest.raises(UnauthenticatedError, match="expired"):
            found.recognise(with_secret())
    with pytest.raises(UnauthenticatedError, match="expired"):
        await authenticator(KEYS, plane, clock).identify(with_secret())


async def test_a_wrong_key_is_remembered_for_a_moment_and_until_it_is_issued(plane: KeyPlane, clock: FakeClock) -> None:
    async with following(KEYS, plane, clock) as found:
        for _ in range(3):
            with pytest.raises(UnauthenticatedError):
                await found.identify(with_secret())
        assert len(plane.asked) == 1
        plane.issue(a_key())
        await settle()
        assert (await found.identify(with_secret())).account == "ana"


async def test_an_address_that_guesses_is_answered_without_a_look(plane: KeyPlane, clock: FakeClock) -> None:
    plane.keys[a_key().digest] = a_key()
    settings = KEYS.model_copy(update={"failures_per_minute": 3})
    async with following(settings, plane, clock) as found:
        await found.identify(with_secret())
        for number in range(2, 5):
            with pytest.raises(UnauthenticatedError):
                await found.identify(with_secret(number))
        asked = len(plane.asked)
        with pytest.raises(ResourceExhaustedError):
            await found.identify(with_secret(5))
        assert len(plane.asked) == asked
        assert found.recognise(with_secret()) is not None, "a key that is known works on"
        with pytest.raises(UnauthenticatedError):
            await found.identify(with_secret(6, address="10.0.0.2"))
        await clock.advance(60)
        with pytest.raises(UnauthenticatedError):
            await found.identify(with_secret(7))


async def test_keys_that_were_used_are_reported_now_and_then(plane: KeyPlane, clock: FakeClock) -> None:
    plane.keys[a_key().digest] = a_key()
    async with following(KEYS, plane, clock) as found:
        await clock.advance(1)
        await found.identify(with_secret())
        await clock.advance(60)
        await settle()
        (report,) = plane.used
        assert [key_id for key_id, _ in report.used] == [a_key().id]
        await clock.advance(60)
        await settle()
        assert len(plane.used) == 1, "nothing new is not reported"


async def test_a_lost_stream_is_followed_again(plane: KeyPlane, clock: FakeClock) -> None:
    plane.keys[a_key().digest] = a_key()
    async with following(KEYS, plane, clock) as found:
        await found.identify(with_secret())
        plane.break_stream()
        await settle()
        await clock.advance(1)
        await settle()
        assert found.recognise(with_secret()) is None, "what happened meanwhile is not known"
        await found.identify(with_secret())
        assert found.recognise(with_secret()) is not None


def test_a_nodes_key_is_for_that_node() -> None:
    identity = replace(LOCAL, scope=Scope.NODE, node_id=node_id(1))
    check_node(identity, node_id(1))
    check_node(LOCAL, node_id(2))
    with pytest.raises(PermissionDeniedError, match=node_id(1)):
        check_node(identity, node_id(2))


# -- open streams ----------------------------------------------------------------------------------------------------


async def test_an_open_stream_is_worthless_once_its_key_is_revoked(plane: KeyPlane, clock: FakeClock) -> None:
    first, second = a_key(1), a_key(2)
    plane.keys |= {first.digest: first, second.digest: second}
    async with following(KEYS, plane, clock) as found:
        for number in (1, 2):
            await found.identify(with_secret(number))
        ends = [asyncio.create_task(found.worthless(with_secret(number))) for number in (1, 2)]
        await settle()
        plane.revoke(first)
        await settle()
        assert [end.done() for end in ends] == [True, False]
        assert isinstance(ends[0].result(), UnauthenticatedError)
        ends[1].cancel()


async def test_an_open_stream_is_worthless_soon_after_its_key_has_expired(plane: KeyPlane, clock: FakeClock) -> None:
    key = replace(a_key(), expires_at=clock.now() + timedelta(seconds=90))
    plane.keys[key.digest] = key
    async with following(KEYS, plane, clock) as found:
        end = asyncio.create_task(found.worthless(with_secret()))
        await clock.advance(61)
        await settle()
        assert not end.done()
        await clock.advance(60)
        await settle()
        assert "expired" in end.result().message


async def test_a_revocation_that_was_missed_ends_a_stream_with_the_gap(plane: KeyPlane, clock: FakeClock) -> None:
    key = a_key()
    plane.keys[key.digest] = key
    async with following(KEYS, plane, clock) as found:
        end = asyncio.create_task(found.worthless(with_secret()))
        await settle()
        del plane.keys[key.digest]
        plane.tell(gap=True)
        await settle()
        assert end.done()
