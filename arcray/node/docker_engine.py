"""Docker behind the engine port. No engine is normal: the machine then takes no containers.

The Docker SDK blocks, so its calls run on threads of their own, each with a time limit: few for what the engine answers
at once, more for stops, which last as long as the container's grace, and for pulls, which last as long as a registry is
silent. So neither holds up the others. Docker's errors end here.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import docker
import docker.errors
import docker.types
import docker.utils
import requests

from arcray.core.errors import ConflictError, InvalidArgumentError, NotFoundError, UnavailableError
from arcray.core.workload import PortMapping
from arcray.node.engine import ContainerSpec, ContainerState, FoundContainer, ImageAbsentError

__all__ = ["DockerEngine"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_THREADS: Final = 32
_STOP_THREADS: Final = 512  # they wait and do nothing; what comes beyond them waits for a grace to end
_PULL_THREADS: Final = 64
_PROBE_TIMEOUT_S: Final = 3
_ENGINE_LOG_MIN_BYTES: Final = 16 * 2**20  # what a container may write before we must have read it
_LOG_PIPE_BYTES: Final = 1 << 20  # between the thread that reads a log and the loop
_STAMP: Final = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
# Where NVIDIA's runtime is the engine's default, it gives what this names without being asked; many images name all.
_VISIBLE: Final = "NVIDIA_VISIBLE_DEVICES"
_NONE_VISIBLE: Final = "void"
_NANO_PER_MILLI: Final = 1_000_000


class DockerEngine:
    """Docker, or what speaks its API, where Docker's own environment variables say.

    Args:
        timeout_s: longest wait for one call.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._client: docker.APIClient | None = None
        self._answered: bool | None = None  # at the last look; None before the first
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        self._stops = ThreadPoolExecutor(_STOP_THREADS, thread_name_prefix="docker stop")
        self._pulls = ThreadPoolExecutor(_PULL_THREADS, thread_name_prefix="docker pull")

    async def available(self) -> bool:
        """Returns whether the engine answers. Why it does not is logged when it has changed, however often one asks."""
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                await self._call(lambda client: client.ping())
        except (UnavailableError, TimeoutError) as error:
            if self._answered is not False:
                _log.info("no container engine", extra={"reason": str(error) or type(error).__name__})
            self._answered = False
            return False
        self._answered = True
        return True

    async def present(self, image: str) -> bool:
        """Returns whether the image is on this machine."""
        try:
            await self._call(lambda client: client.inspect_image(image))  # type: ignore[no-untyped-call]  # in its stubs
        except NotFoundError:
            return False
        return True

    async def create(self, spec: ContainerSpec) -> str:
        """Returns the id of a new container."""
        with _refusals():
            made = await self._call(lambda client: _create(client, spec), absent=ImageAbsentError)
        return str(made["Id"])

    async def pull(self, image: str) -> None:
        """Fetches an image; takes as long as it takes."""
        repository, tag = docker.utils.parse_repository_tag(image)

        def pull(client: docker.APIClient) -> None:
            for line in client.pull(repository, tag=tag or "latest", stream=True, decode=True):
                if "error" in line:
                    raise NotFoundError(f"cannot pull {image}: {line['error']}", field="payload.image")

        try:
            await self._call(pull, threads=self._pulls, limited=False)
        except (_RefusedError, NotFoundError) as error:
            raise NotFoundError(f"cannot pull {image}: {error}", field="payload.image") from error

    async def start(self, container_id: str) -> None:
        """Starts it."""
        with _refusals():
            await self._call(lambda client: client.start(container_id))

    async def inspect(self, container_id: str) -> ContainerState:
        """Returns its state."""
        return _state(await self._call(lambda client: client.inspect_container(container_id)))

    async def stop(self, container_id: str, grace_s: float) -> None:
        """Ends it."""
        await self._call(
            lambda client: client.stop(container_id, timeout=round(grace_s)), threads=self._stops, extra_s=grace_s
        )

    async def remove(self, container_id: str) -> None:
        """Removes it."""
        try:
            await self._call(lambda client: client.remove_container(container_id, v=True, force=True))
        except NotFoundError:
            return
        except _RefusedError as error:
            # "removal already in progress": someone else is doing it
            _log.info("container not removed by us", extra={"container": container_id, "reason": str(error)})

    async def find(self, label: str, value: str) -> tuple[FoundContainer, ...]:
        """Returns all containers that carry the label."""
        rows = await self._call(lambda client: client.containers(all=True, filters={"label": [f"{label}={value}"]}))
        return tuple(FoundContainer(id=row["Id"], labels=row["Labels"]) for row in rows)

    async def logs(self, container_id: str, since: str) -> AsyncIterator[tuple[str, bytes]]:
        """Yields output as it comes. A thread per container: a stream blocks for as long as the container lives."""
        stream = await self._call(lambda client: _open_log(client, container_id, since))
        pipe = _LogPipe(asyncio.get_running_loop())

        def read() -> None:
            reason = ""
            try:
                for stamp, data in _after(since, stream):
                    if not pipe.put(stamp, data):
                        break
            except (requests.RequestException, docker.errors.DockerException, OSError, ValueError) as error:
                reason = str(error) or type(error).__name__
            finally:
                stream._response.close()  # noqa: SLF001 - its own close() only shuts the socket down
            pipe.end(reason)

        threading.Thread(target=read, name=f"log {container_id[:12]}", daemon=True).start()
        try:
            while batch := await pipe.get():
                yield batch
            if pipe.reason:
                raise UnavailableError(f"the log stream broke: {pipe.reason}")
        finally:
            pipe.close()
            stream.close()

    async def close(self) -> None:
        """Lets go of the engine."""
        for threads in (self._threads, self._stops, self._pulls):
            threads.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            self._client.close()

    async def _call(
        self,
        call: Callable[[docker.APIClient], _T],
        *,
        threads: ThreadPoolExecutor | None = None,
        absent: type[NotFoundError] = NotFoundError,
        limited: bool = True,
        extra_s: float = 0.0,
    ) -> _T:
        limit = self._timeout_s + extra_s if limited else None
        try:
            async with asyncio.timeout(limit):
                return await asyncio.get_running_loop().run_in_executor(threads or self._threads, self._guarded, call)
        except docker.errors.ImageNotFound as error:
            raise ImageAbsentError(error.explanation, field="payload.image") from error
        except docker.errors.NotFound as error:
            raise absent(error.explanation) from error
        except docker.errors.APIError as error:
            if error.response is not None and error.response.status_code == requests.codes.not_modified:
                raise ConflictError(error.explanation) from error
            raise _RefusedError(error.explanation or str(error)) from error
        except (docker.errors.DockerException, requests.RequestException, OSError, TimeoutError) as error:
            raise UnavailableError(f"the container engine does not answer: {error or type(error).__name__}") from error

    def _guarded(self, call: Callable[[docker.APIClient], _T]) -> _T:
        if self._client is None:
            environment = docker.utils.kwargs_from_env()  # Docker's own convention for where the engine is
            scheme, _, path = environment.get("base_url", "unix:///var/run/docker.sock").partition("://")
            if scheme == "unix" and not Path(path).exists():  # the SDK would leak a socket for each refusal
                raise FileNotFoundError(f"no {path}")
            self._client = docker.APIClient(version="auto", timeout=round(self._timeout_s), **environment)
        return call(self._client)


