"""No door is open: every route and every gRPC method that is served, with every sort of key and with none.

What is walked is what the framework has, so a route that is added tomorrow is walked tomorrow; one that states no scope
fails here until it does, or is listed as public.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import grpc
import grpc.aio
import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from google.protobuf import descriptor_pool
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp

from arcray.config import AuthSettings, GatewaySettings, Settings
from arcray.core import commands as cmd
from arcray.core.errors import UnavailableError
from arcray.core.ids import AccountId, KeyId
from arcray.core.keys import Scope
from arcray.core.workload import Origin
from arcray.gateway.asgi import Probes, compose
from arcray.gateway.express import raw_endpoints
from arcray.gateway.rpc import RpcListener
from arcray.hivemind_settings import HivemindSettings
from arcray.testing.builders import a_key, a_workload, node_id
from arcray.testing.clock import FakeClock
from arcray.testing.plane import InProcessPlane, in_process_plane
from arcray.wire.access import Door, scope_of, scopes_of
from arcray.wire.event_hub import EventHub
from arcray.wire.facade import FacadeContext, FacadeEndpoints, RegisterServices, load_facades
from arcray.wire.identity import Authenticator
from arcray.wire.system import RandomIds

PUBLIC: Final = frozenset(
    {"/healthz", "/readyz", "/version", "/openapi.json", "/docs", "/redoc"}
    | {f"/docs/{asset}" for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js", "favicon.png")}
)
"""What everyone may ask: probes, and the description of the API."""

GRPC_PUBLIC: Final = frozenset({"/nodepool.UserService/Register", "/nodepool.UserService/Login"})
"""How a token is come by; health and reflection are the gateway's own."""

SCOPES: Final = tuple(Scope)
NOBODY: Final = ("none", "wrong", "expired", "revoked", "settings-wrong-case")
ANA, BO = AccountId("ana"), AccountId("bo")
AUTH: Final = AuthSettings(mode="keys", keys={"root": "k-root"}, failures_per_minute=10**6)


@dataclass(frozen=True, slots=True)
class Composed:
    """The application as a replica serves it.

    Args:
        keys: a key by what is said of it: its scope, or why it opens nothing.
    """

    app: ASGIApp
    framework: FastAPI
    endpoints: list[FacadeEndpoints]
    client: httpx.AsyncClient
    cluster: InProcessPlane
    keys: dict[str, str]

    def headers(self, who: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[who]}"} if self.keys[who] else {}


@asynccontextmanager
async def composed() -> AsyncIterator[Composed]:
    clock = FakeClock()
    async with in_process_plane(clock=clock) as cluster:
        events = EventHub(cluster.plane, clock)
        context = FacadeContext(
            plane=cluster.plane,
            settings=Settings(auth=AUTH, hivemind=HivemindSettings(token_key="k" * 32)),
            clock=clock,
            ids=RandomIds(),
            authenticator=Authenticator(AUTH, cluster.plane, events, clock),
            events=events,
            attachments=cluster.driver,
        )
        facades = load_facades(context.settings.facades)
        endpoints = [facade.open(context) for facade in facades]
        app = compose(
            facades,
            endpoints,
            Probes(version="0", ready=not_ready, metrics=Door(context.authenticator)(Scope.READ, no_metrics)),
            max_body_bytes=10_000,
        )
        framework: Any = app
        while not isinstance(framework, FastAPI):
            framework = framework._app
        parts = [events.run(), context.authenticator.run(), *(each.run() for each in endpoints if each.run)]
        tasks = [asyncio.create_task(part) for part in parts]
        keys = await issued(cluster, clock)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            yield Composed(app, framework, endpoints, client, cluster, keys)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def no_metrics() -> Response:
    return PlainTextResponse("")


async def not_ready() -> None:
    raise UnavailableError


