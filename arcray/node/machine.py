"""What this machine can do, found by asking and trying: engine, sandbox, GPUs. And the runners that follow from it.

The engine is looked for again and again, for it may be started, stopped or upgraded under a living agent. The sandbox
and the GPUs are what they were at the start.
"""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Final, assert_never

from arcray import state_directory
from arcray.config import Settings
from arcray.core.errors import UnavailableError, UnsupportedError
from arcray.core.geozones import locate
from arcray.core.ids import NodeId
from arcray.core.model import ModelFormat
from arcray.core.node import DriverCapabilities, LeaseTerms, NodeRegistration, Telemetry
from arcray.core.ports import Clock, ControlPlane
from arcray.core.resources import Gpu
from arcray.core.workload import Container, ModelServer, Program
from arcray.node.container import Adopted, ContainerRunner
from arcray.node.docker_engine import DockerEngine
from arcray.node.engine import Engine
from arcray.node.forks.pool import ForkServers
from arcray.node.gpu import GpuDevices, GpuProbe, NvmlProbe
from arcray.node.gpu_shares import GpuShares, is_namespaced
from arcray.node.identity import hostname
from arcray.node.leftovers import Claim, sweep
from arcray.node.models.copy import ModelRunner
from arcray.node.models.registry import ModelRegistry
from arcray.node.program import ProgramRunner
from arcray.node.program_image import ProgramImage
from arcray.node.sampler import Sampler, measure_capacity
from arcray.node.sandbox import Sandbox, SandboxKind, UserPool
from arcray.node.sandbox_probe import probe as probe_sandbox
from arcray.node.work import Runner

__all__ = ["Machine", "Runners"]

_log = logging.getLogger(__name__)

_MISSED_LOOKS: Final = 3  # of a busy engine, before it counts as gone
_REMEDY: Final = "run nvidia-modprobe -u, and -c N for each /dev/nvidiaN, when the machine starts; then start arcray"


class Runners:
    """Who runs what here; None where this machine cannot."""

    def __init__(
        self, *, containers: ContainerRunner | None, programs: Runner | None, models: ModelRunner | None
    ) -> None:
        self._containers = containers
        self._programs = programs
        self._models = models

    def of(self, payload: Container | Program | ModelServer) -> Runner:
        """Returns the runner of a payload.

        Raises:
            UnsupportedError: this machine cannot run it.
        """
        runner: Runner | None
        match payload:
            case Container():
                runner = self._containers
            case Program():
                runner = self._programs
            case ModelServer():
                runner = self._models
            case _:
                assert_never(payload)
        if runner is None:
            raise UnsupportedError(f"this machine runs no {type(payload).__name__} now", field="payload")
        return runner

    @staticmethod
    def survives(payload: Container | Program | ModelServer) -> bool:
        """Returns whether such work outlives the agent."""
        return isinstance(payload, Container)

    async def adopt(self) -> tuple[Adopted, ...]:
        """Returns what an earlier agent left running."""
        return await self._containers.adopt() if self._containers is not None else ()


