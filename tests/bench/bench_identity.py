"""Budget of a door on two cores: a request whose key is known costs at most 5 us of processor before its endpoint runs.

    python -m pytest tests/bench/bench_identity.py -s

Five runs of 50,000 requests, against the endpoint without a door; the median counts.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import process_time

import pytest
from starlette.requests import Request
from starlette.responses import Response

from arcray.config import AuthSettings
from arcray.core.commands import IssueKey, OpenAccount
from arcray.core.keys import Scope
from arcray.testing.builders import a_key
from arcray.testing.plane import in_process_plane
from arcray.wire.access import Door
from arcray.wire.event_hub import EventHub
from arcray.wire.identity import Authenticator

pytestmark = pytest.mark.bench

BUDGET_US = 5.0
RUNS = 5
REQUESTS = 50_000
HEADERS = [
    (b"host", b"127.0.0.1:8080"),
    (b"user-agent", b"bench"),
    (b"content-type", b"application/json"),
    (b"content-length", b"64"),
    (b"authorization", b"Bearer secret-1"),
]
ANSWER = Response()


def a_request() -> Request:
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "client": ("127.0.0.1", 1)}
    return Request({**scope, "headers": HEADERS})


async def processor_us(endpoint: Callable[[Request], Awaitable[Response]]) -> float:
    """Returns microseconds of processor per request."""
    requests = [a_request() for _ in range(REQUESTS)]
    began = process_time()
    for request in requests:
        await endpoint(request)
    return (process_time() - began) / REQUESTS * 1e6


async def bare(request: Request) -> Response:
    _ = request
    return ANSWER


async def test_a_known_key_costs_little(tmp_path: Path) -> None:
    async with in_process_plane(nodes=[], state_dir=tmp_path) as cluster:
        await cluster.ask(OpenAccount(account_id=a_key().account))
        await cluster.ask(IssueKey(key=a_key()))
        hub = EventHub(cluster.plane, cluster.clock)
        authenticator = Authenticator(AuthSettings(mode="keys"), cluster.plane, hub, cluster.clock)
        tasks = [asyncio.create_task(hub.run()), asyncio.create_task(authenticator.run())]
        while authenticator.recognise(a_request()) is None:  # until the stream stands, nothing is remembered
            await authenticator.identify(a_request())
            await asyncio.sleep(0)
        guarded = Door(authenticator)(Scope.SUBMIT, bare)
        costs = [await processor_us(guarded) - await processor_us(bare) for _ in range(RUNS)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    low, middle, high = statistics.quantiles(costs, n=4)
    print(f"\na door with a known key (budget {BUDGET_US:g}) {middle:.2f} us  (quartiles {low:.2f} to {high:.2f})")
    assert middle <= BUDGET_US
