"""Nodes by WebSocket clients that are not ours: websocket-client of Python, and that of Node.js where there is one."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import Any, Final

import pytest
from websocket import ABNF, WebSocket, create_connection

from arcray.core.workload import Phase
from arcray.testing.builders import a_workload
from tests.conformance.claw.claw_rig import ID, in_phase, submit

BINARY_REGISTER: Final = bytes.fromhex(
    "00000000 1000000000000000 550e8400e29b41d4a716446655440000 0200000000000000 6e31"
    "0000000000000000 00000000 0000000000000000 01000000 0000000000000000 01000000"
)
UUID_LENGTH: Final = (16).to_bytes(8, "little")
AT: Final = "2026-02-03T12:34:56Z"

NODE_JS: Final = """
const socket = new WebSocket(process.argv[1]);
const at = new Date().toISOString();
const say = (message) => socket.send(JSON.stringify(message));
socket.onopen = () => say({type: "register", node_id: process.argv[2], name: "js", protocol_version: 1,
  capabilities: {gpus: [], memory_mib: 16384, cpu_cores: 8, runtimes: []}});
socket.onmessage = ({data}) => {
  const told = JSON.parse(data);
  const update = (state) => say({type: "workload_update", workload_id: told.workload_id, state, timestamp: at});
  if (told.type === "registered") console.log("registered");
  if (told.type === "start_workload") update("running");
  if (told.type === "stop_workload") update("stopped");
};
"""


async def test_a_node_in_bincode_by_websocket_client(serve: Any) -> None:
    async with serve(nodes=[], listen=True) as served:
        socket: WebSocket = await asyncio.to_thread(create_connection, f"ws://{served.url}/claw", timeout=10)
        try:
            socket.send_binary(BINARY_REGISTER)
            kind, answer = await asyncio.to_thread(socket.recv_data)
            assert (kind, answer.hex()) == (ABNF.OPCODE_BINARY, "000000001e0000000a00000000")
            name = await submit(served)
            _, order = await asyncio.to_thread(socket.recv_data)
            identity = bytes.fromhex(name.replace("-", ""))
            assert order.startswith(bytes.fromhex("02000000") + UUID_LENGTH + identity)
            time = len(AT).to_bytes(8, "little") + AT.encode()
            for state in (2, 3, 7):  # starting, running, completed
                update = bytes.fromhex("03000000") + UUID_LENGTH + identity + state.to_bytes(4, "little") + b"\0" + time
                socket.send_binary(update)
            assert (await served.cluster.finished(a_workload(1).id)).phase is Phase.SUCCEEDED
        finally:
            await asyncio.to_thread(socket.close)


async def test_a_node_of_the_first_implementation_by_the_client_of_node_js(serve: Any) -> None:
    """Takes half a second: a process starts."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    words = ["--experimental-websocket", "-e", NODE_JS]
    async with serve(nodes=[], listen=True) as served:
        process = await asyncio.create_subprocess_exec(
            node, *words, f"ws://{served.url}/", ID, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            said = await asyncio.wait_for(process.stdout.readline(), 30)
            if not said:
                pytest.skip("this Node.js has no WebSocket of its own")
            await submit(served)
            await in_phase(served, Phase.RUNNING)
            answer = await served.client.post(f"/api/v1/workloads/{a_workload(1).id}/stop")
            assert answer.is_success, json.dumps(answer.json())
            assert (await served.cluster.finished(a_workload(1).id)).phase is Phase.STOPPED
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()
