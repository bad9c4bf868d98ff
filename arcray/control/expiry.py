"""What has been kept for long enough, found and deleted in SQL.

Candidates are looked for in the reading thread, in the order of an index and in bounded steps, so that a long search
delays no commit; the writing thread deletes by key alone. What is alive is never a candidate: not a workload without
an end, and no event of one. A workload with an idempotency key stays for as long as the key is promised.

Deleting a workload's row and noting that its blobs are to go is one transaction. Blobs are deleted after it and the
note after them, so a row never points at nothing and a crash leaves a note.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from arcray.control.pages import INFERENCE, NOT_INFERENCE
from arcray.control.rows import decode_row, microseconds
from arcray.control.schema import DISCARDED_BLOBS, DISCARDS, EVENTS, NODES, RESERVATIONS, TALLIES, WORKLOADS
from arcray.core import events as ev
from arcray.core.blobkeys import is_of_submission
from arcray.core.errors import InternalError
from arcray.core.ids import NodeId, ReservationId, WorkloadId
from arcray.core.node import Health
from arcray.core.workload import PayloadKind, Phase, Program, Workload

__all__ = [
    "HISTORY",
    "KEPT",
    "KEY_TERM",
    "REPEAT_TERM",
    "Expired",
    "Position",
    "Rule",
    "delete_events",
    "delete_nodes",
    "delete_reservations",
    "delete_workloads",
    "discarded",
    "discarded_blobs",
    "expired_events",
    "expired_reservations",
    "expired_workloads",
    "forget_discarded_blobs",
    "forget_discards",
    "stored_among",
]

KEY_TERM: Final = timedelta(hours=24)
"""An idempotency key is remembered for at least this long."""

REPEAT_TERM: Final = timedelta(hours=1)
"""And a submission without one may be repeated, under its id, for as long as a client and Ray repeat calls."""

HISTORY: Final[frozenset[type]] = frozenset({
    ev.NodeAttached, ev.NodeDetached, ev.NodeHealthChanged, ev.NodeSchedulingChanged, ev.ModelRegistered,
    ev.ModelRemoved, ev.WorkloadSubmitted, ev.WorkloadPlaced, ev.WorkloadPhaseChanged, ev.WorkloadStopRequested,
    ev.WorkloadRequeued, ev.WorkloadFinished, ev.WorkloadCharged, ev.WorkloadPreempted, ev.WorkloadEvicted,
    ev.PlaceClaimed, ev.ClaimEnded, ev.ReservationGranted, ev.ReservationTaken, ev.ReservationEnded,
    ev.WorkloadSettled, ev.NodeDrainChanged, ev.NodeRelabelled, ev.QuotaChanged, ev.LoginSet,
})  # fmt: skip
"""Events that are told for a while and then deleted: nothing but history follows from them."""

KEPT: Final[frozenset[type]] = frozenset({
    ev.AccountOpened, ev.SpendingLimitSet, ev.CreditsMoved, ev.KeyIssued, ev.KeyRevoked,
})  # fmt: skip
"""Durable events that are never deleted, because they are records by themselves. A kind is in one of these sets."""

_TERMINAL: Final = sorted(phase for phase in Phase if phase.terminal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a search goes on: after the workload that was made then and has this id."""

    created_at: int
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How long what has ended is kept.

    Args:
        ended_before: what ended earlier is deleted; None keeps it whatever its age.
        most: how many that ended are kept, the newest by creation; None is no limit.
        now: the time.
    """

    ended_before: datetime | None
    most: int | None
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """What one step of a search found.

    Args:
        ids: to be deleted.
        next: where the search goes on; None when it has found all.
    """

    ids: tuple[WorkloadId, ...]
    next: Position | None


def expired_workloads(
    connection: sa.Connection, rule: Rule, after: Position | None, limit: int, *, inference: bool
) -> Expired:
    """Returns the oldest workloads that a rule gives up, in steps of at most ``limit`` rows looked at.

    Args:
        inference: whether this is about inference requests, or about everything else.
    """
    kind = INFERENCE if inference else NOT_INFERENCE
    too_many = _too_many(connection, rule, kind)
    newest = rule.ended_before if rule.ended_before is not None and not too_many else rule.now - REPEAT_TERM
    if rule.ended_before is None and not too_many:
        return Expired(ids=(), next=None)
    place = (WORKLOADS.c.created_at, WORKLOADS.c.id)
    oldest = (
        sa.select(*place, WORKLOADS.c.finished_at, WORKLOADS.c.request_id)
        .where(kind, WORKLOADS.c.created_at < microseconds(newest))
        .order_by(*place)
        .limit(limit)
    )
    if after is not None:
        oldest = oldest.where(sa.tuple_(*place) > sa.tuple_(sa.literal(after.created_at), sa.literal(after.id)))
    keys_until = microseconds(rule.now - KEY_TERM)
    repeats_until = microseconds(rule.now - REPEAT_TERM)
    aged = microseconds(rule.ended_before) if rule.ended_before is not None else None
    ids: list[WorkloadId] = []
    rows = connection.execute(oldest).all()
    for row in rows:
        if row.finished_at is None or row.created_at >= (keys_until if row.request_id else repeats_until):
            continue
        if (aged is not None and row.finished_at < aged) or len(ids) < too_many:
            ids.append(WorkloadId(row.id))
    full = len(rows) == limit
    return Expired(ids=tuple(ids), next=Position(created_at=rows[-1].created_at, id=rows[-1].id) if full else None)


def _too_many(connection: sa.Connection, rule: Rule, kind: sa.TextClause) -> int:
    """Returns how many more have ended than a rule keeps."""
    if rule.most is None:
        return 0
    ended = sa.select(sa.func.coalesce(sa.func.sum(TALLIES.c.workloads), 0)).where(kind, TALLIES.c.phase.in_(_TERMINAL))
    return max(0, int(connection.execute(ended).scalar_one()) - rule.most)


def delete_workloads(connection: sa.Connection, ids: Sequence[WorkloadId], now: datetime) -> list[WorkloadId]:
    """Deletes rows of ended workloads, and notes that their blobs are to go; returns which there were."""
    ended = sa.and_(WORKLOADS.c.id.in_(ids), WORKLOADS.c.finished_at.is_not(None))
    groups = (WORKLOADS.c.account, WORKLOADS.c.kind, WORKLOADS.c.phase)
    counted = connection.execute(sa.select(*groups, sa.func.count().label("number")).where(ended).group_by(*groups))
    for group in counted.all():
        tally = sa.update(TALLIES).where(
            TALLIES.c.account == group.account, TALLIES.c.kind == group.kind, TALLIES.c.phase == group.phase
        )
        connection.execute(tally.values(workloads=TALLIES.c.workloads - group.number))
    columns = (WORKLOADS.c.id, WORKLOADS.c.kind, WORKLOADS.c.body)
    deleted = connection.execute(sa.delete(WORKLOADS).where(ended).returning(*columns)).all()
    # A request has no blobs of its own, and there are too many of them to look for what is not there.
    notes = [
        {"workload_id": row.id, "discarded_at": microseconds(now)}
        for row in deleted
        if row.kind != PayloadKind.INFERENCE.value
    ]
    if notes:
        connection.execute(sa.delete(DISCARDS).where(DISCARDS.c.workload_id.in_([n["workload_id"] for n in notes])))
        connection.execute(sa.insert(DISCARDS), notes)
    keys = [key for row in deleted if row.kind == PayloadKind.PROGRAM.value and (key := _own_program(row.id, row.body))]
    if keys:
        connection.execute(
            sa.insert(DISCARDED_BLOBS), [{"key": key, "discarded_at": microseconds(now)} for key in keys]
        )
    return [WorkloadId(row.id) for row in deleted]


def _own_program(workload_id: str, body: str) -> str:
    """Returns the key of a program that only this submission has; "" where its key follows from the workload's id."""
    try:
        workload = decode_row(Workload, workload_id, body)
    except InternalError:
        return ""  # what of it can be read nowhere is an orphan
    assert isinstance(workload.spec.payload, Program)
    blob = workload.spec.payload.blob
    return blob if is_of_submission(blob, workload.spec.id) else ""