async def issued(cluster: InProcessPlane, clock: FakeClock) -> dict[str, str]:
    """Returns a key of ``ana`` for every scope, and keys that are worth nothing."""
    for account in (ANA, BO):
        await cluster.ask(cmd.OpenAccount(account_id=account))
    keys = {"none": "", "wrong": "secret-0", "settings-wrong-case": "K-ROOT"}
    for number, scope in enumerate(SCOPES, 1):
        node = node_id(1) if scope is Scope.NODE else None
        await cluster.ask(cmd.IssueKey(key=a_key(number, scope=scope, node_id=node)))
        keys[scope.value] = f"secret-{number}"
    soon = clock.now() + timedelta(seconds=1)
    await cluster.ask(cmd.IssueKey(key=a_key(90, scope=Scope.ADMIN, expires_at=soon)))
    await cluster.ask(cmd.IssueKey(key=a_key(91, scope=Scope.ADMIN)))
    await cluster.ask(cmd.RevokeKey(key_id=a_key(91).id))
    await clock.advance(1)
    return keys | {"expired": "secret-90", "revoked": "secret-91"}


# -- walking ---------------------------------------------------------------------------------------------------------


def walk(routes: list[BaseRoute]) -> Iterator[tuple[str, str, object]]:
    """Yields method, path and endpoint of every route, whatever it is nested in; "WS" is a WebSocket."""
    for route in routes:
        # What the framework makes of an included router has no public name, and keeps the router.
        included = getattr(route, "original_router", None)
        if isinstance(route, WebSocketRoute):
            yield "WS", route.path, route.endpoint
        elif isinstance(route, (APIRoute, Route)):
            for method in sorted(route.methods or ()):
                yield method, route.path, route.endpoint
        elif isinstance(included, APIRouter):
            yield from walk(included.routes)
        else:
            pytest.fail(f"a sort of route that this test does not know: {route!r}")


def guarded(routes: list[BaseRoute]) -> list[tuple[str, str, object]]:
    return [found for found in walk(routes) if found[1] not in PUBLIC]


def filled(path: str, identity: str) -> str:
    return re.sub(r"\{[^}]*\}", identity, path)


async def asked(found: Composed, method: str, path: str, who: str) -> int:
    """Returns the status of an empty request; 101 is an open WebSocket."""
    if method == "WS":
        return await opened(found.app, path, found.headers(who))
    response = await found.client.request(method, path, headers=found.headers(who))
    return response.status_code


async def opened(app: ASGIApp, path: str, headers: dict[str, str]) -> int:
    scope = {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "ws",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("arcray", 80),
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }
    arriving: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    arriving.put_nowait({"type": "websocket.connect"})
    sent: asyncio.Queue[Any] = asyncio.Queue()
    serving = asyncio.ensure_future(app(scope, arriving.get, sent.put))
    try:
        async with asyncio.timeout(5):
            first = await sent.get()
            arriving.put_nowait({"type": "websocket.disconnect", "code": 1000})
            await serving
    finally:
        serving.cancel()
    return 101 if first["type"] == "websocket.accept" else int(first["status"])


async def test_every_route_states_the_scope_that_it_needs() -> None:
    async with composed() as found:
        routes = list(walk(found.framework.routes))
        assert len(routes) > 30
        assert [
            (method, path) for method, path, endpoint in routes if path not in PUBLIC and not scope_of(endpoint)
        ] == []
        assert {path for _, path, _ in routes} >= PUBLIC - {"/docs/oauth2-redirect"}


async def test_the_express_lane_goes_through_the_same_doors() -> None:
    async with composed() as found:
        routers = [each.router for each in found.endpoints if each.router is not None]
        fast = {key: endpoint for router in routers for key, endpoint in raw_endpoints(router.routes).items()}
        assert fast
        assert all(scope_of(endpoint) for endpoint in fast.values())