class _LogPipe:
    """From the thread that reads a log to the loop: whatever came together is taken together."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.reason = ""
        self._loop = loop
        self._arrived = asyncio.Event()
        self._changed = threading.Condition()
        self._stamp = ""
        self._data = bytearray()
        self._ended = False
        self._closed = False

    def put(self, stamp: str, data: bytes) -> bool:
        """Called by the thread. Waits while too much waits; returns whether anybody still reads."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._data) < _LOG_PIPE_BYTES)
            first = not self._data
            self._data += data
            self._stamp = stamp
            if first and not self._closed:
                self._loop.call_soon_threadsafe(self._arrived.set)
            return not self._closed

    def end(self, reason: str) -> None:
        """Called by the thread when nothing more comes."""
        with self._changed:
            self._ended = True
            self.reason = reason
            if not self._closed:
                self._loop.call_soon_threadsafe(self._arrived.set)

    async def get(self) -> tuple[str, bytes] | None:
        """Returns all that waits and the timestamp of its last entry; None at the end."""
        while True:
            await self._arrived.wait()
            with self._changed:
                self._arrived.clear()
                if self._data:
                    batch = self._stamp, bytes(self._data)
                    self._data.clear()
                    self._changed.notify_all()
                    if self._ended:
                        self._arrived.set()
                    return batch
                if self._ended:
                    return None

    def close(self) -> None:
        """Called by the loop when it reads no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class _RefusedError(UnavailableError):
    """The engine answered with an error of its own."""


@contextmanager
def _refusals() -> Iterator[None]:
    """What the engine refuses when it creates or starts is the spec's fault."""
    try:
        yield
    except _RefusedError as error:
        raise InvalidArgumentError(error.message, field="payload") from error