def expired_reservations(
    connection: sa.Connection, rule: Rule, after: Position | None, limit: int
) -> tuple[list[ReservationId], Position | None]:
    """Returns the oldest reservations that a rule gives up, and where to go on; None when that is all.

    A reservation's id follows from its idempotency key, so it stays for as long as one is promised. Only what the rule
    may give up is looked at: nothing that was made after the time before which it should have ended.
    """
    over = sa.text("ended_at IS NOT NULL")
    too_many = 0
    if rule.most is not None:
        ended = connection.execute(sa.select(sa.func.count()).select_from(RESERVATIONS).where(over)).scalar_one()
        too_many = max(0, ended - rule.most)
    if rule.ended_before is None and not too_many:
        return [], None
    aged = -1 if rule.ended_before is None else microseconds(rule.ended_before)
    place = (RESERVATIONS.c.created_at, RESERVATIONS.c.id)
    newest = microseconds(rule.now - KEY_TERM)
    if not too_many:
        newest = min(newest, aged)
    oldest = sa.select(*place, RESERVATIONS.c.ended_at).where(over, RESERVATIONS.c.created_at < newest)
    if after is not None:
        oldest = oldest.where(sa.tuple_(*place) > sa.tuple_(sa.literal(after.created_at), sa.literal(after.id)))
    rows = connection.execute(oldest.order_by(*place).limit(limit)).all()
    ids = [ReservationId(row.id) for number, row in enumerate(rows) if number < too_many or row.ended_at < aged]
    return ids, Position(created_at=rows[-1].created_at, id=rows[-1].id) if len(rows) == limit else None


