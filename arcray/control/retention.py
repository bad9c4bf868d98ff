"""Retention: what has ended is deleted after its time, little by little, while everything else goes on.

What lives here: the pace, and what goes along with a row (its blobs, its place in memory). What does not: what has
been kept for long enough (expiry). Invariants: a blob is deleted only after the row that points at it; what is
interrupted is gone on with, by the next turn or by the next scheduler.

The loop rests several times as long as it worked after each step, so that deleting takes a small, fixed part of the
journal however much there is to delete.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Protocol

from arcray.config import RetentionSettings
from arcray.control import expiry
from arcray.control.blobs import Entry
from arcray.control.journal import Journal
from arcray.control.letting_go import LettingGo
from arcray.core.blobkeys import MODELS, OWNED, own_keys, owner_of, result_prefix
from arcray.core.errors import ArcrayError
from arcray.core.ids import WorkloadId
from arcray.core.ports import BlobStore, Clock
from arcray.core.state import ClusterState
from arcray.core.workload import Container, Inference, ModelServer, Program

__all__ = ["RetainedBlobs", "Retention", "blobs_in_use"]

_log = logging.getLogger(__name__)

_REST: Final = 4.0  # times as long as it worked
_SHORTEST_REST_S: Final = 0.01
_RESULTS: Final = "results/"  # each of its entries is a directory


class RetainedBlobs(BlobStore, Protocol):
    """What is needed of the blob store."""

    async def delete_below(self, prefix: str) -> None:
        """Removes every blob whose key begins with this directory; removing none is no error."""
        ...

    def entries(self, directory: str, count: int) -> AsyncIterator[list[Entry]]:
        """Yields what stands in a directory, at most ``count`` at a time."""
        ...


class Retention:
    """Deletes what has been kept for long enough.

    Args:
        writing: whether the journal takes writes now; while it does not, nothing is deleted.
        memory: lets go of what is to be deleted.
        in_use: returns what something alive refers to; see ``blobs_in_use``.
    """

    def __init__(
        self,
        journal: Journal,
        blobs: RetainedBlobs,
        clock: Clock,
        settings: RetentionSettings,
        *,
        writing: Callable[[], bool],
        memory: LettingGo,
        in_use: Callable[[], set[str]],
    ) -> None:
        self._journal = journal
        self._blobs = blobs
        self._clock = clock
        self._settings = settings
        self._writing = writing
        self._memory = memory
        self._in_use = in_use
        self._orphans_due_s = 0.0

    async def turn(self) -> None:
        """Waits for the next time and deletes all that is due by then."""
        await self._clock.sleep(self._settings.interval_s)
        if not self._writing():
            return
        try:
            await self.sweep()
        except ArcrayError as error:
            # The next commit finds out for itself; what was begun is gone on with.
            _log.warning("retention interrupted", extra={"reason": error.message})

    async def sweep(self) -> None:
        """Deletes all that is due.

        Raises:
            UnavailableError: the database or the blob store is away; what was deleted until then is.
        """
        settings = self._settings
        await self._sweep_blobs()  # of a scheduler that was interrupted
        await self._sweep_workloads(inference=False, keep_s=settings.workloads_s, most=settings.max_workloads)
        await self._sweep_workloads(inference=True, keep_s=settings.inference_s, most=settings.max_inference)
        await self._sweep_reservations()
        await self._sweep_nodes()
        await self._sweep_events()
        if settings.orphans_s is not None and self._clock.monotonic() >= self._orphans_due_s:
            await self._sweep_orphans(timedelta(seconds=settings.orphans_s))
            await self._sweep_models(timedelta(seconds=settings.orphans_s))
            self._orphans_due_s = self._clock.monotonic() + settings.orphans_s

    async def _sweep_workloads(self, *, inference: bool, keep_s: float | None, most: int | None) -> None:
        now = self._clock.now()
        rule = expiry.Rule(ended_before=_before(now, keep_s), most=most, now=now)
        position: expiry.Position | None = None
        deleted = 0
        while True:
            began_s = self._clock.monotonic()
            search = partial(
                expiry.expired_workloads, inference=inference, rule=rule, after=position, limit=self._settings.batch
            )
            found = await self._journal.read(search)
            if found.ids:
                # Memory first, for nobody may be told that the rows have gone.
                async with self._memory.workloads(found.ids) as ids:
                    deleted += len(await self._journal.write(partial(expiry.delete_workloads, ids=ids, now=now)))
                if not inference:
                    await self._sweep_blobs()
            position = found.next
            if position is None:
                break
            await self._rest(began_s)
        if deleted:
            _log.info("old workloads deleted", extra={"workloads": deleted, "inference": inference})

    async def _sweep_reservations(self) -> None:
        settings, now = self._settings, self._clock.now()
        rule = expiry.Rule(ended_before=_before(now, settings.reservations_s), most=settings.max_reservations, now=now)
        position: expiry.Position | None = None
        while True:
            began_s = self._clock.monotonic()
            search = partial(expiry.expired_reservations, rule=rule, after=position, limit=settings.batch)
            old, position = await self._journal.read(search)
            if old:
                async with self._memory.reservations(old) as ids:
                    await self._journal.write(partial(expiry.delete_reservations, ids=ids))
            if position is None:
                break
            await self._rest(began_s)

    async def _sweep_nodes(self) -> None:
        settings, now = self._settings, self._clock.now()
        old = self._memory.departed(
            before=_before(now, settings.nodes_s), most=settings.max_nodes, until=now - expiry.REPEAT_TERM
        )
        deleted = 0
        for first in range(0, len(old) + 1, settings.batch):  # once at least: deletions that failed are owed
            began_s = self._clock.monotonic()
            async with self._memory.nodes(old[first : first + settings.batch]) as ids:
                if ids:
                    await self._journal.write(partial(expiry.delete_nodes, ids=ids))
                    deleted += len(ids)
            if first + settings.batch < len(old):
                await self._rest(began_s)
        if deleted:
            _log.info("nodes that left forgotten", extra={"nodes": deleted})

    async def _sweep_events(self) -> None:
        settings = self._settings
        before = _before(self._clock.now(), settings.events_s)
        position: int | None = 0
        while position is not None:
            began_s = self._clock.monotonic()
            search = partial(
                expiry.expired_events, before=before, most=settings.max_events, after=position, limit=settings.batch
            )
            gone, position = await self._journal.read(search)
            if gone:
                await self._journal.write(partial(expiry.delete_events, numbers=gone))
            if position is not None:
                await self._rest(began_s)

    async def _sweep_blobs(self) -> None:
        """Deletes the blobs of workloads whose rows have gone."""
        last = ""
        while ids := await self._journal.read(partial(expiry.discarded, after=last, limit=self._settings.batch)):
            last = ids[-1]
            # An id that other protocols choose may come again: then the blobs are the new workload's, and go with it.
            again = await self._journal.read(partial(expiry.stored_among, ids=ids))
            in_use = self._in_use()
            # A workload that repeats another may run its program; its note stays for a later sweep.
            free = [each for each in ids if each not in again and in_use.isdisjoint(_places(each))]
            for workload_id in free:
                for key in own_keys(workload_id):
                    await self._blobs.delete(key)
                await self._blobs.delete_below(result_prefix(workload_id))
            if free:
                await self._journal.write(partial(expiry.forget_discards, ids=free))
        await self._sweep_programs()

    async def _sweep_programs(self) -> None:
        """Deletes the programs of such workloads that have keys of their own, which no other submission uses."""
        last = ""
        while keys := await self._journal.read(partial(expiry.discarded_blobs, after=last, limit=self._settings.batch)):
            last = keys[-1]
            free = [key for key in keys if key not in self._in_use()]
            for key in free:
                await self._blobs.delete(key)
            if free:
                await self._journal.write(partial(expiry.forget_discarded_blobs, keys=free))

    async def _sweep_orphans(self, term: timedelta) -> None:
        """Deletes blobs of workloads that have no row: of submissions that came to nothing, or written too late.

        A blob is written before its submission, so it is given its time.
        """
        deleted = 0
        for directory in OWNED:
            async for entries in self._blobs.entries(directory, self._settings.batch):
                began_s = self._clock.monotonic()
                names = _older(entries, self._clock.now() - term)
                old = {name: owner for name in names if (owner := owner_of(name)) is not None}
                stored = await self._journal.read(partial(expiry.stored_among, ids=list(old.values())))
                in_use = self._in_use()
                for name, owner in old.items():
                    key = f"{directory}/{name}"
                    if owner not in stored and in_use.isdisjoint((key, f"{key}/")):
                        await self._delete_entry(key)
                        deleted += 1
                await self._rest(began_s)
        if deleted:
            _log.info("orphaned blobs deleted", extra={"entries": deleted})

    async def _sweep_models(self, term: timedelta) -> None:
        """Deletes model files that no model names: of models that were removed, and of registrations that were refused.

        A file is written before its model is registered, anew each time, so it is given its time.
        """
        deleted = 0
        async for entries in self._blobs.entries(MODELS, self._settings.batch):
            old = {f"{MODELS}/{name}" for name in _older(entries, self._clock.now() - term)}
            for key in sorted(old - self._in_use()):
                began_s = self._clock.monotonic()
                if key not in self._in_use():  # asked once more: models are registered meanwhile
                    await self._blobs.delete(key)
                    deleted += 1
                await self._rest(began_s)
        if deleted:
            _log.info("model files of no model deleted", extra={"files": deleted})

    async def _delete_entry(self, key: str) -> None:
        if key.startswith(_RESULTS):
            await self._blobs.delete_below(f"{key}/")
        else:
            await self._blobs.delete(key)

    async def _rest(self, began_s: float) -> None:
        worked_s = self._clock.monotonic() - began_s
        await self._clock.sleep(max(_SHORTEST_REST_S, _REST * worked_s))


def blobs_in_use(state: ClusterState) -> set[str]:
    """Returns what everything alive refers to: keys of blobs, and the directories of those that are results."""
    keys = {model.source for model in state.models.values()}
    for workload in state.workloads.values():
        if not workload.phase.terminal:
            match workload.spec.payload:
                case Program(blob=blob, stdin_blob=stdin):
                    keys |= {blob, stdin}
                case ModelServer(model=model):
                    keys.add(model.source)
                case Container() | Inference():
                    pass
    return keys | {_directory(key) for key in keys}


def _older(entries: Iterable[Entry], young: datetime) -> list[str]:
    """Returns the names of the entries that were written before then."""
    return [entry.name for entry in entries if entry.modified_at is not None and entry.modified_at < young]


def _before(now: datetime, kept_s: float | None) -> datetime | None:
    return None if kept_s is None else now - timedelta(seconds=kept_s)


def _directory(key: str) -> str:
    return "/".join(key.split("/")[:2]) + "/"


def _places(workload_id: WorkloadId) -> Sequence[str]:
    return (*own_keys(workload_id), result_prefix(workload_id))
