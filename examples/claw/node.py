"""A claw node: joins a pool over WebSocket in JSON, and runs the containers that it deploys by the docker command.

``python node.py [URL [NAME]]`` until Ctrl-C; needs the package ``websockets``. It shows the protocol and no more: one
that keeps its work over a restart, tells of GPUs and mounts volumes is ``arcray agent --protocol claw``.
"""

from __future__ import annotations

import asyncio
import json
import platform
import sys
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

MOST = 8  # containers at a time


class Node:
    """One connection to a gateway."""

    def __init__(self, socket: ClientConnection, name: str) -> None:
        self.id = str(uuid.uuid4())
        self._socket = socket
        self._name = name
        self._states: dict[str, str] = {}
        self._stopping: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def work(self) -> None:
        """Registers and does as it is told, until the gateway ends it."""
        await self._say(
            "register",
            node_id=self.id,
            name=self._name,
            capabilities={
                "total_vram_mb": 0,
                "gpu_count": 0,
                "gpus": [],
                "max_concurrent_workloads": MOST,
                "supported_runtimes": ["docker"],
            },
            protocol_version=1,
        )
        async for frame in self._socket:
            message = json.loads(frame)
            match message["type"]:
                case "registered":
                    print("registered as", self.id, flush=True)
                    self._begin(self._beat(message["heartbeat_interval_secs"]))
                case "deploy_workload":
                    self._begin(self._run(message["workload"]))
                case "stop_workload":
                    self._begin(self._stop(message["workload_id"], force=message["force"]))
                case "get_workload_status" if message["workload_id"] in self._states:
                    await self._update(message["workload_id"], self._states[message["workload_id"]])
                case "ping":
                    await self._say("heartbeat", node_id=self.id, timestamp=_now())
                case "shutdown":
                    break
                case _:
                    pass  # heartbeat_ack, and what there is nothing to say to

    async def _run(self, workload: dict[str, Any]) -> None:
        """Runs a container from its start to its end, and tells of both, and of what it writes."""
        name, spec = workload["id"], workload["spec"]
        entry, words = (spec["command"] or [""])[0], [*(spec["command"] or [])[1:], *(spec["args"] or [])]
        options = [f"--name=claw-{name}"]
        options += [f"--env={variable}={value}" for variable, value in spec["env"]]
        options += [f"--entrypoint={entry}"] if entry else []
        options += [f"--cpus={spec['cpu_millicores'] / 1000}"] if spec["cpu_millicores"] else []
        options += [f"--memory={spec['memory_mb']}m"] if spec["memory_mb"] else []
        await self._update(name, "starting")
        process = await _docker("run", "--rm", *options, spec["image"], *words)
        await self._update(name, "running")
        assert process.stdout is not None
        assert process.stderr is not None
        await asyncio.gather(
            self._tell(name, process.stdout, is_stderr=False), self._tell(name, process.stderr, is_stderr=True)
        )
        status = await process.wait()
        if name in self._stopping:
            await self._update(name, "stopped")
        else:
            await self._update(name, "failed" if status else "completed", f"exit code {status}" if status else None)

    async def _tell(self, name: str, stream: asyncio.StreamReader, *, is_stderr: bool) -> None:
        async for line in stream:
            text = line.decode(errors="replace").rstrip("\n")
            await self._say("workload_logs", workload_id=name, lines=[text], is_stderr=is_stderr)

    async def _stop(self, name: str, *, force: bool) -> None:
        if self._states.get(name) in ("starting", "running"):
            self._stopping.add(name)
            await self._update(name, "stopping")
            await (await _docker("kill" if force else "stop", f"claw-{name}")).wait()

    async def _beat(self, every_s: float) -> None:
        while True:
            await self._say("heartbeat", node_id=self.id, timestamp=_now())
            await asyncio.sleep(every_s)

    async def _update(self, name: str, state: str, message: str | None = None) -> None:
        self._states[name] = state
        await self._say("workload_update", workload_id=name, state=state, message=message, timestamp=_now())

    async def _say(self, kind: str, **members: Any) -> None:
        await self._socket.send(json.dumps({"type": kind, **members}))

    def _begin(self, doing: Any) -> None:
        task = asyncio.create_task(doing)
        self._tasks.add(task)  # or it could be collected as garbage before its end
        task.add_done_callback(self._tasks.discard)


async def _docker(*words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        "docker", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


async def main() -> None:
    """Connects once."""
    url = sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8080/claw"
    name = sys.argv[2] if len(sys.argv) > 2 else platform.node()
    async with connect(url) as socket:
        await Node(socket, name).work()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
