"""A load generator that costs little: HTTP/1.1 keep-alive over raw asyncio protocols, closed loop, in its own process.

    python tests/bench/load.py URL [--connections 64] [--seconds 5] [--body JSON] [--expect 200]

Each connection sends its next request when it has read the answer to the last one. Prints one JSON object. A general
client would cost more per request than the servers that are measured here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one run found; latencies in milliseconds."""

    requests: int
    per_s: float
    wrong: int
    p50_ms: float
    p99_ms: float


def measure(url: str, *, connections: int, seconds: float, body: str | None = None, expect: int = 200) -> Measured:
    """Runs the generator in a process of its own and returns what it found; fails when an answer was wrong."""
    command = [sys.executable, __file__, url, "--connections", str(connections), "--seconds", str(seconds)]
    command += ["--expect", str(expect), *(["--body", body] if body is not None else [])]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60).stdout
    measured = Measured(**json.loads(output))
    assert measured.wrong == 0, f"{measured.wrong} of {measured.requests} answers of {url} were not {expect}"
    return measured


@dataclass(slots=True)
class _Run:
    request: bytes
    status: bytes
    until: float
    latencies: list[float] = field(default_factory=list)
    wrong: int = 0


class _Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, run: _Run, ended: asyncio.Future[None]) -> None:
        self._run = run
        self._ended = ended
        self._buffer = b""
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No isinstance: uvloop's transports do not derive from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        start = self._buffer.lower().find(b"content-length:", 0, head)
        length = int(self._buffer[start + 15 : self._buffer.find(b"\r\n", start)]) if start >= 0 else 0
        if len(self._buffer) < head + 4 + length:
            return
        now = perf_counter()
        self._run.latencies.append(now - self._sent)
        if not self._buffer.startswith(self._run.status):
            self._run.wrong += 1
        self._buffer = b""
        if now < self._run.until:
            self._send()
        else:
            assert self._transport is not None
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None or perf_counter() < self._run.until:
            self._run.wrong += 1  # the server hung up
        if not self._ended.done():
            self._ended.set_result(None)

    def _send(self) -> None:
        assert self._transport is not None
        self._sent = perf_counter()
        self._transport.write(self._run.request)


async def _generate(url: str, connections: int, seconds: float, body: str | None, expect: int) -> dict[str, Any]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    payload = (body or "").encode()
    lines = [f"{'GET' if body is None else 'POST'} {parts.path} HTTP/1.1", f"Host: {parts.netloc}"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(payload)}"]
    request = "\r\n".join([*lines, "", ""]).encode() + payload
    began = perf_counter()
    run = _Run(request, f"HTTP/1.1 {expect} ".encode(), began + seconds)
    loop = asyncio.get_running_loop()
    ends = [loop.create_future() for _ in range(connections)]
    for ended in ends:
        await loop.create_connection(partial(_Connection, run, ended), parts.hostname, parts.port)
    await asyncio.gather(*ends)
    taken = perf_counter() - began
    latencies = sorted(run.latencies)
    return {
        "requests": len(latencies),
        "per_s": len(latencies) / taken,
        "wrong": run.wrong,
        "p50_ms": latencies[len(latencies) // 2] * 1e3,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
    }


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--body")
    parser.add_argument("--expect", type=int, default=200)
    arguments = parser.parse_args()
    found = uvloop.run(
        _generate(arguments.url, arguments.connections, arguments.seconds, arguments.body, arguments.expect)
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
