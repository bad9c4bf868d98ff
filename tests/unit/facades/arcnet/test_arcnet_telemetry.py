"""The feed reads events only while somebody listens; sockets are authenticated, bounded and closed by the rules."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.websockets import WebSocket

from arcray.config import ArcnetSettings, AuthSettings, Settings
from arcray.core import events as ev
from arcray.core.commands import Command
from arcray.core.errors import ArcrayError, NotFoundError, UnavailableError
from arcray.core.events import Event, Topic
from arcray.core.keys import Scope
from arcray.core.node import Health, Location, NodeRegistration, NodeView, Telemetry
from arcray.core.ports import BlobStore, EventBatch
from arcray.core.queries import GetWorkload, ListNodes, NodePage, Query
from arcray.core.workload import Phase, Result
from arcray.facades.arcnet.session import TelemetrySession
from arcray.facades.arcnet.telemetry import TelemetryEndpoint, TelemetryFeed
from arcray.testing.builders import T0, a_node, a_workload, an_inference, node_id
from arcray.testing.clock import FakeClock, SequenceIds
from arcray.wire.access import Door
from arcray.wire.attachments import Attachments
from arcray.wire.event_hub import EventHub
from arcray.wire.facade import FacadeContext
from arcray.wire.identity import Authenticator

CAISO = a_node(1, location=Location(geohash="9q9hvu"))
ERCOT = a_node(2, location=Location(geohash="9v6kn8"))


def view(registration: NodeRegistration) -> NodeView:
    return NodeView(
        registration=registration,
        epoch=1,
        health=Health.HEALTHY,
        joined_at=T0,
        last_seen=T0,
        cordoned=False,
        draining=False,
        telemetry=None,
        models=(),
        workloads=0,
        cpu_milli_free=0,
        memory_bytes_free=0,
    )


class OnePlane:
    """A plane with nodes and an event stream that the test feeds."""

    def __init__(self, *nodes: NodeRegistration) -> None:
        self.nodes = nodes
        self.queries: list[Query] = []
        self.away = False
        self.open = 0
        self.asked = asyncio.Event()
        self.closed = asyncio.Event()
        self._batches: asyncio.Queue[EventBatch | ArcrayError] = asyncio.Queue()

    @property
    def blobs(self) -> BlobStore:
        raise NotImplementedError

    async def submit(self, commands: Sequence[Command]) -> list[Any | ArcrayError]:
        raise NotImplementedError

    async def query(self, query: Query) -> Any:
        self.queries.append(query)
        self.asked.set()
        if self.away:
            raise UnavailableError
        match query:
            case ListNodes():
                page = self.nodes[query.offset : query.offset + query.limit]
                return NodePage(nodes=tuple(map(view, page)), total=len(self.nodes))
            case _:
                raise NotFoundError

    async def events(self, topics: frozenset[Topic]) -> AsyncIterator[EventBatch]:
        assert topics, "a stream of nothing"
        self.open += 1
        try:
            yield EventBatch(events=())
            while True:
                item = await self._batches.get()
                if isinstance(item, ArcrayError):
                    raise item
                yield item
        finally:
            self.open -= 1
            self.closed.set()

    def put(self, *events: Event, gap: bool = False) -> None:
        self._batches.put_nowait(EventBatch(events=events, gap=gap))

    def break_stream(self) -> None:
        self._batches.put_nowait(UnavailableError())


def context(plane: OnePlane, **settings: Any) -> FacadeContext:
    clock = FakeClock()
    found = Settings(**settings)
    events = EventHub(plane, clock)
    return FacadeContext(
        plane=plane,
        settings=found,
        clock=clock,
        ids=SequenceIds(),
        authenticator=Authenticator(found.auth, plane, events, clock),
        events=events,
        attachments=Attachments(),
    )


def behind_a_door(found: FacadeContext, feed: TelemetryFeed) -> Callable[[WebSocket], Coroutine[Any, Any, None]]:
    return Door(found.authenticator).socket(Scope.READ, TelemetryEndpoint(found, feed).serve)


@asynccontextmanager
async def running(found: FacadeContext) -> AsyncIterator[TelemetryFeed]:
    feed = TelemetryFeed(found)
    tasks = [asyncio.create_task(found.events.run()), asyncio.create_task(feed.run())]
    try:
        async with asyncio.timeout(5):
            yield feed
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Console:
    """The other end of a WebSocket, without a network."""

    def __init__(self, query: str = "", *, reads: bool = True) -> None:
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "websocket.connect"})
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._reads = reads
        scope: dict[str, Any] = {
            "type": "websocket",
            "path": "/telemetry",
            "headers": [],
            "query_string": query.encode(),
            "extensions": {"websocket.http.response": {}},
        }
        self.socket = WebSocket(scope, self._incoming.get, self._send)

    async def _send(self, message: Any) -> None:
        if message["type"] == "websocket.send" and not self._reads:
            await asyncio.Event().wait()  # its buffers are full and it never drains them
        self.sent.put_nowait(message)

    def say(self, text: str) -> None:
        self._incoming.put_nowait({"type": "websocket.receive", "text": text})

    def leave(self) -> None:
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})

    async def frame(self) -> dict[str, Any]:
        message = await self.sent.get()
        assert message["type"] == "websocket.send", message
        found: dict[str, Any] = json.loads(message["text"])
        return found


def telemetry(registration: NodeRegistration, load: float = 0.5) -> ev.TelemetryUpdated:
    return ev.TelemetryUpdated(node_id=registration.id, telemetry=Telemetry(at=T0, cpu_utilization=load), at=T0)


def drained(registration: NodeRegistration) -> ev.NodeSchedulingChanged:
    return ev.NodeSchedulingChanged(node_id=registration.id, cordoned=True, at=T0)


def shown(text: str) -> Any:
    body = json.loads(text)
    return body["node"]["id"] if body["type"] == "telemetry" else body["type"]


async def test_listener_begins_with_a_snapshot_and_goes_on_with_events() -> None:
    plane = OnePlane(CAISO, ERCOT)
    async with running(context(plane)) as feed, feed.listen(TelemetrySession()) as listener:
        assert [shown(await listener.next()) for _ in range(2)] == [node_id(1), node_id(2)]
        plane.put(telemetry(CAISO))
        assert json.loads(await listener.next())["node"]["gpuUtilization"] == 0.5


async def test_second_listener_costs_no_query_and_no_stream() -> None:
    plane = OnePlane(CAISO)
    async with running(context(plane)) as feed, feed.listen(TelemetrySession()):
        async with feed.listen(TelemetrySession()) as second:
            assert shown(await second.next()) == node_id(1)
        assert (plane.open, len(plane.queries)) == (1, 1)


async def test_stream_closes_with_the_first_event_that_nobody_reads_and_opens_again() -> None:
    plane = OnePlane(CAISO)
    async with running(context(plane)) as feed:
        async with feed.listen(TelemetrySession()):
            pass
        assert plane.open == 1
        plane.put(telemetry(CAISO))
        await plane.closed.wait()
        async with feed.listen(TelemetrySession()) as again:
            await again.next()
            plane.put(telemetry(CAISO, 0.75))
            assert json.loads(await again.next())["node"]["gpuUtilization"] == 0.75


async def test_gap_replaces_waiting_telemetry_by_a_snapshot_and_keeps_facts() -> None:
    plane = OnePlane(CAISO)
    async with running(context(plane)) as feed, feed.listen(TelemetrySession()) as listener:
        await listener.next()
        plane.put(telemetry(CAISO), drained(CAISO))
        plane.put(drained(CAISO), gap=True)
        async with feed.listen(TelemetrySession()) as probe:
            await probe.next()
            plane.nodes = (CAISO, ERCOT)
            while shown(await probe.next()) != node_id(2):
                pass
        found = [shown(await listener.next()) for _ in range(4)]
        assert found == ["system", node_id(1), node_id(2), "system"]


async def test_stream_that_broke_is_told_by_a_new_snapshot() -> None:
    plane = OnePlane(CAISO)
    found = context(plane)
    async with running(found) as feed, feed.listen(TelemetrySession()) as listener:
        await listener.next()
        plane.break_stream()
        await plane.closed.wait()
        assert isinstance(found.clock, FakeClock)
        await found.clock.advance(1)
        assert shown(await listener.next()) == node_id(1)


async def test_scheduler_that_is_away_is_asked_again() -> None:
    plane = OnePlane(CAISO)
    plane.away = True
    found = context(plane)
    async with running(found) as feed:
        joining = asyncio.create_task(first_frame(feed))
        await plane.asked.wait()
        plane.away = False
        assert isinstance(found.clock, FakeClock)
        await found.clock.advance(1)
        assert shown(await joining) == node_id(1)


async def first_frame(feed: TelemetryFeed) -> str:
    async with feed.listen(TelemetrySession()) as listener:
        return await listener.next()


async def test_end_of_an_unknown_request_is_looked_up_and_survives_not_being_found() -> None:
    plane = OnePlane(CAISO)
    spec = a_workload(payload=an_inference())
    end = ev.WorkloadFinished(
        workload_id=spec.id,
        attempt=1,
        phase=Phase.SUCCEEDED,
        message="",
        result=Result(),
        node_id=CAISO.id,
        placed_at=T0,
        started_at=T0,
        at=T0,
    )
    async with running(context(plane)) as feed, feed.listen(TelemetrySession()) as listener:
        await listener.next()
        plane.put(end, drained(CAISO))
        assert shown(await listener.next()) == "system"
        assert GetWorkload(workload_id=spec.id) in plane.queries


async def test_socket_gets_snapshot_events_and_pongs_through_its_filter() -> None:
    plane = OnePlane(CAISO, ERCOT)
    found = context(plane)
    async with running(found) as feed:
        console = Console()
        serving = asyncio.create_task(behind_a_door(found, feed)(console.socket))
        assert (await console.sent.get())["type"] == "websocket.accept"
        assert {(await console.frame())["node"]["id"] for _ in range(2)} == {node_id(1), node_id(2)}
        console.say('{"type":"subscribe","geozones":["CAISO"]}')
        console.say('{"type":"ping"}')
        assert await console.frame() == {"type": "pong", "timestamp": "2026-01-01T00:00:00Z"}
        plane.put(telemetry(ERCOT), telemetry(CAISO), drained(ERCOT))
        assert (await console.frame())["node"]["id"] == node_id(1)
        assert (await console.frame())["type"] == "system"
        console.leave()
        await serving
        assert feed.listeners == 0
        assert console.sent.empty()


async def test_frame_over_the_limit_closes_with_1009() -> None:
    found = context(OnePlane())
    async with running(found) as feed:
        console = Console()
        serving = asyncio.create_task(behind_a_door(found, feed)(console.socket))
        await console.sent.get()
        console.say("x" * 65_537)
        await serving
        assert (await console.sent.get())["code"] == 1009


async def test_socket_that_does_not_read_is_closed_with_1013() -> None:
    plane = OnePlane(CAISO)
    found = context(plane, arcnet=ArcnetSettings(socket_queue=16))
    async with running(found) as feed:
        slow, quick = Console(reads=False), Console()
        endpoint = behind_a_door(found, feed)
        serving = asyncio.create_task(endpoint(slow.socket))
        reading = asyncio.create_task(endpoint(quick.socket))
        await slow.sent.get()
        await quick.sent.get()
        await quick.frame()
        for step in range(20):
            plane.put(telemetry(CAISO, step / 100))
            assert (await quick.frame())["node"]["gpuUtilization"] == step / 100
        await serving
        assert (await slow.sent.get())["code"] == 1013
        quick.leave()
        await reading


async def test_snapshot_larger_than_the_queue_is_no_overrun() -> None:
    nodes = [a_node(number) for number in range(40)]
    found = context(OnePlane(*nodes), arcnet=ArcnetSettings(socket_queue=16))
    async with running(found) as feed, feed.listen(TelemetrySession()) as listener:
        assert [shown(await listener.next()) for _ in nodes] == [node.id for node in nodes]
        assert not listener.overrun.is_set()


async def test_socket_is_told_to_come_back_when_the_scheduler_is_away() -> None:
    plane = OnePlane()
    plane.away = True
    found = context(plane, gateway={"call_timeout_s": 0.01})
    async with running(found) as feed:
        console = Console()
        await behind_a_door(found, feed)(console.socket)
        assert [(await console.sent.get()).get("code") for _ in range(2)] == [None, 1013]


@pytest.mark.parametrize(("query", "status"), [("", 401), ("apiKey=wrong", 401)])
async def test_upgrade_without_the_right_key_is_answered_401(query: str, status: int) -> None:
    found = context(OnePlane(), auth=AuthSettings(mode="keys", keys={"ana": "k"}))
    async with running(found) as feed:
        console = Console(query)
        await behind_a_door(found, feed)(console.socket)
        start = await console.sent.get()
        assert (start["type"], start["status"]) == ("websocket.http.response.start", status)


async def test_upgrade_with_the_right_key_is_accepted() -> None:
    found = context(OnePlane(), auth=AuthSettings(mode="keys", keys={"ana": "k"}))
    async with running(found) as feed:
        console = Console("apiKey=k")
        serving = asyncio.create_task(behind_a_door(found, feed)(console.socket))
        assert (await console.sent.get())["type"] == "websocket.accept"
        console.leave()
        await serving


async def test_sockets_that_come_at_once_are_bounded_and_their_places_free_again() -> None:
    found = context(OnePlane(CAISO), arcnet=ArcnetSettings(max_sockets=2))
    async with running(found) as feed:
        for _ in range(2):
            consoles = [Console() for _ in range(5)]
            serving = [asyncio.create_task(behind_a_door(found, feed)(console.socket)) for console in consoles]
            begins = [await console.sent.get() for console in consoles]
            assert [begin.get("status", 101) for begin in begins] == [101, 101, 429, 429, 429]
            assert feed.queues()[0].length == 2
            for console in consoles:
                console.leave()
            await asyncio.gather(*serving)


async def test_console_that_leaves_at_once_ends_its_session() -> None:
    found = context(OnePlane())
    async with running(found) as feed:
        console = Console()
        console.leave()
        await behind_a_door(found, feed)(console.socket)
        assert feed.listeners == 0