def delete_reservations(connection: sa.Connection, ids: Sequence[ReservationId]) -> None:
    """Deletes rows of ended reservations."""
    ended = RESERVATIONS.c.ended_at.is_not(None)
    connection.execute(sa.delete(RESERVATIONS).where(RESERVATIONS.c.id.in_(ids), ended))


def delete_nodes(connection: sa.Connection, ids: Sequence[NodeId]) -> None:
    """Deletes rows of nodes that have left."""
    away = NODES.c.health.in_((Health.LOST, Health.GONE))
    connection.execute(sa.delete(NODES).where(NODES.c.id.in_(ids), away))


def stored_among(connection: sa.Connection, ids: Sequence[WorkloadId]) -> set[WorkloadId]:
    """Returns which of these workloads have rows."""
    found = connection.execute(sa.select(WORKLOADS.c.id).where(WORKLOADS.c.id.in_(ids)))
    return {WorkloadId(row.id) for row in found}


def discarded(connection: sa.Connection, after: str, limit: int) -> list[WorkloadId]:
    """Returns workloads whose blobs are to go, by id, beginning after one of those."""
    noted = sa.select(DISCARDS.c.workload_id).where(DISCARDS.c.workload_id > after)
    rows = connection.execute(noted.order_by(DISCARDS.c.workload_id).limit(limit)).all()
    return [WorkloadId(row.workload_id) for row in rows]


def forget_discards(connection: sa.Connection, ids: Sequence[WorkloadId]) -> None:
    """Notes that the blobs of these workloads have gone."""
    connection.execute(sa.delete(DISCARDS).where(DISCARDS.c.workload_id.in_(ids)))


def discarded_blobs(connection: sa.Connection, after: str, limit: int) -> list[str]:
    """Returns keys of blobs that are to go, in order, beginning after one of those."""
    noted = sa.select(DISCARDED_BLOBS.c.key).where(DISCARDED_BLOBS.c.key > after)
    return [row.key for row in connection.execute(noted.order_by(DISCARDED_BLOBS.c.key).limit(limit)).all()]


def forget_discarded_blobs(connection: sa.Connection, keys: Sequence[str]) -> None:
    """Notes that these blobs have gone."""
    connection.execute(sa.delete(DISCARDED_BLOBS).where(DISCARDED_BLOBS.c.key.in_(keys)))


def expired_events(
    connection: sa.Connection, before: datetime | None, most: int | None, after: int, limit: int
) -> tuple[list[int], int | None]:
    """Returns the numbers of the oldest events that may go, and after which to go on; None when that is all.

    Args:
        before: what happened earlier goes; None keeps it whatever its age.
        most: events that are kept, the newest; None is no limit.
    """
    newest = connection.execute(sa.select(sa.func.max(EVENTS.c.seq))).scalar()
    if newest is None:
        return [], None
    kept_from = 0 if most is None else newest - most + 1
    aged = None if before is None else microseconds(before)
    oldest = sa.select(EVENTS.c.seq, EVENTS.c.at, EVENTS.c.kind, EVENTS.c.subject).where(EVENTS.c.seq > after)
    rows = connection.execute(oldest.order_by(EVENTS.c.seq).limit(limit)).all()
    # The newest stays whatever its age: SQLite would give its number to the next one.
    old = [row for row in rows if row.seq < newest and (row.seq < kept_from or (aged is not None and row.at < aged))]
    subjects = sa.select(WORKLOADS.c.id).where(
        sa.text("finished_at IS NULL"), WORKLOADS.c.id.in_({row.subject for row in old})
    )
    alive = {row.id for row in connection.execute(subjects)} if old else set()
    kinds = {kind.__name__ for kind in HISTORY}
    gone = [row.seq for row in old if row.kind in kinds and row.subject not in alive]
    # Time hardly ever goes back, so what follows something young is young, or is found by the next sweep.
    return gone, rows[-1].seq if len(old) == limit else None


def delete_events(connection: sa.Connection, numbers: Sequence[int]) -> None:
    """Deletes events."""
    connection.execute(sa.delete(EVENTS).where(EVENTS.c.seq.in_(numbers)))
