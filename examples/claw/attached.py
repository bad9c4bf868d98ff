"""A container on a machine that has joined as a claw node, submitted as any other work."""

from __future__ import annotations

from typing import Final

from arcray.client import Client, NodeInfo, WorkOptions
from arcray.core.resources import Demand
from examples.digits import container
from examples.digits.promises import require
from examples.digits.report import Report, Row, show_log

__all__ = ["Attached"]

_GREETING: Final = "hello from a claw node"
_KIND: Final = "claw container"
_LIMIT_S: Final = 120.0


class Attached:
    """What an attached machine does on one arcray."""

    def __init__(self, client: Client, report: Report) -> None:
        self._client = client
        self._report = report

    def run(self, node: NodeInfo) -> None:
        """Runs a container on the machine, if there is a container engine."""
        missing = container.build()
        if missing:
            self._report.rows.append(Row(work="hello", kind=_KIND, result=f"not run: {missing}"))
            return
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
