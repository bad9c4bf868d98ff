"""The Docker engine against a server on a socket that answers some questions and keeps silent on others."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from arcray.node.docker_engine import DockerEngine
from arcray.node.engine import ContainerSpec

MANY: Final = 40  # more calls than there are threads for short ones


class Daemon:
    """Speaks enough of Docker's API. What ``slow`` names is answered once ``released``; ``fault`` answers all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.slow = ("/stop", "/images/create")
        self.fault = ""
        self.released = asyncio.Event()
        self.asked: list[str] = []
        self.bodies: list[Any] = []
        self._heard = asyncio.Condition()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await self._head(reader):
            target = head.split()[1].decode()
            if size := re.search(rb"Content-Length: (\d+)", head):
                self.bodies.append(json.loads(await reader.readexactly(int(size[1])) or b"null"))
            async with self._heard:
                self.asked.append(target)
                self._heard.notify_all()
            if any(word in target for word in self.slow):
                await self.released.wait()
            body = json.dumps(self._answer(target)).encode()
            status = b"500 Internal Server Error" if self.fault else b"200 OK"
            writer.write(b"HTTP/1.1 %s\r\nContent-Type: application/json\r\n" % status)
            writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    @staticmethod
    async def _head(reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""

    def _answer(self, target: str) -> Any:
        if self.fault:
            return {"message": self.fault}
        if target.endswith("/version"):
            return {"ApiVersion": "1.44", "MinAPIVersion": "1.24"}
        if target.endswith("/containers/create"):
            return {"Id": "c"}
        return {"status": "Downloaded"} if "/images/create" in target else []

    async def heard(self, word: str, times: int) -> None:
        """Waits until so many requests name the word."""
        async with asyncio.timeout(20), self._heard:
            await self._heard.wait_for(lambda: sum(word in target for target in self.asked) >= times)


@pytest.fixture
async def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Daemon]:
    daemon = Daemon(tmp_path / "docker.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{daemon.path}")
    server = await asyncio.start_unix_server(daemon.serve, daemon.path)
    yield daemon
    daemon.released.set()
    server.close()


@pytest.mark.parametrize("slow", ["stop", "pull"])
async def test_calls_that_take_long_hold_up_no_others(daemon: Daemon, slow: str) -> None:
    engine = DockerEngine(timeout_s=60)
    assert await engine.find("a", "b") == ()
    calls = [
        asyncio.ensure_future(engine.stop(f"c{i}", 600) if slow == "stop" else engine.pull(f"image{i}:1"))
        for i in range(MANY)
    ]
    await daemon.heard("/stop" if slow == "stop" else "/images/create", 20)
    try:
        async with asyncio.timeout(20):
            assert await engine.find("a", "b") == ()
            other = engine.pull("other:1") if slow == "stop" else engine.stop("other", 600)
            calls.append(asyncio.ensure_future(other))
            await daemon.heard("other", 1)
    finally:
        daemon.released.set()
        await asyncio.gather(*calls)
        await engine.close()


async def test_absence_of_the_engine_is_told_once_each_time(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "arcray.node.docker_engine")
    engine = DockerEngine(timeout_s=60)
    socket = daemon.path.rename(daemon.path.with_name("away"))
    assert [await engine.available() for _ in range(3)] == [False] * 3
    assert [record.getMessage() for record in caplog.records] == ["no container engine"]
    socket.rename(daemon.path)
    assert await engine.available()
    daemon.fault = "shutting down"
    assert [await engine.available() for _ in range(3)] == [False] * 3
    assert [record.getMessage() for record in caplog.records] == ["no container engine"] * 2
    await engine.close()


@pytest.mark.parametrize(("gpus", "visible"), [((), "void"), (("GPU-a", "GPU-b"), "GPU-a,GPU-b")])
async def test_a_container_sees_the_gpus_that_it_was_given_whatever_it_or_its_image_asks_for(
    daemon: Daemon, gpus: tuple[str, ...], visible: str
) -> None:
    engine = DockerEngine(timeout_s=60)
    env = (("NVIDIA_VISIBLE_DEVICES", "all"), ("GREETING", "hi"))
    assert await engine.create(ContainerSpec(image="nvidia/cuda", env=env, gpus=gpus)) == "c"
    await engine.close()
    (asked,) = daemon.bodies
    assert sorted(asked["Env"]) == ["GREETING=hi", f"NVIDIA_VISIBLE_DEVICES={visible}"]
