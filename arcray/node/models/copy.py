"""One loaded copy of a model: its process is started, watched, started again, and ended.

A copy that cannot be loaded at first has failed: the cluster decides about another attempt. Once it has answered, a
death is met here, with a growing wait, up to ``max_restarts``; a long good run forgets earlier deaths.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import arcray
from arcray.config import ModelSettings
from arcray.core.blobkeys import log_key
from arcray.core.errors import PermissionDeniedError
from arcray.core.model import Model, ModelFormat
from arcray.core.ports import BlobStore
from arcray.core.workload import ModelServer, Phase, Result
from arcray.node.gpu import GpuDevices
from arcray.node.gpu_shares import GpuShares
from arcray.node.log_writer import LogWriter
from arcray.node.models.frames import LoadSpec
from arcray.node.models.link import ModelBrokenError, ModelLink
from arcray.node.models.registry import Copy, ModelRegistry
from arcray.node.process import Child, User, spawn_piped
from arcray.node.program import thread_environment
from arcray.node.transfer import fetch
from arcray.node.work import Attempt, End, Ending, within

__all__ = ["ModelRunner"]

_BACKOFF_S: Final = 0.5  # before the first restart; doubles
_BACKOFF_MAX_S: Final = 30.0
_FORGIVEN_AFTER_S: Final = 300.0  # a process that lived so long starts the count anew
_STOP_GRACE_S: Final = 2.0
_MAX_FILE_BYTES: Final = 1 << 40
_LOG_MAX_BYTES: Final = 16 * 2**20
_PACKAGE_ROOT: Final = Path(arcray.__file__).parent.parent


@dataclass(slots=True, kw_only=True)
class _Life:
    """One process of a copy, and what it was ended for; "" while it was not."""

    child: Child
    link: ModelLink
    excess: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """How each process of a copy is started."""

    spec: LoadSpec
    root: Path
    user: User | None


class ModelRunner:
    """Runs ``ModelServer`` payloads.

    Args:
        directory: where model files and working directories are; ours alone.
    """

    def __init__(
        self,
        *,
        blobs: BlobStore,
        settings: ModelSettings,
        registry: ModelRegistry,
        directory: Path,
        devices: GpuDevices,
        shares: GpuShares,
    ) -> None:
        self._blobs = blobs
        self._settings = settings
        self._registry = registry
        self._directory = directory
        self._devices = devices
        self._shares = shares

    async def run(self, attempt: Attempt) -> End:
        """Keeps a copy loaded until it is stopped.

        Raises:
            UnavailableError: the user that the settings name is not here, or cannot be become.
            PermissionDeniedError: the settings do not allow this module, or a variable of its environment.
            NotFoundError: its file is not in the blob store.
        """
        payload = attempt.order.payload
        assert isinstance(payload, ModelServer)
        self._check_allowed(payload.model)
        root = self._directory / f"{attempt.workload_id}-{attempt.order.attempt}"
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            spec = await self._spec(attempt, payload.model, root)
            user = User.named(self._settings.user) if self._settings.user else None
            if user is not None:
                for path in (*root.iterdir(), root):
                    os.chown(path, user.uid, user.gid)
            attempt.phase(Phase.STARTING)
            log = LogWriter(
                self._blobs,
                log_key(attempt.workload_id),
                max_bytes=_LOG_MAX_BYTES,
                clock=attempt.clock,
                keep_newest=True,
            )
            async with log:
                return await self._supervise(attempt, _Start(spec=spec, root=root, user=user), log)
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def _check_allowed(self, model: Model) -> None:
        """Refuses code that no operator put there: a model's process is no sandbox, and any callable is a model.

        Variables can bring code as well, so they are allowed by name; an endpoint would let whoever may submit ask any
        host that this machine reaches, so they are allowed by host.
        """
        for name, _ in model.env:
            if not any(fnmatchcase(name, pattern) for pattern in self._settings.env):
                raise PermissionDeniedError(f"node.models.env does not allow {name}", field="model.env")
        module, colon, _ = model.source.partition(":")
        if model.format is ModelFormat.OPENAI:
            host = urlsplit(model.source).hostname or ""
            if not any(fnmatchcase(host, pattern) for pattern in self._settings.endpoints):
                raise PermissionDeniedError(f"node.models.endpoints does not allow {host}", field="model.source")
        if model.format is not ModelFormat.PYTHON or not colon:  # an entry point was installed on purpose
            return
        top = module.partition(".")[0]
        if any((path / top).is_dir() or (path / f"{top}.py").is_file() for path in self._settings.python_path):
            return
        if not any(fnmatchcase(model.source, pattern) for pattern in self._settings.allow):
            raise PermissionDeniedError(
                f"{model.source} is not below node.models.python_path and node.models.allow does not name it",
                field="model.source",
            )

    async def _spec(self, attempt: Attempt, model: Model, root: Path) -> LoadSpec:
        source = model.source
        if model.format is ModelFormat.ONNX:
            attempt.phase(Phase.PULLING)
            path = root / "model.onnx"
            await fetch(self._blobs, model.source, path, max_bytes=_MAX_FILE_BYTES)
            source = str(path)
        threads = thread_environment(attempt.order.demand.cpu_milli)
        return LoadSpec(
            model_id=model.id,
            format=model.format.value,
            source=source,
            target=model.target,
            slots=model.max_concurrency or self._settings.max_concurrency,
            threads=int(threads["OMP_NUM_THREADS"]),
            gpu=bool(attempt.order.allocation.gpus),
            probe_s=self._settings.probe_s,
            probe_timeout_s=self._settings.probe_timeout_s,
            env={
                # First: what it sets decides nothing that arcray does.
                **self._devices.environment(attempt.order.allocation, own=dict(model.env)),
                "HOME": str(root),
                "LANG": "C.UTF-8",
                "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
                "PYTHONUNBUFFERED": "1",
                **threads,
                "PYTHONPATH": ":".join(map(str, (*self._settings.python_path, _PACKAGE_ROOT))),
            },
        )

    async def _supervise(self, attempt: Attempt, start: _Start, log: LogWriter) -> End:
        """Starts process after process until one is stopped on request or too many have died."""
        deaths = 0
        first = True
        while True:
            born = attempt.clock.monotonic()
            why = ""
            try:
                async with self._alive(attempt, start, log) as life:
                    if first:
                        attempt.phase(Phase.RUNNING)
                        first = False
                    ending, code = await self._serve(attempt, start.spec, life, log)
                    why = life.excess and f": it {life.excess}"
            except ModelBrokenError as error:
                ending, code, why = Ending.DONE, None, f": {error.message}"
                if attempt.stopping:
                    return End(phase=Phase.STOPPED, message="stopped while it was loaded")
                if first:
                    return End(phase=Phase.FAILED, message=f"the model cannot be loaded: {error.message}")
            if ending is not Ending.DONE:
                return attempt.stopped_or(ending, End(phase=Phase.STOPPED, result=Result(exit_code=code)))
            deaths = 1 if attempt.clock.monotonic() - born > _FORGIVEN_AFTER_S else deaths + 1
            if deaths > self._settings.max_restarts:
                message = f"its process died {deaths} times, the last time with exit code {code}{why}"
                return End(phase=Phase.FAILED, message=message, result=Result(exit_code=code))
            await log.note(f"the model's process died with exit code {code}{why}; restart {deaths}")
            wait_s = min(_BACKOFF_MAX_S, _BACKOFF_S * 2 ** (deaths - 1))
            pause = asyncio.ensure_future(attempt.clock.sleep(wait_s))
            ending = await attempt.until(pause)
            pause.cancel()
            if ending is not Ending.DONE:
                return attempt.stopped_or(ending, End(phase=Phase.STOPPED))

    async def _serve(self, attempt: Attempt, spec: LoadSpec, life: _Life, log: LogWriter) -> tuple[Ending, int]:
        """Lets a process answer until it dies or is to stop; returns why, and its exit code."""
        assert isinstance(attempt.order.payload, ModelServer)
        copy = Copy(
            model_id=attempt.order.payload.model.id,
            workload_id=attempt.workload_id,
            slots=spec.slots,
            link=life.link,
            hung=life.child.kill_group,
        )
        self._registry.add(copy)
        states: asyncio.Queue[str] = asyncio.Queue()
        life.link.on_state = states.put_nowait
        following = asyncio.create_task(self._follow(copy, states, log))
        listening = asyncio.create_task(self._listen(attempt, life, log))
        gone = asyncio.ensure_future(life.child.wait())
        reason = "the model's process died"
        try:
            ending = await attempt.until(gone)
            if ending is not Ending.DONE:
                reason = "the model was stopped"
            elif listening.done():
                reason = self._silence
        finally:
            following.cancel()
            listening.cancel()
            self._registry.remove(copy, reason)
        life.link.close()
        if not await within(attempt.clock, _STOP_GRACE_S, gone):
            life.child.kill_group()
        return ending, await gone

    async def _listen(self, attempt: Attempt, life: _Life, log: LogWriter) -> None:
        """Ends a process that gives no sign of life: one whose event loop or interpreter the model's code holds."""
        half_s = self._settings.silence_s / 2
        while await within(attempt.clock, half_s, life.link.ping()):
            await attempt.clock.sleep(half_s)
        await log.note(self._silence)
        life.child.kill_group()

    async def _watch_shares(self, attempt: Attempt, life: _Life, log: LogWriter) -> None:
        """Ends a process that takes more of a GPU than the copy's share: others were promised the rest."""
        allocation = attempt.order.allocation
        life.excess = await self._shares.until_overdrawn(life.child.pid, allocation)
        life.child.kill_group()  # first, because a log that cannot be written has its writers wait
        await log.note(f"the model's process was ended: it {life.excess}")

    @property
    def _silence(self) -> str:
        return f"the model's process gave no sign of life for {self._settings.silence_s:g} s and was ended"

    async def _follow(self, copy: Copy, states: asyncio.Queue[str], log: LogWriter) -> None:
        """Offers a copy only while what it asks can answer; a model changes its state twice a second at most."""
        while True:
            reason = await states.get()
            if reason:
                self._registry.withdraw(copy)
                await log.note(f"not offered: {reason}")
            else:
                self._registry.offer(copy)
                await log.note("offered again")

    @asynccontextmanager
    async def _alive(self, attempt: Attempt, start: _Start, log: LogWriter) -> AsyncIterator[_Life]:
        """Yields a process that is ready to answer; nothing of it is left afterwards.

        Raises:
            ModelBrokenError: it ended, or was not ready in time.
        """
        ours, theirs = socket.socketpair()
        argv = (sys.executable, "-P", "-m", "arcray.node.models.host", str(theirs.fileno()))
        try:
            child, output = await spawn_piped(
                argv, env=start.spec.env, cwd=start.root, pass_fds=(theirs.fileno(),), user=start.user
            )
        finally:
            theirs.close()
        pump = asyncio.create_task(output.pump(log.write))
        life = _Life(child=child, link=await ModelLink.open(ours))
        watching = asyncio.create_task(self._watch_shares(attempt, life, log))
        try:
            await self._load(attempt, life, start.spec)
            yield life
        finally:
            watching.cancel()
            life.link.close()
            await child.ensure_dead()
            await asyncio.wait({pump}, timeout=_STOP_GRACE_S)
            pump.cancel()
            output.close()

    async def _load(self, attempt: Attempt, life: _Life, spec: LoadSpec) -> None:
        limit_s = self._settings.start_timeout_s
        loading = asyncio.ensure_future(life.link.load(spec))
        try:
            async with asyncio.timeout(limit_s):
                ending = await attempt.until(loading)
        except TimeoutError as error:
            raise ModelBrokenError(f"it was not ready after {limit_s:g} s") from error
        finally:
            if not loading.done():
                loading.cancel()
        if ending is not Ending.DONE:
            raise ModelBrokenError("it was not ready when it had to end")
        try:
            await loading
        except ModelBrokenError as error:
            raise (ModelBrokenError(f"it {life.excess}") if life.excess else error) from None
