"""A machine that has joined as a Resource Pool device: a task of the pool, and a program on that machine."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any, Final

from websockets.sync.client import connect

from arcray.client import Client, NodeInfo, WorkOptions
from arcray.core.resources import Demand
from examples.digits.promises import require
from examples.digits.report import Report, Row, show_log

__all__ = ["Lent"]

_COMMAND: Final = "process-data"
_INPUT: Final = "3 apples and 4 pears and 35 plums"
_SUM: Final = 42
_PROGRAM: Final = "import os; print('hello from a device, process', os.getpid(), 'of its sandbox')"
_LIMIT_S: Final = 120.0
_NEWEST: Final = 20
_MAX_FRAME: Final = 8 * 2**20


class Lent:
    """What an attached device does on one arcray."""

    def __init__(self, client: Client, report: Report) -> None:
        self._client = client
        self._report = report

    def run(self, device: NodeInfo) -> None:
        """Hands a task to the pool, and runs a program on the device."""
        self._hand_in(f"{self._client.url.replace('http', 'ws', 1).rstrip('/')}/ws")
        self._run_on(device.id, device.name)

    def _hand_in(self, gateway: str) -> None:
        """Hands a task to the pool, which has it done wherever there is room."""
        task_id, began_s = f"demo-{secrets.token_hex(3)}", time.monotonic()
        task = {"id": task_id, "requirements": {"cpu": 10}, "data": {"command": _COMMAND, "input": _INPUT}}
        with connect(gateway, compression=None, proxy=None, max_size=_MAX_FRAME) as socket:
            socket.send(json.dumps({"type": "task_submit", "task": task}))
            told: dict[str, Any] = {}
            while told.get("type") != "task_result":
                told = json.loads(socket.recv(timeout=_LIMIT_S))
        took_ms = (time.monotonic() - began_s) * 1000
        result = told["result"]
        require(result["success"], f"the task {_COMMAND} failed: {result.get('error')}")
        show_log([f"{_COMMAND}: {result['result']}\n"])
        found = json.loads(result["result"])
        require(found["sum"] == _SUM, f"the task {_COMMAND} has found {found}")
        work = next((each for each in self._client.workloads(limit=_NEWEST) if each.name == _COMMAND), None)
        self._report.rows.append(
            Row(
                work=_COMMAND,
                kind="pool task",
                node=self._named(work.node_id) if work is not None and work.node_id else "",
                result=f"{found['words']} words, sum {found['sum']}",
                ms=took_ms,
            )
        )

    def _run_on(self, device: str, name: str) -> None:
        options = WorkOptions(name="hello", node_id=device, demand=Demand(cpu_milli=100, memory_bytes=64 * 2**20))
        done = self._client.wait(self._client.submit_program(_PROGRAM, options=options).id, timeout_s=_LIMIT_S)
        log = self._client.logs(done.id)
        show_log([log])
        require(done.succeeded, f"the program {done.phase}: {done.message}")
        require(done.node_id == device, f"the program ran on {done.node_id}")
        self._report.rows.append(
            Row(
                work=done.name,
                kind="pool program",
                node=f"{name} {device[:8]}",
                result=f"{len(log.splitlines())} line as its result",
                ms=done.duration_ms,
            )
        )

    def _named(self, node_id: str) -> str:
        return next((f"{node.name} {node.id[:8]}" for node in self._client.nodes() if node.id == node_id), node_id)
