"""Who is calling: turns the credentials of a request into an ``Identity``, or refuses.

Open mode takes everyone as the account ``local``. Keys mode wants ``Authorization: Bearer <key>`` or ``?apiKey=<key>``
(one protocol has no other place for it; ``arcray.logs`` keeps it out of the logs).
Open mode serves no web pages of other sites (``sites``).

Keys of the settings are known here. Issued ones are asked for once and then remembered: a revocation arrives by the
event stream, a gap in the stream drops all, and nothing is remembered while no stream stands. Keys are looked up by
SHA-256, whose bits a caller cannot steer, so that how long it takes tells nothing of a key; a hit is compared in
constant time all the same.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from hashlib import sha256
from typing import Final

from starlette.requests import HTTPConnection

from arcray.config import AuthSettings
from arcray.core.commands import ReportKeyUse
from arcray.core.errors import (
    ArcrayError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)
from arcray.core.events import Event, KeyIssued, KeyRevoked, Topic
from arcray.core.ids import AccountId, KeyId, NodeId
from arcray.core.keys import KeyView, Scope
from arcray.core.ports import Clock, ControlPlane
from arcray.core.queries import FindKey
from arcray.wire.address_limit import AddressLimit
from arcray.wire.event_hub import EventHub
from arcray.wire.headers import header
from arcray.wire.key_cache import Identity, KeyCache, Known
from arcray.wire.sites import OwnSites

__all__ = ["LOCAL", "Authenticator", "Identity", "Scope", "check_node"]

_log = logging.getLogger(__name__)

_TOPICS: Final = frozenset({Topic.KEYS})
_AT_ONCE: Final = 64  # questions about keys under way; others wait for their turn
_REOPEN_S: Final = 1.0
_REPORT_S: Final = 60.0

LOCAL: Final = Identity(account=AccountId("local"), name="local", scope=Scope.ADMIN)
"""Everyone, in open mode."""


class Authenticator:
    """Knows the keys.

    Args:
        settings: mode, keys and limits; only digests of the keys are kept.
        events: tells of keys that were issued and revoked, for as long as ``run`` runs.
    """

    def __init__(self, settings: AuthSettings, plane: ControlPlane, events: EventHub, clock: Clock) -> None:
        self._open = settings.mode == "open"
        self._sites = OwnSites(settings.sites, any_host=settings.insecure)
        self._plane = plane
        self._events = events
        self._clock = clock
        self._settled = {
            _digest(key): Known(
                digest=_digest(key),
                identity=Identity(account=AccountId(name), name=name, scope=settings.scopes.get(name, Scope.SUBMIT)),
                expires_at=None,
                asked_s=0.0,
            )
            for name, key in settings.keys.items()
        }
        self._cache = KeyCache(
            limit=settings.key_cache, term_s=settings.key_cache_s, wrong_term_s=settings.wrong_key_cache_s
        )
        self._failures = AddressLimit(settings.failures_per_minute)
        self._asking = asyncio.Semaphore(_AT_ONCE)
        self._standing = False
        self._term_s = settings.key_cache_s
        self._doubt = asyncio.Event()  # set, and made anew, when open streams are to be looked at

    def recognise(self, connection: HTTPConnection) -> Identity | None:
        """Returns who opened an HTTP request or a WebSocket; None when ``identify`` must ask the scheduler for it.

        Raises:
            UnauthenticatedError: the key is missing, wrong or expired.
            PermissionDeniedError: in open mode, a web page of another site may have caused it.
        """
        if self._open:
            self._sites.check(connection)
            return LOCAL
        return self._known(_presented(connection), connection)

    async def identify(self, connection: HTTPConnection) -> Identity:
        """Returns who opened an HTTP request or a WebSocket.

        Raises:
            UnauthenticatedError, PermissionDeniedError: as ``recognise``.
            ResourceExhaustedError: its address has shown too many wrong keys.
            UnavailableError: the scheduler cannot be asked.
        """
        known = self.recognise(connection)
        return known if known is not None else await self._ask(_presented(connection), _address(connection))

    async def check(self, key: str, address: str = "") -> Identity:
        """Returns whose key this is; for wires that carry it elsewhere than HTTP does.

        Args:
            address: who shows it; wrong keys are counted by it.

        Raises:
            UnauthenticatedError, ResourceExhaustedError, UnavailableError: as ``identify``.
        """
        if self._open:
            return LOCAL
        known = self._known(key)
        return known if known is not None else await self._ask(key, address)

    def forget(self, key_id: KeyId) -> None:
        """Takes that a key was revoked, ahead of the event that says so."""
        self._cache.forget(key_id)
        self._look_again()

    async def worthless(self, connection: HTTPConnection) -> ArcrayError:
        """Returns once what opened a connection opens it no longer, and why; for those that may stay open for days.

        A revocation is heard of at once, the end of a key's time within ``key_cache_s``.
        """
        while True:
            doubts = {asyncio.ensure_future(self._doubt.wait()), asyncio.ensure_future(self._clock.sleep(self._term_s))}
            try:
                await asyncio.wait(doubts, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for doubt in doubts:
                    doubt.cancel()
            try:
                await self.identify(connection)
            except (UnauthenticatedError, PermissionDeniedError) as error:
                return error
            except ArcrayError as error:  # nobody can tell now
                _log.debug("an open stream is not looked at", extra={"code": error.code})

    async def run(self) -> None:
        """Follows what happens to keys, and reports which are used, until it is cancelled."""
        if self._open:
            await asyncio.get_running_loop().create_future()  # there are no keys to follow, until cancelled
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._report())

    # -- knowing -------------------------------------------------------------------------------------------------

    def _known(self, key: str, connection: HTTPConnection | None = None) -> Identity | None:
        if not key:
            raise UnauthenticatedError
        digest = _digest(key)
        now_s = self._clock.monotonic()
        known = self._settled.get(digest) or self._cache.find(digest, now_s)
        if known is None or not hmac.compare_digest(known.digest, digest):
            if self._cache.is_wrong(digest, now_s):
                if connection is not None:
                    self._failures.note(_address(connection), now_s)
                raise UnauthenticatedError
            return None
        now = self._clock.now()
        if known.expires_at is not None and known.expires_at <= now:
            raise UnauthenticatedError("the key has expired; ask for another")
        known.used_at = now
        return known.identity

    async def _ask(self, key: str, address: str) -> Identity:
        if self._failures.exceeded(address, self._clock.monotonic()):
            raise ResourceExhaustedError("too many wrong keys came from this address; wait a minute")
        digest = _digest(key)
        async with self._asking:
            generation = self._cache.generation
            try:
                view: KeyView = await self._plane.query(FindKey(digest=digest.hex()))
            except NotFoundError:
                now_s = self._clock.monotonic()
                self._failures.note(address, now_s)
                if self._standing and generation == self._cache.generation:
                    self._cache.add_wrong(digest, now_s)
                raise UnauthenticatedError from None
        found = view.key
        if found.expires_at is not None and found.expires_at <= self._clock.now():
            raise UnauthenticatedError("the key has expired; ask for another")
        if self._standing and generation == self._cache.generation:
            self._cache.add(digest, found, self._clock.monotonic())
            known = self._known(key)
            assert known is not None
            return known
        # Something was forgotten meanwhile: good for this request, but not to be remembered.
        return Identity(
            account=found.account,
            name=found.name or found.account,
            scope=found.scope,
            node_id=found.node_id,
            key_id=found.id,
        )

    # -- following -----------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            try:
                async with self._events.subscribe(_TOPICS) as events:
                    self._cache.clear()
                    self._standing = True
                    while True:
                        batch = await events.next()
                        if batch.gap:
                            self._cache.clear()
                            self._look_again()
                        for event in batch.events:
                            self._take(event)
            except UnavailableError as error:
                _log.warning("keys are asked for each time", extra={"code": error.code})
            finally:
                self._standing = False
                self._cache.clear()
            await self._clock.sleep(_REOPEN_S)

    def _take(self, event: Event) -> None:
        match event:
            case KeyRevoked():
                self.forget(event.key_id)
            case KeyIssued():
                self._cache.forget_wrong(bytes.fromhex(event.key.digest))
            case _:
                pass

    def _look_again(self) -> None:
        self._doubt.set()
        self._doubt = asyncio.Event()

    async def _report(self) -> None:
        reported = self._clock.now()
        while True:
            await self._clock.sleep(_REPORT_S)
            since, reported = reported, self._clock.now()
            used = self._cache.used_since(since)
            if not used:
                continue
            try:
                await self._plane.submit([ReportKeyUse(used=used)])
            except ArcrayError as error:  # coarse anyhow; the next minute tells the most of it
                _log.debug("use of keys not reported", extra={"code": error.code})


def check_node(identity: Identity, node_id: NodeId) -> None:
    """Refuses a machine that is not the one its key is for.

    Raises:
        PermissionDeniedError: names the node that the key is for.
    """
    if identity.node_id is not None and identity.node_id != node_id:
        raise PermissionDeniedError(f"this key is for node {identity.node_id}", field="nodeId")


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def _presented(connection: HTTPConnection) -> str:
    scheme, _, presented = header(connection, b"authorization").partition(" ")
    return presented.strip() if scheme.lower() == "bearer" else connection.query_params.get("apiKey", "").strip()


def _address(connection: HTTPConnection) -> str:
    return connection.client.host if connection.client is not None else ""
