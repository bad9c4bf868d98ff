"""The container engine as a port. Isolation is not an option of a spec: the engine adds it to every container."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from arcray.core.errors import NotFoundError
from arcray.core.workload import PortMapping

__all__ = ["ContainerSpec", "ContainerState", "Engine", "FoundContainer", "ImageAbsentError", "Mount"]


class ImageAbsentError(NotFoundError):
    """The image is not on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A host directory or file inside a container; the source is already resolved and allowed."""

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """What the engine is asked to create. Isolation is not an option: the engine adds it to every container.

    Args:
        cpu_milli, memory_bytes: 0 is no limit.
        publish_on: host address of published ports.
        gpus: how the engine names the devices.
        network: whether it has one.
        user: "uid:gid" that it runs as; "" is the image's own.
    """

    image: str
    entrypoint: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    ports: tuple[PortMapping, ...] = ()
    publish_on: str = "127.0.0.1"
    mounts: tuple[Mount, ...] = ()
    cpu_milli: int = 0
    memory_bytes: int = 0
    pids_limit: int = 4096
    gpus: tuple[str, ...] = ()
    log_max_bytes: int = 16 * 2**20
    labels: dict[str, str] = field(default_factory=dict)
    network: bool = True
    user: str = ""
    working_dir: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """What the engine knows of a container.

    Args:
        error: why it could not be started, in the engine's words.
        pid: of its first process, on this machine; None once it has ended.
    """

    running: bool
    exit_code: int
    out_of_memory: bool
    error: str
    ports: tuple[PortMapping, ...]
    started_at: datetime | None = None
    pid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundContainer:
    """A container of ours that was there already."""

    id: str
    labels: dict[str, str]


class Engine(Protocol):
    """Runs containers. Every call may raise UnavailableError, and NotFoundError for a container that is gone."""

    async def available(self) -> bool:
        """Returns whether the engine answers."""
        ...

    async def present(self, image: str) -> bool:
        """Returns whether the image is on this machine."""
        ...

    async def create(self, spec: ContainerSpec) -> str:
        """Returns the id of a new container, not started.

        Raises:
            ImageAbsentError: the image has to be pulled first.
            InvalidArgumentError: the engine refuses the spec; says why.
        """
        ...

    async def pull(self, image: str) -> None:
        """Fetches an image.

        Raises:
            NotFoundError: no registry has it, or none may be asked.
        """
        ...

    async def start(self, container_id: str) -> None:
        """Starts it.

        Raises:
            InvalidArgumentError: it cannot be started as asked (no such command, a port that is taken).
        """
        ...

    async def inspect(self, container_id: str) -> ContainerState:
        """Returns its state."""
        ...

    async def stop(self, container_id: str, grace_s: float) -> None:
        """Ends it: its stop signal, then after ``grace_s`` SIGKILL. One that has ended stays as it is."""
        ...

    async def remove(self, container_id: str) -> None:
        """Removes it and its anonymous volumes, whatever its state; removing none is no error."""
        ...

    async def find(self, label: str, value: str) -> tuple[FoundContainer, ...]:
        """Returns all containers, ended ones too, that carry the label."""
        ...

    def logs(self, container_id: str, since: str) -> AsyncIterator[tuple[str, bytes]]:
        """Yields (timestamp, output) until the container ends.

        Args:
            since: the last timestamp that is known already; "" begins at the beginning.

        Raises:
            UnavailableError: the stream broke; go on from the last timestamp.
        """
        ...

    async def close(self) -> None:
        """Lets go of the engine."""
        ...
