"""A container on a machine that has joined as a claw node, submitted as any other work."""

from __future__ import annotations

import secrets
from typing import Final

from arcray.client import Client, NodeInfo, WorkOptions
from arcray.core.resources import Demand
from examples.digits import container
from examples.digits.promises import require
from examples.digits.report import Report, Row, show_log
from examples.machine import agent

__all__ = ["Attached", "gateway_of"]

_GREETING: Final = "hello from a claw node"
_KIND: Final = "claw container"
_LIMIT_S: Final = 120.0
_SETTINGS: Final = {"ARCRAY_NODE__CONTAINERS__ENABLED": "always", "ARCRAY_NODE__MODELS__ENABLED": "false"}


class Attached:
    """What an attached machine does on one arcray."""

    def __init__(self, client: Client, report: Report) -> None:
        self._client = client
        self._report = report

    def run(self) -> None:
        """Attaches a machine if there is a container engine, and runs a container on it."""
        missing = container.build()
        if missing:
            self._report.rows.append(Row(work="hello", kind=_KIND, result=f"not run: {missing}"))
            return
        name = f"claw-{secrets.token_hex(3)}"
        words = ["--protocol", "claw", "--gateway", gateway_of(self._client.url, "claw"), "--encoding", "bincode"]
        with agent(name, [*words, "--name", name], _SETTINGS, lambda: self._node(name) is not None) as pid:
            node = self._node(name)
            require(node is not None, f"{name} has gone")
            assert node is not None
            print(f"    {name} has joined, process {pid}")
            self._contain(node)

    def _contain(self, node: NodeInfo) -> None:
        work = self._client.submit_container(
            container.IMAGE,
            command=["/bin/busybox"],
            args=["sh", "-c", f"echo {_GREETING}; head -n 1 /proc/meminfo"],
            options=WorkOptions(name="hello", node_id=node.id, demand=Demand(cpu_milli=100, memory_bytes=64 * 2**20)),
        )
        done = self._client.wait(work.id, timeout_s=_LIMIT_S)
        log = self._client.logs(work.id)
        show_log([log])
        require(done.succeeded, f"the container {done.phase}: {done.message}")
        require(_GREETING in log, "the container's log lacks what it printed")
        require(done.node_id == node.id, f"the container ran on {done.node_id}")
        self._report.rows.append(
            Row(
                work=done.name,
                kind=_KIND,
                node=f"{node.name} {node.id[:8]}",
                result=f"{len(log.splitlines())} lines by binary frames",
                ms=done.duration_ms,
            )
        )

    def _node(self, name: str) -> NodeInfo | None:
        return next((node for node in self._client.nodes() if node.name == name), None)


def gateway_of(url: str, path: str) -> str:
    """Returns where an arcray has a WebSocket, by its URL."""
    return f"{url.replace('http', 'ws', 1).rstrip('/')}/{path}"