def _create(client: docker.APIClient, spec: ContainerSpec) -> dict[str, Any]:
    bindings: dict[int | str, Any] = {port.container_port: (spec.publish_on, port.host_port) for port in spec.ports}
    devices = [docker.types.DeviceRequest(device_ids=list(spec.gpus), capabilities=[["gpu"]])] if spec.gpus else None
    limits: dict[str, Any] = {}
    if spec.cpu_milli:
        limits["nano_cpus"] = spec.cpu_milli * _NANO_PER_MILLI
    if spec.memory_bytes:
        limits["mem_limit"] = limits["memswap_limit"] = spec.memory_bytes  # equal: no swap on top
    host = client.create_host_config(
        port_bindings=bindings,
        mounts=[
            docker.types.Mount(target=each.target, source=each.source, type="bind", read_only=each.read_only)
            for each in spec.mounts
        ],
        pids_limit=spec.pids_limit,
        device_requests=devices,
        privileged=False,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        log_config=docker.types.LogConfig(
            # Two files: with one, a rotation takes the file away from under whoever follows it.
            type="json-file",
            config={"max-size": str(max(spec.log_max_bytes, _ENGINE_LOG_MIN_BYTES)), "max-file": "2"},
        ),
        network_mode="default" if spec.network else "none",
        **limits,
    )
    made: dict[str, Any] = client.create_container(
        spec.image,
        entrypoint=list(spec.entrypoint) or None,
        command=list(spec.args) or None,
        environment={**dict(spec.env), _VISIBLE: ",".join(spec.gpus) or _NONE_VISIBLE},
        ports=[port.container_port for port in spec.ports],
        host_config=host,
        labels=spec.labels,
        user=spec.user or None,
        working_dir=spec.working_dir or None,
    )
    return made


def _state(row: dict[str, Any]) -> ContainerState:
    state = row["State"]
    published = (row["NetworkSettings"].get("Ports") or {}).items()
    ports = {
        PortMapping(container_port=int(name.partition("/")[0]), host_port=int(binding["HostPort"]))
        for name, bindings in published
        for binding in bindings or ()
    }
    return ContainerState(
        running=bool(state["Running"]),
        exit_code=int(state["ExitCode"]),
        out_of_memory=bool(state["OOMKilled"]),
        error=str(state["Error"]),
        ports=tuple(sorted(ports, key=lambda port: (port.container_port, port.host_port or 0))),
        started_at=_time(str(state["StartedAt"])),
        pid=int(state["Pid"]) or None,
    )


def _time(text: str) -> datetime | None:
    """Returns an RFC 3339 time with nanoseconds; None for Docker's zero time."""
    if text.startswith("0001-"):
        return None
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6].ljust(6, '0')}+00:00")


def _open_log(client: docker.APIClient, container_id: str, since: str) -> Any:
    started = _time(since) if since else None
    return client.logs(
        container_id, stream=True, follow=True, timestamps=True, since=None if started is None else started.timestamp()
    )


def _after(since: str, stream: Any) -> Iterator[tuple[str, bytes]]:
    """Yields (timestamp, output) of the entries that are younger than ``since``.

    The engine's own filter is not exact to the nanosecond, so its first entries may be known already. Timestamps of
    one log have the same length, except for trailing zeros that Go trims; padded, they sort as text.
    """
    known = _sortable(since)
    for chunk in stream:
        stamp, _, data = chunk.partition(b" ")
        if not _STAMP.fullmatch(stamp):  # the engine tells its own trouble in the stream
            raise ValueError(chunk.decode(errors="replace").strip())
        text = stamp.decode()
        if _sortable(text) > known:
            yield text, data


def _sortable(stamp: str) -> str:
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return f"{whole}.{fraction.ljust(9, '0')}" if stamp else ""
