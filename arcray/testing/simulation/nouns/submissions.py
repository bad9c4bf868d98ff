"""Submissions: work of every kind, repeated rightly and wrongly; stopped, tried again and put away at any time."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from uuid import UUID

from arcray.core.commands import Command, DiscardWorkload, Reserve, StopWorkload, SubmitWorkload
from arcray.core.ids import ModelId, WorkloadId
from arcray.core.resources import NO_DEMAND
from arcray.core.tariff import Tariff
from arcray.core.workload import (
    Inference,
    ModelServer,
    Origin,
    Payload,
    Priority,
    Program,
    RestartPolicy,
    RestartRule,
    WorkloadSpec,
)
from arcray.testing.builders import a_container, a_model
from arcray.testing.simulation.nouns.cast import ACCOUNTS, Cast, draw_demand

__all__ = ["draw_settlement", "draw_stop", "draw_submission", "draw_work"]


def draw_submission(dice: Random, cast: Cast) -> Command:
    """Returns a new submission, or one that repeats an earlier one rightly or wrongly."""
    if cast.workloads and dice.random() < 0.12:
        return SubmitWorkload(spec=_repeated(dice, dice.choice(cast.workloads)))
    spec = draw_work(dice, cast)
    if cast.reservations and not isinstance(spec.payload, Inference) and dice.random() < 0.5:
        spec = _taking(dice, spec, dice.choice(cast.reservations[-2:]))
    cast.workloads.append(spec)
    return SubmitWorkload(spec=spec)


def draw_settlement(dice: Random, cast: Cast) -> Command | None:
    """Returns another try of what may have ended badly, or that it is put away."""
    if not cast.workloads:
        return None
    ended = dice.choice(cast.workloads)
    if dice.random() < 0.4:
        return DiscardWorkload(workload_id=ended.id, account=dice.choice((None, ended.origin.account)))
    number = len(cast.workloads) + 1
    again = replace(
        ended,
        id=WorkloadId(str(UUID(int=0xB000_0000 + number))),
        created_at=cast.client_time(dice),
        request_id=f"replay of {ended.id}",
        request_digest="replay",
        waiting=False,
        replay_of=ended.id,
    )
    cast.workloads.append(again)
    return SubmitWorkload(spec=again)


def draw_stop(dice: Random, cast: Cast) -> Command | None:
    """Returns a stop, asked by its owner, the operator, or somebody who may not."""
    if not cast.workloads:
        return None
    spec = dice.choice(cast.workloads[-12:])
    account = dice.choice((None, spec.origin.account, spec.origin.account, *ACCOUNTS))
    return StopWorkload(workload_id=spec.id, account=account, grace_s=dice.choice((0.0, 1.0, 5.0)))


def draw_work(dice: Random, cast: Cast) -> WorkloadSpec:
    """Returns new work of any kind; more of it asks for much where some may be ended for other work."""
    number = len(cast.workloads) + 1
    workload_id = WorkloadId(str(UUID(int=0xB000_0000 + number)))
    payload = _payload(dice, cast, workload_id)
    inference = isinstance(payload, Inference)
    demand = NO_DEMAND if inference else draw_demand(dice)
    priority, preemptible = dice.choice(tuple(Priority)), False
    if cast.preempts and not inference:
        demand = replace(demand, cpu_milli=4000)
        preemptible = dice.random() < 0.6
        priority = dice.choice((Priority.NORMAL, Priority.BACKGROUND) if preemptible else tuple(Priority)[:2])
    return WorkloadSpec(
        id=workload_id,
        origin=Origin(facade="rest", account=dice.choice(ACCOUNTS)),
        payload=payload,
        created_at=cast.client_time(dice),
        demand=demand,
        priority=priority,
        restart=RestartPolicy() if inference else _restart(dice),
        selector=(("zone", dice.choice("abx")),) if not inference and dice.random() < 0.15 else (),
        node_id=dice.choice(cast.nodes).id if not inference and dice.random() < 0.08 else None,
        max_duration_s=dice.choice((0.0, 2.0, 6.0)) if dice.random() < 0.2 else None,
        request_id=f"key-{number}" if dice.random() < 0.4 else "",
        request_digest=f"digest-{number}",
        waiting=inference and dice.random() < 0.6,
        preemptible=preemptible,
        tariff=_tariff(dice) if cast.priced and not inference and dice.random() < 0.25 else None,
    )


def _taking(dice: Random, spec: WorkloadSpec, known: Reserve) -> WorkloadSpec:
    """Returns the work as one that takes a slice, a part of one, or more than there is."""
    wanted = dice.choice(known.slices).demand
    match dice.randrange(3):
        case 0:
            demand = wanted
        case 1:
            demand = replace(wanted, cpu_milli=wanted.cpu_milli // 2, gpus=0, gpu_memory_bytes=None)
        case _:
            demand = replace(spec.demand, cpu_milli=500)
    account = known.account if dice.random() < 0.9 else dice.choice(ACCOUNTS)
    return replace(
        spec,
        origin=replace(spec.origin, account=account),
        demand=demand,
        selector=(),
        node_id=None,
        reservation_id=known.reservation_id,
    )


def _repeated(dice: Random, spec: WorkloadSpec) -> WorkloadSpec:
    match dice.randrange(3):
        case 0:
            return spec
        case 1:  # as our REST facade does it: the same key, and an id of its own
            number = UUID(spec.id).int + 0x1_0000_0000 * dice.randrange(1, 1 << 16)
            return replace(
                spec, id=WorkloadId(str(UUID(int=number))), request_id=spec.request_id or f"key-of-{spec.id}"
            )
        case _:
            return replace(spec, request_digest="another")


def _payload(dice: Random, cast: Cast, workload_id: WorkloadId) -> Payload:
    kind = dice.random()
    if kind < 0.35:
        return a_container()
    if kind < 0.5:
        return Program(blob="programs/1")
    if kind < 0.65:
        return ModelServer(model=dice.choice(cast.models) if cast.models else a_model("unknown"))
    model_id = dice.choice(cast.models).id if cast.models else ModelId("unknown")
    return Inference(model_id=model_id, input=workload_id.encode(), geohash=dice.choice(("", "s00000", "u33dbf")))


def _restart(dice: Random) -> RestartPolicy:
    rule = dice.choice((RestartRule.NEVER, RestartRule.ON_FAILURE, RestartRule.ALWAYS))
    return RestartPolicy(rule=rule, max_restarts=dice.choice((0, 1, 2)))


def _tariff(dice: Random) -> Tariff:
    return Tariff(
        start=dice.choice((0, 3)),
        minute=dice.choice((0, 7, 60, 900)),
        owned_minute=dice.choice((None, 0, 40)),
        step_s=dice.choice((1, 1, 10)),
    )