class Machine:
    """This machine, as found at the last look."""

    def __init__(
        self, *, node_id: NodeId, settings: Settings, clock: Clock, probe: GpuProbe | None, engine: Engine | None
    ) -> None:
        self._node_id = node_id
        self._settings = settings
        self._clock = clock
        self._probe = probe or NvmlProbe()
        self._engine = engine or DockerEngine(timeout_s=settings.node.containers.call_timeout_s)
        self._users = UserPool()
        self._directory = settings.state_dir / "node" / node_id
        self._claim: Claim | None = None
        self._looked = False
        self._engine_answers = False
        self._missed_looks = 0
        self._containers: ContainerRunner | None = None
        self._native: Sandbox | None = None
        self._runner_image = ""
        self._sandbox: Sandbox | None = None
        self._gpus: tuple[Gpu, ...] = ()
        self._devices = GpuDevices(minors={})
        self._shares = GpuShares(self._probe.holdings, clock, namespaced=is_namespaced())
        self._sampler: Sampler | None = None
        self._forks: ForkServers | None = None

    async def look(self) -> None:
        """Finds out what is here; again only after a failure.

        Raises:
            UnavailableError: the settings demand a container engine and none answers; or another agent of this node
                has not ended yet.
        """
        if self._looked:
            return
        await asyncio.to_thread(self._take_directories)
        wanted = self._settings.node.containers.enabled
        self._engine_answers = wanted != "never" and await self._engine.available()
        if wanted == "always" and not self._engine_answers:
            raise UnavailableError("node.containers.enabled is always, and no container engine answers")
        await self._choose_sandbox()
        self._gpus = await asyncio.to_thread(self._probe.devices)
        self._devices = GpuDevices(
            gpus=self._gpus,
            minors=await asyncio.to_thread(self._probe.minors),
            libraries=await asyncio.to_thread(self._probe.libraries),
        )
        if absent := await asyncio.to_thread(self._devices.absent):
            files = ", ".join(map(str, absent))
            _log.warning("programs will not find the GPUs", extra={"absent": files, "remedy": _REMEDY})
        self._sampler = await asyncio.to_thread(
            lambda: Sampler(gpus=self._probe, clock=self._clock, disk=self._directory)
        )
        self._looked = True

    async def look_again(self) -> bool:
        """Looks for the engine again; returns whether it has come or gone, which changes what this machine can do."""
        if self._settings.node.containers.enabled == "never":
            return False
        answers = await self._engine.available()
        self._missed_looks = 0 if answers else self._missed_looks + 1
        if answers == self._engine_answers or 0 < self._missed_looks < _MISSED_LOOKS:
            return False
        _log.warning("container engine found" if answers else "container engine gone", extra={"node_id": self._node_id})
        self._engine_answers = answers
        try:
            await self._choose_sandbox()
        except UnavailableError:
            self.doubt_engine()
            return False
        return True

    def doubt_engine(self) -> None:
        """Takes the engine for gone though it answered: it failed at the next question. It is looked for again."""
        self._engine_answers = False

    async def _choose_sandbox(self) -> None:
        """Decides what confines programs while the engine is there, or is not."""
        self._runner_image = await self._find_runner_image()
        if self._runner_image:
            self._sandbox = Sandbox(kind=SandboxKind.IMAGE, own_user=os.geteuid() == 0)
            return
        programs = self._settings.node.programs
        if programs.runner != "image" and self._native is None:
            self._native = await probe_sandbox(programs, self._programs_directory, self._users)
        self._sandbox = self._native

    async def _find_runner_image(self) -> str:
        """Returns the image that programs run in; "" when they run in the sandbox."""
        programs = self._settings.node.programs
        if programs.runner == "sandbox" or not programs.image:
            return ""
        if self._engine_answers and await self._engine.present(programs.image):
            return programs.image
        _log.warning("the image for programs is not here", extra={"image": programs.image})
        return ""

    async def registration(
        self,
        *,
        driver: str,
        facade: str,
        address: str,
        name: str,
        external_id: str,
        lease: LeaseTerms,
    ) -> NodeRegistration:
        """Returns what this machine says of itself."""
        await self.look()
        node = self._settings.node
        return NodeRegistration(
            id=self._node_id,
            name=name or hostname(),
            facade=facade,
            external_id=external_id,
            driver=driver,
            address=address,
            hostname=hostname(),
            capacity=await asyncio.to_thread(lambda: measure_capacity(node, gpus=self._gpus, disk=self._directory)),
            capabilities=self.capabilities,
            lease=lease,
            location=locate(node.location.geohash, node.location.geozone),
            labels=dict(node.labels),
        )

    @property
    def capabilities(self) -> DriverCapabilities:
        """What it can do, as found at the last look."""
        models = self._settings.node.models.enabled
        return DriverCapabilities(
            containers=self._engine_answers,
            programs=self._sandbox is not None,
            models=frozenset(ModelFormat) if models else frozenset(),
            inference=models,
            runner_image=self._runner_image,
            sandbox="none" if self._sandbox is None or self._runner_image else self._sandbox.kind.value,
        )

    async def runners(self, *, plane: ControlPlane, registry: ModelRegistry) -> Runners:
        """Returns the runners of all that this machine can do now. Earlier ones go on with what they have begun."""
        await self.look()
        node = self._settings.node
        devices = self._devices
        containers = self._containers = self._containers or ContainerRunner(
            engine=self._engine,
            blobs=plane.blobs,
            settings=node.containers,
            node_id=self._node_id,
            # A port on every interface is open to everyone; in open mode nothing of ours is.
            publish_on="127.0.0.1" if self._settings.auth.mode == "open" else "0.0.0.0",  # noqa: S104
            directory=self._directory / "containers",
            devices=devices,
            clock=self._clock,
        )
        models = ModelRunner(
            blobs=plane.blobs,
            settings=node.models,
            registry=registry,
            directory=self._directory / "models",
            devices=devices,
            shares=self._shares,
        )
        return Runners(
            containers=containers if self._engine_answers else None,
            programs=self._program_runner(plane, devices, containers),
            models=models if node.models.enabled else None,
        )

    def _program_runner(self, plane: ControlPlane, devices: GpuDevices, containers: ContainerRunner) -> Runner | None:
        if self._sandbox is None:
            return None
        programs = self._settings.node.programs
        if self._runner_image:
            devices = replace(devices, libraries=())  # the engine puts the driver's into a container
        native = self._sandbox.kind is SandboxKind.BUBBLEWRAP and self._sandbox.own_user
        if native and programs.fork_server.enabled:
            self._forks = self._forks or ForkServers(
                sandbox=self._sandbox,
                programs=self._programs_directory,
                users=self._users,
                settings=programs.fork_server,
                clock=self._clock,
            )
        return ProgramRunner(
            blobs=plane.blobs,
            forks=self._forks if native else None,
            image=ProgramImage(containers=containers, settings=programs, devices=devices)
            if self._runner_image
            else None,
            settings=programs,
            sandbox=self._sandbox,
            users=self._users,
            directory=self._programs_directory,
            devices=devices,
            shares=self._shares,
        )

    def read(self) -> Telemetry:
        """Returns one reading; blocks for milliseconds."""
        assert self._sampler is not None, "look first"
        return self._sampler.read()

    async def close(self) -> None:
        """Lets go of the engine, of fork servers and of our directories."""
        if self._forks is not None:
            await self._forks.close()
            self._forks = None
        await self._engine.close()
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    @property
    def _programs_directory(self) -> Path:
        return self._directory / "programs"

    def _take_directories(self) -> None:
        """Makes our directories ours alone, with nothing of an earlier agent but what its containers need.

        Programs may run as other users, who must pass through on the way to their own.
        """
        containers, models = self._directory / "containers", self._directory / "models"
        state_directory.make(self._settings.state_dir)
        state_directory.make_passage(self._directory.parent)
        for path in (containers, models, self._programs_directory):
            path.mkdir(parents=True, exist_ok=True)
        for path in (self._directory, self._programs_directory):
            path.chmod(0o711)
        containers.chmod(0o700)
        models.chmod(0o711 if self._settings.node.models.user else 0o700)
        self._claim = self._claim or Claim(self._directory)
        sweep((models, self._programs_directory))
