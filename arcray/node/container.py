"""Containers: images run with limits, without privileges, and outliving the agent.

Labels say whose a container is, so an agent that starts finds those of its predecessor and goes on with them: it waits
for their end and takes up their logs at the last entry that is in the blob store.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from arcray.config import ContainerSettings
from arcray.core.blobkeys import log_key
from arcray.core.errors import (
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.orders import StartWorkload
from arcray.core.ports import BlobStore, Clock
from arcray.core.resources import NO_DEMAND, Allocation
from arcray.core.workload import Container, Phase, Result, VolumeMount
from arcray.node.engine import ContainerSpec, ContainerState, Engine, FoundContainer, ImageAbsentError, Mount
from arcray.node.gpu import GpuDevices
from arcray.node.log_writer import LogWriter
from arcray.node.work import STOPPED_EARLY, Attempt, End, Ending

__all__ = ["LABEL_NODE", "LABEL_TRANSIENT", "Adopted", "ContainerRunner", "check_image", "resolve_volumes"]

_log = logging.getLogger(__name__)

LABEL_NODE: Final = "arcray.node_id"
LABEL_WORKLOAD: Final = "arcray.workload_id"
LABEL_ATTEMPT: Final = "arcray.attempt"
LABEL_CREATED: Final = "arcray.created_s"
LABEL_MAX_DURATION: Final = "arcray.max_duration_s"
LABEL_TRANSIENT: Final = "arcray.transient"  # ends with the agent that started it
_OVERTIME_GRACE_S: Final = 10.0
_RETRY_S: Final = 1.0
_SETTLE_S: Final = 0.02  # between the end of the output and that of the container
_OOM_NEWS_S: Final = 0.2  # after its end an engine hears at the latest that it ran out of memory; they come apart
_LOG_TRIES: Final = 5  # of a log that breaks at the same place


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """A container of an earlier agent: enough of its order to go on, and for how long it has run."""

    order: StartWorkload
    ran_s: float


class ContainerRunner:
    """Runs ``Container`` payloads.

    Args:
        publish_on: host address of published ports.
        directory: remembers how far each log has come; ours alone.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        blobs: BlobStore,
        settings: ContainerSettings,
        node_id: NodeId,
        publish_on: str,
        directory: Path,
        devices: GpuDevices,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._engine = engine
        self._blobs = blobs
        self._settings = settings
        self._node_id = node_id
        self._publish_on = publish_on
        self._directory = directory
        self._devices = devices
        self._adopted: dict[tuple[WorkloadId, int], str] = {}
        self._in_hand: set[tuple[WorkloadId, int]] = set()

    async def run(self, attempt: Attempt) -> End:
        """Runs a container to its end, or goes on with an adopted one.

        Raises:
            PermissionDeniedError: the image is not on the list of those allowed.
            InvalidArgumentError: a volume is not allowed, or the engine refuses the container.
            NotFoundError: the image is nowhere.
            UnavailableError: the engine does not answer.
        """
        adopted = self._adopted.pop((attempt.workload_id, attempt.order.attempt), None)
        if adopted is not None:
            with self._held(attempt):
                async with self._nothing_left(attempt, adopted):
                    return await self._finish(attempt, adopted)
        return await self.run_spec(attempt, self._spec(attempt.order))

    async def run_spec(self, attempt: Attempt, spec: ContainerSpec) -> End:
        """Runs a container of any spec as this attempt. A transient one ends when this is cancelled."""
        with self._held(attempt):
            container_id = await self._create(attempt, spec)
            if isinstance(container_id, End):
                return container_id
            try:
                async with self._nothing_left(attempt, container_id):
                    return await self._start_and_finish(attempt, spec, container_id)
            except asyncio.CancelledError:
                if LABEL_TRANSIENT in spec.labels:
                    await self._remove(attempt, container_id)
                raise

    @contextmanager
    def _held(self, attempt: Attempt) -> Iterator[None]:
        """Keeps an attempt's container, from before it is made, out of what is adopted."""
        key = attempt.workload_id, attempt.order.attempt
        self._in_hand.add(key)
        try:
            yield
        finally:
            self._in_hand.discard(key)

    async def _start_and_finish(self, attempt: Attempt, spec: ContainerSpec, container_id: str) -> End:
        if attempt.stopping:
            await self._engine.remove(container_id)
            return STOPPED_EARLY
        attempt.phase(Phase.STARTING)
        await self._engine.start(container_id)
        ports = (await self._engine.inspect(container_id)).ports if spec.ports else ()
        attempt.phase(Phase.RUNNING, ports=ports)
        return await self._finish(attempt, container_id)

    @asynccontextmanager
    async def _nothing_left(self, attempt: Attempt, container_id: str) -> AsyncIterator[None]:
        """Removes a container whose attempt breaks off: it would run on while the cluster gives its place away.

        Being cancelled is no breaking off: the next agent goes on with it.
        """
        try:
            yield
        except Exception:
            await self._remove(attempt, container_id)
            raise

    async def adopt(self) -> tuple[Adopted, ...]:
        """Returns this node's containers that nobody here waits for; ``run`` goes on with them.

        An earlier agent left them, or this one could not remove them while the engine was away.
        """
        adopted: list[Adopted] = []
        for found in await self._engine.find(LABEL_NODE, self._node_id):
            if _key_of(found) in self._in_hand | self._adopted.keys():
                continue
            if LABEL_TRANSIENT in found.labels:
                await self._engine.remove(found.id)
                continue
            order = _order_of(found)
            try:
                state = await self._engine.inspect(found.id)
            except NotFoundError:  # removed by others since it was listed
                continue
            if state.started_at is None:  # created and never started: as if it had not been ordered
                await self._engine.remove(found.id)
                continue
            self._adopted[order.workload_id, order.attempt] = found.id
            ran_s = max(0.0, (self._clock.now() - state.started_at).total_seconds())
            adopted.append(Adopted(order=order, ran_s=ran_s))
        return tuple(adopted)

    def _spec(self, order: StartWorkload) -> ContainerSpec:
        payload = order.payload
        assert isinstance(payload, Container)
        check_image(payload.image, self._settings.images)
        return ContainerSpec(
            image=payload.image,
            entrypoint=payload.command,
            args=payload.args,
            env=payload.env,
            ports=payload.ports,
            publish_on=self._publish_on,
            mounts=resolve_volumes(payload.volumes, self._settings.mounts),
            cpu_milli=order.demand.cpu_milli,
            memory_bytes=order.demand.memory_bytes,
            pids_limit=self._settings.pids_limit,
            gpus=self._devices.names(order.allocation),
            log_max_bytes=self._settings.log_max_bytes,
            labels=self.labels(order),
        )

    def labels(self, order: StartWorkload) -> dict[str, str]:
        """Returns what a container of this attempt is found by."""
        labels = {
            LABEL_NODE: self._node_id,
            LABEL_WORKLOAD: order.workload_id,
            LABEL_ATTEMPT: str(order.attempt),
            LABEL_CREATED: repr(order.created_s),
        }
        if order.max_duration_s is not None:
            labels[LABEL_MAX_DURATION] = repr(order.max_duration_s)
        return labels

    async def _create(self, attempt: Attempt, spec: ContainerSpec) -> str | End:
        """Creates it; asks for the image only when the engine says that it is absent (saves a call each time).

        Returns:
            Its id; how the attempt ended, when that was while its image was pulled.
        """
        try:
            return await self._engine.create(spec)
        except ImageAbsentError:
            if not self._settings.pull:
                raise NotFoundError(f"no image {spec.image} here, and none is pulled", field="payload.image") from None
        attempt.phase(Phase.PULLING)
        pulling = asyncio.ensure_future(self._engine.pull(spec.image))
        try:
            ending = await attempt.until(pulling)
            if ending is Ending.STOP:
                return STOPPED_EARLY
            if ending is Ending.OVERTIME:
                return attempt.stopped_or(ending, End(phase=Phase.FAILED))
            await pulling
        finally:
            pulling.cancel()
        return await self._engine.create(spec)

    async def _finish(self, attempt: Attempt, container_id: str) -> End:
        """Waits for the end, ends it if asked, and removes it. Cancelled, it leaves the container running."""
        started = attempt.clock.monotonic()
        over = asyncio.ensure_future(self._until_over(attempt, container_id))
        try:
            ending = await attempt.until(over)
            if ending is not Ending.DONE:
                grace_s = attempt.grace_s if ending is Ending.STOP else _OVERTIME_GRACE_S
                await self._stop(attempt, container_id, grace_s)
            state = await over
        finally:
            over.cancel()
        await self._remove(attempt, container_id)
        if state is None:
            return attempt.stopped_or(ending, End(phase=Phase.FAILED, message="its container was removed by others"))
        duration_ms = (attempt.clock.monotonic() - started) * 1000
        result = Result(exit_code=state.exit_code, duration_ms=duration_ms)
        message = (
            "out of memory" if state.out_of_memory else
            state.error or (f"exit code {state.exit_code}" if state.exit_code else "")
        )  # fmt: skip
        phase = Phase.FAILED if message else Phase.SUCCEEDED
        return attempt.stopped_or(ending, End(phase=phase, message=message, result=result))

    async def _until_over(self, attempt: Attempt, container_id: str) -> ContainerState | None:
        """Copies the log until the container has ended; None when it is gone. The engine may be away meanwhile."""
        position = _LogPosition(self._directory / f"{attempt.workload_id}-{attempt.order.attempt}.log-position")
        log = LogWriter(
            self._blobs,
            log_key(attempt.workload_id),
            max_bytes=self._settings.log_max_bytes,
            clock=attempt.clock,
            keep_newest=True,
            flushed=position.flushed,
        )
        breaks = 0
        async with log:
            while True:
                try:
                    try:
                        async for stamp, data in self._engine.logs(container_id, position.taken):
                            breaks = 0
                            position.take(stamp, len(data))
                            await log.write(data)
                    except UnavailableError:
                        breaks += 1
                        if breaks <= _LOG_TRIES:
                            raise
                        await log.note("the rest of the log is lost")
                    state = await self._engine.inspect(container_id)
                    if not state.running:
                        break
                    await attempt.clock.sleep(_SETTLE_S)
                except NotFoundError:
                    return None
                except UnavailableError as error:
                    _log.warning("container engine away", extra={"container": container_id, "reason": error.message})
                    await attempt.clock.sleep(_RETRY_S)
        state = await self._looked_at_again(attempt, container_id, state)
        position.forget()
        return state

    async def _looked_at_again(self, attempt: Attempt, container_id: str, state: ContainerState) -> ContainerState:
        """Returns how one has ended; why it failed within a limit of memory may be known a moment later."""
        if state.out_of_memory or not state.exit_code or not attempt.order.demand.memory_bytes:
            return state
        await attempt.clock.sleep(_OOM_NEWS_S)
        try:
            return await self._engine.inspect(container_id)
        except (NotFoundError, UnavailableError):
            return state

    async def _stop(self, attempt: Attempt, container_id: str, grace_s: float) -> None:
        """Ends it, however long the engine is away."""
        while True:
            try:
                await self._engine.stop(container_id, grace_s)
            except NotFoundError:
                return
            except UnavailableError as error:
                _log.warning("container not stopped yet", extra={"container": container_id, "reason": error.message})
                await attempt.clock.sleep(_RETRY_S)
            else:
                return

    async def _remove(self, attempt: Attempt, container_id: str) -> None:
        try:
            await self._engine.remove(container_id)
        except UnavailableError as error:
            _log.warning("container left behind", extra={"workload_id": attempt.workload_id, "reason": error.message})


