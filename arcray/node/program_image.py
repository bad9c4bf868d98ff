"""Programs in containers of a runner image, where one is configured and present: the engine confines them.

The container is transient: it ends with the agent, as a program in the sandbox does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from arcray.config import ProgramSettings
from arcray.node.container import LABEL_TRANSIENT, ContainerRunner
from arcray.node.engine import ContainerSpec, Mount
from arcray.node.gpu import GpuDevices
from arcray.node.sandbox import INSIDE, Confinement
from arcray.node.work import Attempt, End

__all__ = ["ProgramImage", "ProgramStart"]

_STDIN: Final = str(INSIDE / "stdin")
# The engine's own stdin is a live connection; a file needs a shell to become one.
_WITH_STDIN: Final = ("/bin/sh", "-c", f'exec python3 -u "$@" < {_STDIN}', "sh")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramStart:
    """A prepared program: where it is, what to run, what it reads, and its environment.

    Args:
        archive: whether more than one file is to be handed to its user.
    """

    place: Confinement
    entry: str
    args: tuple[str, ...]
    archive: bool
    stdin: Path | None
    env: Mapping[str, str]


class ProgramImage:
    """Runs prepared programs in containers."""

    def __init__(self, *, containers: ContainerRunner, settings: ProgramSettings, devices: GpuDevices) -> None:
        self._containers = containers
        self._settings = settings
        self._devices = devices

    async def run(self, attempt: Attempt, start: ProgramStart) -> End:
        """Runs it to its end; see ``ContainerRunner.run`` for what it raises."""
        order, place = attempt.order, start.place
        uid = os.getuid() if place.uid is None else place.uid
        stdin = () if start.stdin is None else (Mount(source=str(start.stdin), target=_STDIN, read_only=True),)
        spec = ContainerSpec(
            image=self._settings.image,
            entrypoint=("python3", "-u") if start.stdin is None else _WITH_STDIN,
            args=(start.entry, *start.args),
            env=tuple(start.env.items()),
            mounts=(
                Mount(source=str(place.work), target=str(INSIDE / "work"), read_only=False),
                Mount(source=str(place.results), target=str(INSIDE / "results"), read_only=False),
                *stdin,
            ),
            cpu_milli=order.demand.cpu_milli,
            memory_bytes=place.limits.memory_bytes,
            pids_limit=place.limits.processes,
            gpus=self._devices.names(order.allocation),
            log_max_bytes=self._settings.log_max_bytes,
            labels={**self._containers.labels(order), LABEL_TRANSIENT: "program"},
            network=place.network,
            user=f"{uid}:{uid}",
            working_dir=str(INSIDE / "work"),
        )
        return await self._containers.run_spec(attempt, spec)
