"""A bench on which programs run as a node runs them, in the real sandbox, with blobs in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from arcray.config import ForkServerSettings, ProgramSettings
from arcray.core.blobkeys import log_key
from arcray.core.resources import Allocation, Demand
from arcray.core.workload import Phase, Program
from arcray.node.forks.pool import ForkServers
from arcray.node.gpu import GpuDevices, GpuHolding
from arcray.node.gpu_shares import GpuShares
from arcray.node.program import ProgramRunner
from arcray.node.sandbox import Sandbox, SandboxKind, UserPool
from arcray.node.sandbox_probe import probe
from arcray.node.work import Attempt, End
from arcray.wire.system import SystemClock

if TYPE_CHECKING:
    from arcray.testing.node_fakes import Attempts, MemoryBlobs

__all__ = ["Bench", "bench", "forked_bench", "sandbox"]


@pytest.fixture
async def sandbox(directory: Path) -> Sandbox:
    """bubblewrap, as it works here."""
    found = await probe(ProgramSettings(sandbox="bubblewrap"), directory, UserPool())
    if found is None:
        pytest.skip("bubblewrap is absent, or may not make namespaces here")
    return found


class Bench:
    """Runs programs; ``forks`` starts them, or each starts alone."""

    def __init__(self, blobs: MemoryBlobs, attempts: Attempts, sandbox: Sandbox, directory: Path) -> None:
        self.blobs, self.attempts, self.sandbox, self.directory = blobs, attempts, sandbox, directory
        self.settings = ProgramSettings()
        self.devices = GpuDevices(minors={})
        self.holdings: Callable[[], tuple[GpuHolding, ...]] = tuple
        self.attempt: Attempt | None = None
        self.owner = "local"
        self.forks: ForkServers | None = None
        self.users = UserPool()

    def with_forks(self, settings: ForkServerSettings | None = None) -> ForkServers:
        """Has programs start as forks from now on; returns the servers, which somebody has to close."""
        self.forks = ForkServers(
            sandbox=self.sandbox,
            programs=self.directory,
            users=self.users,
            settings=settings or ForkServerSettings(),
            clock=SystemClock(),
        )
        return self.forks

    def runner(self) -> ProgramRunner:
        return ProgramRunner(
            blobs=self.blobs,
            settings=self.settings,
            sandbox=self.sandbox,
            users=self.users,
            directory=self.directory,
            devices=self.devices,
            shares=GpuShares(self.holdings, SystemClock()),
            forks=self.forks if self.sandbox.kind is SandboxKind.BUBBLEWRAP else None,
        )

    def start(self, source: str | bytes, *, demand: Demand | None = None, max_duration_s: float | None = None,
              allocation: Allocation | None = None, attempt: int = 1, **payload: Any) -> asyncio.Task[End]:  # fmt: skip
        self.blobs.data["code"] = source.encode() if isinstance(source, str) else source
        program = Program(blob="code", **payload)
        self.attempt = self.attempts.of(
            program,
            demand=demand,
            max_duration_s=max_duration_s,
            allocation=allocation,
            owner=self.owner,
            attempt=attempt,
        )
        return asyncio.create_task(self.runner().run(self.attempt))

    async def run(self, source: str | bytes, **options: Any) -> End:
        async with asyncio.timeout(60):
            return await self.start(source, **options)

    @property
    def starting(self) -> tuple[Phase, ...]:
        """What is told of a program before it runs: a fork runs before anybody could hear that it starts."""
        return (Phase.STARTING,) if self.forks is None else ()

    @property
    def log_key(self) -> str:
        assert self.attempt is not None
        return log_key(self.attempt.workload_id)

    @property
    def log(self) -> str:
        return self.blobs.data.get(self.log_key, b"").decode()


@pytest.fixture
async def forked_bench(
    blobs: MemoryBlobs, attempts: Attempts, sandbox: Sandbox, directory: Path
) -> AsyncIterator[Bench]:
    """A bench whose programs start as forks."""
    if not sandbox.own_user:
        pytest.skip("another user needs root")
    found = Bench(blobs, attempts, sandbox, directory)
    forks = found.with_forks()
    yield found
    await forks.close()


@pytest.fixture(params=["alone", "forked"])
async def bench(
    blobs: MemoryBlobs, attempts: Attempts, sandbox: Sandbox, directory: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Bench]:
    """Both ways in which a program starts; what holds for one holds for the other."""
    found = Bench(blobs, attempts, sandbox, directory)
    if request.param == "alone":
        yield found
        return
    if not sandbox.own_user:
        pytest.skip("another user needs root")
    forks = found.with_forks()
    yield found
    await forks.close()