def check_image(image: str, allowed: tuple[str, ...]) -> None:
    """Passes images that one of the patterns covers.

    Raises:
        PermissionDeniedError: none does.
    """
    if not any(fnmatchcase(image, pattern) for pattern in allowed):
        raise PermissionDeniedError(f"node.containers.images does not cover {image}", field="payload.image")


def resolve_volumes(volumes: tuple[VolumeMount, ...], allowed: tuple[Path, ...]) -> tuple[Mount, ...]:
    """Returns the mounts, with links resolved: the engine gets the place that was checked, not a name for it.

    Raises:
        InvalidArgumentError: a source is not absolute, absent, or outside of what is allowed; names it.
    """
    roots = tuple(path.resolve() for path in allowed)
    mounts = []
    for index, volume in enumerate(volumes):
        place = f"payload.volumes.{index}"
        if not Path(volume.source).is_absolute():
            raise InvalidArgumentError("must be an absolute path", field=f"{place}.source")
        if not Path(volume.target).is_absolute() or ".." in Path(volume.target).parts or volume.target == "/":
            raise InvalidArgumentError("must be an absolute path below /", field=f"{place}.target")
        try:
            source = Path(volume.source).resolve(strict=True)
        except OSError as error:
            raise InvalidArgumentError("does not exist on the node", field=f"{place}.source") from error
        if not any(source.is_relative_to(root) for root in roots):
            raise InvalidArgumentError("is not below node.containers.mounts", field=f"{place}.source")
        mounts.append(Mount(source=str(source), target=volume.target, read_only=volume.read_only))
    return tuple(mounts)