@asynccontextmanager
async def called(found: Composed) -> AsyncIterator[tuple[Any, list[str]]]:
    """Yields a channel to what is served by gRPC, and the paths of all methods that its contracts have."""
    names: list[str] = []

    def noting(register: RegisterServices) -> RegisterServices:
        def registered(server: grpc.aio.Server) -> Sequence[str]:
            added = register(server)
            names.extend(added)
            return added

        return registered

    services = [noting(each.grpc) for each in found.endpoints if each.grpc is not None]
    listener = RpcListener(services, GatewaySettings(drain_s=0.5), 0)
    await listener.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{listener.port}") as channel:
            contracts = [descriptor_pool.Default().FindServiceByName(name) for name in names]
            yield channel, [f"/{each.full_name}/{method}" for each in contracts for method in each.methods_by_name]
    finally:
        await listener.drain()


async def grpc_status(channel: Any, path: str, headers: dict[str, str]) -> grpc.StatusCode:
    """Returns the status of an empty request."""
    metadata = tuple((key.lower(), value) for key, value in headers.items())
    call = channel.unary_unary(path)(b"", metadata=metadata, timeout=10)
    status: grpc.StatusCode = await call.code()
    return status


async def test_no_grpc_method_is_open_to_who_has_no_token_of_its_own_protocol() -> None:
    """API keys are none, whatever they open elsewhere."""
    async with composed() as found, called(found) as (channel, paths):
        assert len(paths) >= 23
        shown = [found.headers(who) for who in (*NOBODY, *(scope.value for scope in SCOPES))]
        for path in paths:
            open_to_all = path in GRPC_PUBLIC
            statuses = {await grpc_status(channel, path, each) for each in (shown if not open_to_all else shown[1:])}
            assert statuses <= {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}, path


async def test_who_shows_nothing_of_worth_is_refused_everywhere() -> None:
    async with composed() as found:
        for method, path, _ in guarded(found.framework.routes):
            for who in NOBODY:
                status = await asked(found, method, filled(path, str(UUID(int=1))), who)
                assert status == 401, (method, path, who)


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_key_opens_what_its_scope_allows_and_nothing_else(scope: Scope) -> None:
    async with composed() as found:
        for method, path, endpoint in guarded(found.framework.routes):
            needed = scope_of(endpoint)
            assert needed is not None
            status = await asked(found, method, filled(path, str(UUID(int=1))), scope.value)
            assert status != 401, (method, path)
            opens = any(scope.allows(each) for each in scopes_of(endpoint))
            assert (status != 403) == opens, (method, path, status)


@pytest.mark.parametrize("scope", [Scope.SUBMIT, Scope.READ])
async def test_what_belongs_to_another_account_is_not_there(scope: Scope) -> None:
    """``ana`` asks for everything that is named by an id, with the ids of what ``bo`` has."""
    async with composed() as found:
        spec = a_workload(1, origin=Origin(facade="rest", account=BO))
        await found.cluster.ask(cmd.SubmitWorkload(spec=spec))
        await found.cluster.ask(cmd.IssueKey(key=a_key(50, account=BO)))
        theirs = {"workloads": spec.id, "accounts": BO, "keys": KeyId(a_key(50).id)}
        walked = 0
        for method, path, endpoint in guarded(found.framework.routes):
            noun = path.split("/")[3] if path.startswith("/api/v1/") else ""
            needed = scope_of(endpoint)
            if noun not in theirs or "{id}" not in path or needed is None or not scope.allows(needed):
                continue
            body = {"to": "ana", "credits": 1} if path.endswith("/transfer") else None
            response = await found.client.request(
                method, filled(path, theirs[noun]), headers=found.headers(scope.value), json=body
            )
            assert response.status_code == 404, (method, path, response.text)
            walked += 1
        assert walked >= 8
        for noun, member in (("workloads", "workloads"), ("keys", "keys"), ("accounts", "accounts")):
            listed = await found.client.get(f"/api/v1/{noun}", headers=found.headers(scope.value))
            assert theirs[noun] not in {each["id"] for each in listed.json()[member]}
        still_there = await found.client.get("/api/v1/keys", headers=found.headers("admin"))
        assert a_key(50).id in {each["id"] for each in still_there.json()["keys"]}
