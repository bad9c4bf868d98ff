"""What a machine's agent tells a pool of another protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from arcray.agents.pool_plane import PoolPlane
from arcray.control.blobs import FsspecBlobs
from arcray.core.blobkeys import OWNED
from arcray.core.commands import Attached, AttachNode, ReportEnd, ReportPhase, Running
from arcray.core.node import NodeRegistration, Telemetry
from arcray.testing.builders import a_node


class Joined:
    """A pool; says what lay on the disk when this machine joined it."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.lay: list[list[str]] = []

    async def attach(self, registration: NodeRegistration, inventory: Sequence[Running]) -> Sequence[Running]:
        _ = registration, inventory
        self.lay.append([path.name for path in self._place.rglob("*") if path.is_file()])
        return ()

    async def phase(self, report: ReportPhase) -> None: ...

    async def end(self, report: ReportEnd) -> None: ...

    async def reading(self, telemetry: Telemetry | None) -> None: ...


async def test_what_an_earlier_life_left_is_gone_when_the_pool_hears_of_the_machine(tmp_path: Path) -> None:
    (kept := tmp_path / OWNED[0] / "of-a-task").parent.mkdir()
    kept.write_bytes(b"of a task")
    pool = Joined(tmp_path)
    plane = PoolPlane(pool, FsspecBlobs(tmp_path, max_blob_bytes=100), OWNED)
    assert kept.exists()
    for epoch in (1, 2):
        (reply,) = await plane.submit([AttachNode(registration=a_node(1), inventory=())])
        assert isinstance(reply, Attached)
        assert reply.epoch == epoch
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(b"of a task of this life")
    assert pool.lay == [[], ["of-a-task"]]