class _LogPosition:
    """The timestamp of the last log entry that is in the blob store, on disk for the next agent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._taken_bytes = 0
        self._on_the_way: deque[tuple[int, str]] = deque()
        self.taken = path.read_text(encoding="ascii") if path.exists() else ""

    def take(self, stamp: str, size: int) -> None:
        """Notes an entry that goes to the log writer."""
        self._taken_bytes += size
        self._on_the_way.append((self._taken_bytes, stamp))
        self.taken = stamp

    def flushed(self, total: int) -> None:
        """Notes that so many bytes have been stored."""
        stored = ""
        while self._on_the_way and self._on_the_way[0][0] <= total:
            stored = self._on_the_way.popleft()[1]
        if not stored:
            return
        draft = self._path.with_suffix(".draft")
        try:
            draft.write_text(stored, encoding="ascii")
            draft.replace(self._path)
        except OSError as error:  # a full disk, say: the next agent may repeat lines, which is no reason to fail now
            _log.warning("log position not kept", extra={"path": str(self._path), "reason": str(error)})

    def forget(self) -> None:
        """Removes the file."""
        self._path.unlink(missing_ok=True)


def _key_of(found: FoundContainer) -> tuple[WorkloadId, int]:
    return WorkloadId(found.labels[LABEL_WORKLOAD]), int(found.labels[LABEL_ATTEMPT])


def _order_of(found: FoundContainer) -> StartWorkload:
    """Returns what the labels keep of an order."""
    limit = found.labels.get(LABEL_MAX_DURATION)
    workload_id, attempt = _key_of(found)
    return StartWorkload(
        workload_id=workload_id,
        attempt=attempt,
        payload=Container(image=""),
        demand=NO_DEMAND,
        allocation=Allocation(),
        owner="",
        max_duration_s=None if limit is None else float(limit),
        created_s=float(found.labels.get(LABEL_CREATED, "0")),
    )
