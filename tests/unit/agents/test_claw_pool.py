"""What is done before what, where a claw gateway is told: with a real disk, and a node that takes what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from arcray import claw_proto as claw
from arcray.agents.claw_pool import ClawPool, Records
from arcray.agents.claw_session import ClawSession, Leave
from arcray.claw_proto import WorkloadState
from arcray.claw_proto.frames import Dialect, Form, read_from_node, write_to_node
from arcray.control.blobs import FsspecBlobs
from arcray.core.blobkeys import log_key
from arcray.core.commands import ReportEnd, ReportPhase
from arcray.core.errors import UnavailableError
from arcray.core.ids import WorkloadId
from arcray.core.node import DriverCapabilities
from arcray.core.orders import Order, StartWorkload
from arcray.core.workload import Phase
from arcray.testing.builders import a_node
from arcray.testing.clock import FakeClock

W = claw.WorkloadId("00000000-0000-4000-8000-000000000001")
OURS = WorkloadId(W)


@dataclass
class Rig:
    """A pool, its session and its disk."""

    pool: ClawPool
    session: ClawSession
    blobs: FsspecBlobs
    records: Path
    taken: list[tuple[Order, bool]] = field(default_factory=list)
    left: list[Leave] = field(default_factory=list)
    refusal: UnavailableError | None = None

    async def say(self, message: claw.GatewayMessage) -> None:
        await self.pool.act(self.session.received(write_to_node(message, Form.BINARY)))

    def hear(self) -> list[Any]:
        said: list[Any] = []
        while frames := self.session.take():
            said += [read_from_node(frame, Dialect.DOCUMENT)[0] for frame in frames]
        return [message for message in said if not isinstance(message, claw.Heartbeat)]

    async def deploy(self) -> None:
        workload = claw.Workload(id=W, name="it", spec=claw.WorkloadSpec(image="busybox"))
        await self.say(claw.DeployWorkload(workload=workload))

    def of(self, **fields: Any) -> dict[str, Any]:
        return {"node_id": a_node().id, "epoch": 1, "workload_id": OURS, "attempt": 1, **fields}


@pytest.fixture
async def rig(tmp_path: Path) -> Rig:
    clock = FakeClock()
    session = ClawSession(
        clock,
        node_id=claw.NodeId.new(),
        name="n",
        form=Form.BINARY,
        max_workloads=2,
        details={},
        is_free=bool,
    )
    blobs = FsspecBlobs(tmp_path / "blobs", max_blob_bytes=1 << 20)
    records = Records(tmp_path / "records")
    records.read()
    left: list[Leave] = []

    async def take(orders: Sequence[Order]) -> None:
        if made.refusal is not None:
            raise made.refusal
        made.taken += [(order, (tmp_path / "records" / f"{order.workload_id}.json").exists()) for order in orders]

    pool = ClawPool(session, clock, blobs, records, take=take, leave=left.append)
    made = Rig(pool, session, blobs, tmp_path / "records", left=left)
    await pool.attach(a_node(), ())
    session.opened()
    await made.say(claw.Registered(heartbeat_interval_secs=30, metrics_interval_secs=10))
    made.hear()
    return made


async def test_a_record_is_on_the_disk_before_the_node_begins(rig: Rig) -> None:
    await rig.deploy()
    ((order, was_kept),) = rig.taken
    assert isinstance(order, StartWorkload)
    assert was_kept


async def test_an_end_is_told_after_the_log_and_its_record_goes_once_it_is_heard(rig: Rig) -> None:
    await rig.deploy()
    await rig.pool.phase(ReportPhase(**rig.of(phase=Phase.RUNNING)))
    await rig.blobs.append(log_key(OURS), b"one\ntwo")
    await rig.pool.end(ReportEnd(**rig.of(phase=Phase.SUCCEEDED)))
    said = rig.hear()
    assert [type(each).__name__ for each in said] == [
        "WorkloadUpdate",
        "WorkloadUpdate",
        "WorkloadLogs",
        "WorkloadUpdate",
    ]
    assert said[2].lines == ("one", "two")
    assert said[3].state is WorkloadState.COMPLETED
    assert [path.stem for path in rig.records.iterdir()] == [W]
    await rig.say(claw.Ping(timestamp=claw.Timestamp.parse("2026-02-03T12:34:56Z")))
    rig.hear()
    for _ in range(2):
        await rig.say(claw.HeartbeatAck(timestamp=claw.Timestamp.parse("2026-02-03T12:34:56Z")))
    assert list(rig.records.iterdir()) == []
    assert await rig.blobs.size(log_key(OURS)) is None


async def test_an_end_waits_while_the_gateway_is_away(rig: Rig) -> None:
    await rig.deploy()
    await rig.pool.phase(ReportPhase(**rig.of(phase=Phase.RUNNING)))
    rig.session.closed()
    await rig.blobs.append(log_key(OURS), b"late\n")
    await rig.pool.end(ReportEnd(**rig.of(phase=Phase.FAILED, message="exit code 3")))
    assert rig.session.running == 0
    assert b"exit code 3" in (rig.records / f"{W}.json").read_bytes()
    assert rig.hear() == []


async def test_what_the_node_does_not_take_has_failed(rig: Rig) -> None:
    rig.refusal = UnavailableError("no room")
    await rig.deploy()
    (told,) = rig.hear()
    assert (told.state, told.message) == (WorkloadState.FAILED, "no room")


async def test_another_registration_needs_another_connection(rig: Rig) -> None:
    again: list[bool] = []

    async def reconnect() -> None:
        again.append(True)

    rig.pool.reconnect = reconnect
    await rig.pool.attach(a_node(), ())
    assert again == []
    await rig.pool.attach(a_node(capabilities=DriverCapabilities()), ())
    assert again == [True]
    await rig.deploy()
    (told,) = rig.hear()
    assert told.message == "this node has no container engine now"


async def test_a_gateway_that_wants_the_machine_to_leave_is_told_on(rig: Rig) -> None:
    await rig.say(claw.Shutdown(reason="enough", graceful=True))
    assert rig.left == [Leave(reason="enough", graceful=True)]
