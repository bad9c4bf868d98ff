"""Programs: Python code from strangers, run once in a sandbox.

Lifecycle: fetch, unpack, start, watch (memory of the whole tree, time, stop), collect result files, clean up. The
program's stdout and stderr are its log, its files under ``$ARCRAY_RESULT_DIR`` its result.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from arcray.config import ProgramSettings
from arcray.core.blobkeys import log_key
from arcray.core.errors import ArcrayError
from arcray.core.orders import StartWorkload
from arcray.core.ports import BlobStore
from arcray.core.workload import Phase, Program, Result
from arcray.node.archive import find_entry_point, unpack
from arcray.node.forks.pool import ForkServers
from arcray.node.forks.slot import Forked
from arcray.node.gpu import GpuDevices
from arcray.node.gpu_shares import GpuShares
from arcray.node.leftovers import remove_small_tree, remove_tree
from arcray.node.log_writer import LogWriter
from arcray.node.places import SOURCE
from arcray.node.process import Child
from arcray.node.process_tree import (
    children,
    descendants,
    kill_user,
    signal_all,
    unfiled_bytes,
    unfiled_bytes_at_most,
)
from arcray.node.program_image import ProgramImage, ProgramStart
from arcray.node.program_start import ProgramStarter
from arcray.node.sandbox import THREAD_COUNTS, Confinement, Limits, Sandbox, SandboxKind, UserPool, search_path
from arcray.node.transfer import fetch, upload_results
from arcray.node.work import STOPPED_EARLY, Attempt, End, Ending, within

__all__ = ["ProgramRunner", "thread_environment"]

_WATCH_S: Final = 0.25  # between looks at the memory of a tree
_OVERTIME_GRACE_S: Final = 5.0  # between SIGTERM and SIGKILL of a program that ran too long
_DRAIN_S: Final = 2.0  # for output that a surviving grandchild still holds open
_MAX_STDIN_BYTES: Final = 1 << 30
# Threads of its own: what strangers leave behind must not hold up heartbeats and logs, which use the common ones.
_REMOVERS: Final = ThreadPoolExecutor(2, thread_name_prefix="remove")
_COUNTERS: Final = ThreadPoolExecutor(4, thread_name_prefix="count")  # likewise what strangers share


def thread_environment(cpu_milli: int) -> dict[str, str]:
    """Returns the variables by which numeric libraries size their thread pools: whole cores, at least one."""
    threads = str(max(1, math.ceil(cpu_milli / 1000)))
    return dict.fromkeys(THREAD_COUNTS, threads)


@dataclass(slots=True, kw_only=True)
class _Process:
    """A started program, whether it ran at all, and of what it took too much."""

    child: Child | Forked
    done: asyncio.Future[int]
    ran: bool = True
    excess: str = ""


class ProgramRunner:
    """Runs ``Program`` payloads.

    Args:
        directory: where programs get their directories; ours alone.
        image: runs them in containers instead of the sandbox; None does not.
        forks: starts short ones; None starts an interpreter for each.
    """

    def __init__(
        self,
        *,
        blobs: BlobStore,
        settings: ProgramSettings,
        sandbox: Sandbox,
        users: UserPool,
        directory: Path,
        devices: GpuDevices,
        shares: GpuShares,
        image: ProgramImage | None = None,
        forks: ForkServers | None = None,
    ) -> None:
        self._starter = ProgramStarter(sandbox, forks)
        self._forks = forks
        self._ended: set[int] = set()  # users whose every process is known to have ended
        self._image = image
        self._blobs = blobs
        self._settings = settings
        self._sandbox = sandbox
        self._users = users
        self._directory = directory
        self._devices = devices
        self._shares = shares

    async def run(self, attempt: Attempt) -> End:
        """Runs a program to its end.

        Raises:
            InvalidArgumentError: its archive or entry point is wrong.
            NotFoundError: its code is not in the blob store.
            ResourceExhaustedError: its archive is too large.
        """
        order = attempt.order
        assert isinstance(order.payload, Program)
        async with self._place(order) as place:
            if order.payload.archive:
                attempt.phase(Phase.PULLING)
            entry = await self._fetch(order.payload, place)
            stdin = await self._fetch_stdin(order.payload, place)
            if attempt.stopping:
                return STOPPED_EARLY
            start = ProgramStart(
                place=place,
                entry=entry,
                args=order.payload.args,
                archive=order.payload.archive,
                stdin=stdin,
                env=self._environment(order, place),
            )
            if self._image is not None:
                await asyncio.to_thread(self._sandbox.prepare, place)
                return await self._collected(attempt, place, await self._image.run(attempt, start))
            log = LogWriter(
                self._blobs,
                log_key(order.workload_id),
                max_bytes=self._settings.log_max_bytes,
                clock=attempt.clock,
            )
            async with log:
                end = await self._execute(attempt, start, log)
            if order.attempt > 1:  # an earlier one may write to it yet
                return end
            return replace(end, result=replace(end.result, log_bytes=0 if log.unused else log.size))

    @asynccontextmanager
    async def _place(self, order: StartWorkload) -> AsyncIterator[Confinement]:
        """Makes the program's directories and its user; removes everything of both in the end, or keeps them."""
        assert isinstance(order.payload, Program)
        one_file = not order.payload.archive and not order.payload.stdin_blob
        forks = self._forks if self._sandbox.own_user and one_file else None
        place = None if forks is None else forks.take_place(order.owner)
        root = self._directory / f"{order.workload_id}-{order.attempt}" if place is None else place.root
        uid = place.uid if place is not None else self._users.take() if self._sandbox.own_user else None
        try:
            confinement = Confinement(
                work=root / "work",
                results=root / "results",
                limits=self._limits(order),
                uid=uid,
                network=self._settings.network,
                devices=self._devices.files(order.allocation),
                libraries=self._devices.libraries if order.allocation.gpus else (),
                stays=place is not None,
            )
            if place is None:
                await _removed(root)
            if place is None or not root.exists():
                root.mkdir(mode=0o711)
                for directory in (confinement.work, confinement.results):
                    directory.mkdir(mode=0o700)
            yield confinement
        finally:
            kept = False
            if uid is not None:
                ended = uid in self._ended
                self._ended.discard(uid)
                if not ended:
                    kill_user(uid)
                if forks is not None and place is not None:
                    kept = forks.give_back_place(order.owner, place, ended=ended)
                else:
                    self._users.give_back(uid)
            if not kept and not remove_small_tree(root):
                await _removed(root)

    def _limits(self, order: StartWorkload) -> Limits:
        return Limits(
            memory_bytes=order.demand.memory_bytes or self._settings.default_memory_bytes,
            processes=self._settings.pids_limit,
            file_bytes=max(order.demand.disk_bytes, self._settings.max_result_bytes),
        )

    async def _fetch(self, payload: Program, place: Confinement) -> str:
        """Puts the code into the work directory; returns the file to run."""
        limit = self._settings.max_archive_bytes
        if not payload.archive:
            await fetch(self._blobs, payload.blob, place.work / SOURCE, max_bytes=limit)
            return SOURCE
        archive = place.work.with_name("archive.zip")
        await fetch(self._blobs, payload.blob, archive, max_bytes=limit)
        await asyncio.to_thread(unpack, archive, place.work, max_bytes=limit)
        archive.unlink()
        return find_entry_point(place.work, payload.entry_point)

    async def _fetch_stdin(self, payload: Program, place: Confinement) -> Path | None:
        if not payload.stdin_blob:
            return None
        path = place.work.with_name("stdin")
        await fetch(self._blobs, payload.stdin_blob, path, max_bytes=_MAX_STDIN_BYTES)
        if place.uid is not None:
            os.chown(path, place.uid, place.uid)
        return path

    async def _execute(self, attempt: Attempt, start: ProgramStart, log: LogWriter) -> End:
        began_s = attempt.clock.monotonic()
        process, ending = await self._lived(attempt, start, log, forks=True)
        if not process.ran:
            self._starter.doubt(start, attempt.order.owner)
            process, ending = await self._lived(attempt, start, log, forks=False)
        code = await process.done
        duration_ms = (attempt.clock.monotonic() - began_s) * 1000
        result = Result(exit_code=code, duration_ms=duration_ms, pid=process.child.pid)
        if process.excess:
            end = End(phase=Phase.FAILED, message=f"killed: {process.excess}", result=result)
        elif code:
            end = attempt.stopped_or(ending, End(phase=Phase.FAILED, message=_describe(code), result=result))
        else:
            end = attempt.stopped_or(ending, End(phase=Phase.SUCCEEDED, result=result))
        return await self._collected(attempt, start.place, end)

    async def _lived(
        self, attempt: Attempt, start: ProgramStart, log: LogWriter, *, forks: bool
    ) -> tuple[_Process, Ending]:
        """Returns the program once it has ended, and why."""
        async with self._started(attempt, start, log, forks=forks) as process:
            attempt.phase(Phase.RUNNING)
            ending = await attempt.until(process.done)
            if ending is not Ending.DONE:
                grace_s = attempt.grace_s if ending is Ending.STOP else _OVERTIME_GRACE_S
                await self._terminate(attempt, process, grace_s)
            await process.done
        if ending is not Ending.DONE:
            process.ran = True  # or will not be
        return process, ending

    async def _collected(self, attempt: Attempt, place: Confinement, end: End) -> End:
        """Returns the end with its result files stored; too many of them are a failure."""
        limit = self._settings.max_result_bytes
        try:
            number = attempt.order.attempt
            keys = await upload_results(self._blobs, attempt.workload_id, number, place.results, max_bytes=limit)
        except ArcrayError as error:
            return End(phase=Phase.FAILED, message=str(error), result=end.result)
        return replace(end, result=replace(end.result, blobs=keys))

    @asynccontextmanager
    async def _started(
        self, attempt: Attempt, start: ProgramStart, log: LogWriter, *, forks: bool
    ) -> AsyncIterator[_Process]:
        """Starts the program with its output going to the log; nothing of it is left afterwards."""
        begun = await self._starter.fork(start, attempt.order.owner) if forks else None
        if begun is None:
            if forks:  # else it was told to run already, by a fork that did not, and no phase leads back
                attempt.phase(Phase.STARTING)  # takes a while; a fork runs before anybody could hear that it starts
            begun = await self._starter.spawn(start)
        child, uid = begun.child, start.place.uid
        process = _Process(child=child, done=asyncio.ensure_future(child.wait()))
        pump = asyncio.create_task(begun.output.pump(log.write))
        watches = [asyncio.create_task(self._watch_memory(attempt, process, start.place.limits.memory_bytes))]
        if attempt.order.allocation.gpus:
            watches.append(asyncio.create_task(self._watch_shares(attempt, process)))
        try:
            yield process
        finally:
            for watch in watches:
                watch.cancel()
            self._kill(process)
            await child.wait()
            process.ran = begun.settled()
            if uid is not None:
                if isinstance(child, Child):
                    kill_user(uid)
                self._ended.add(uid)
            if not pump.done():
                await asyncio.wait({pump}, timeout=_DRAIN_S)
            pump.cancel()
            begun.output.close()

    def _environment(self, order: StartWorkload, place: Confinement) -> Mapping[str, str]:
        assert isinstance(order.payload, Program)
        work, results = self._sandbox.paths(place)
        return {
            "HOME": str(work),
            "LANG": "C.UTF-8",
            "PATH": search_path() if self._image is not None else search_path(self._sandbox.python),
            "PYTHONUNBUFFERED": "1",
            **thread_environment(order.demand.cpu_milli),
            "TASK_ID": order.workload_id,  # or by what name its protocol knows it
            **self._devices.environment(order.allocation, own=dict(order.payload.env)),
            "ARCRAY_WORKLOAD_ID": order.workload_id,
            "ARCRAY_RESULT_DIR": str(results),
        }

    async def _watch_memory(self, attempt: Attempt, process: _Process, limit: int) -> None:
        while True:
            await attempt.clock.sleep(_WATCH_S)
            tree = (process.child.pid, *descendants(process.child.pid))
            if unfiled_bytes_at_most(tree) <= limit:
                continue  # the exact figure is dear, and is asked for only where it can be too much
            if await asyncio.get_running_loop().run_in_executor(_COUNTERS, unfiled_bytes, tree) > limit:
                process.excess = f"used more than {limit} bytes of memory"
                self._kill(process)
                return

    async def _watch_shares(self, attempt: Attempt, process: _Process) -> None:
        allocation = attempt.order.allocation
        process.excess = await self._shares.until_overdrawn(process.child.pid, allocation)
        self._kill(process)

    async def _terminate(self, attempt: Attempt, process: _Process, grace_s: float) -> None:
        """Ends it politely, then for certain."""
        signal_all(self._inside(process), signal.SIGTERM)
        if not await within(attempt.clock, grace_s, process.done):
            self._kill(process)

    def _inside(self, process: _Process) -> tuple[int, ...]:
        """Returns the program's own processes.

        bubblewrap's two are left out: a polite signal to either ends the namespace, and the program impolitely. So are
        a fork server's slot, and the launcher that waits for a program without namespaces. One that has ended has none:
        its number may be that of another process, and its slot may run another program.
        """
        if process.child.exited:
            return ()
        pid = process.child.pid
        below = descendants(pid)
        if isinstance(process.child, Forked):
            return below
        if self._sandbox.kind is not SandboxKind.BUBBLEWRAP:
            return below or (pid,)
        inits = set(children(pid))
        return tuple(each for each in below if each not in inits)

    def _kill(self, process: _Process) -> None:
        if process.child.exited:
            return
        signal_all(descendants(process.child.pid), signal.SIGKILL)
        if self._sandbox.kind is SandboxKind.BUBBLEWRAP:
            process.child.kill_group()
        elif not process.child.exited:
            signal_all((process.child.pid,), signal.SIGHUP)  # on which the launcher ends all that is left below it


async def _removed(root: Path) -> None:
    """Removes a directory, however often this is cancelled. In a thread: a program may leave a million files."""
    await asyncio.shield(asyncio.get_running_loop().run_in_executor(_REMOVERS, remove_tree, root))


def _describe(code: int) -> str:
    if code > 128:
        try:
            return f"ended by {signal.Signals(code - 128).name}"
        except ValueError:
            pass
    return f"exit code {code}"
