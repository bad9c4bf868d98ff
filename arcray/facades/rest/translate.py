"""REST bodies to core's words and back: units, defaults, ids, and which blobs a submission needs.

What lives here: the rules between members (exactly one source of code, which format takes what). Wire units end here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Final, assert_never

from arcray.core.blobkeys import key_for, program_key, result_path, stdin_key
from arcray.core.commands import Submitted
from arcray.core.errors import InvalidArgumentError, NotFoundError
from arcray.core.explanation import WaitsFor, WorkloadExplanation
from arcray.core.gang import Gang
from arcray.core.ids import AccountId, NodeId, ReservationId, WorkloadId, canonical_uuid
from arcray.core.labels import LabelTerm, check_labels, parse_selector
from arcray.core.placement.explain import Change
from arcray.core.quantity import CPU_MILLI, MIB, milli_cpu
from arcray.core.resources import NO_DEMAND, Demand
from arcray.core.workload import (
    Container,
    Inference,
    ModelServer,
    Origin,
    PortMapping,
    Priority,
    Program,
    RestartPolicy,
    VolumeMount,
    WorkloadSpec,
    WorkloadView,
    kind_of,
)
from arcray.facades.rest import messages as m
from arcray.facades.rest.container_rules import check_container

__all__ = [
    "FACADE",
    "PRIORITIES",
    "Submission",
    "accepted",
    "check_entry_point",
    "container_of",
    "demand_body",
    "demand_of",
    "explanation_body",
    "gang_of",
    "node_id_of",
    "program_of",
    "reservation_id_of",
    "restart_of",
    "result_key_of",
    "result_paths",
    "selector_of",
    "work_of",
    "workload_view",
]

FACADE: Final = "rest"

_ONE_CORE: Final = Demand(cpu_milli=CPU_MILLI)
PRIORITIES: Final[Mapping[str, Priority]] = {priority.name.lower(): priority for priority in Priority}


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Who submits, and under which ids.

    Args:
        key: idempotency key; "" when there is none.
        digest: of the body, compared when the key comes again.
    """

    workload_id: WorkloadId
    account: AccountId
    now: datetime
    key: str = ""
    digest: str = ""


def program_of(body: m.ProgramBody, submission: Submission) -> tuple[WorkloadSpec, dict[str, bytes]]:
    """Returns a program's workload, and the blobs by key that must be there before it is submitted.

    Raises:
        InvalidArgumentError: its code is given twice or not at all, or what it names does not fit it.
    """
    if (body.source is None) == (body.archive is None):
        raise InvalidArgumentError("exactly one of source and archive must be given", field="source")
    check_entry_point(body.entry_point, archive=body.archive is not None)
    data = body.archive if body.archive is not None else (body.source or "").encode()
    code = key_for(data, program_key(submission.workload_id, archive=body.archive is not None))
    blobs = {code: data}
    stdin = ""
    if body.stdin:
        stdin = key_for(body.stdin.encode(), stdin_key(submission.workload_id))
        blobs[stdin] = body.stdin.encode()
    payload = Program(
        blob=code,
        archive=body.archive is not None,
        entry_point=body.entry_point,
        args=tuple(body.args),
        env=tuple(body.env.items()),
        stdin_blob=stdin,
    )
    return work_of(body, payload, submission), blobs


def check_entry_point(entry_point: str, *, archive: bool) -> None:
    """Refuses a file that is not in the archive.

    Raises:
        InvalidArgumentError: there is no archive, or the path leads out of it.
    """
    if entry_point and not archive:
        raise InvalidArgumentError("is a file of an archive, and there is none", field="entryPoint")
    entry = PurePosixPath(entry_point)
    if entry.is_absolute() or ".." in entry.parts:
        raise InvalidArgumentError("must be a path inside the archive", field="entryPoint")


def container_of(body: m.ContainerBody, submission: Submission) -> WorkloadSpec:
    """Returns a container's workload.

    Raises:
        InvalidArgumentError: names the field.
    """
    payload = Container(
        image=body.image,
        command=tuple(body.command),
        args=tuple(body.args),
        env=tuple(body.env.items()),
        ports=tuple(PortMapping(container_port=port.container_port, host_port=port.host_port) for port in body.ports),
        volumes=tuple(
            VolumeMount(source=volume.source, target=volume.target, read_only=volume.read_only)
            for volume in body.volumes
        ),
    )
    return check_container(work_of(body, payload, submission))


def work_of(body: m.WorkBody, payload: Program | Container, submission: Submission) -> WorkloadSpec:
    """Returns the workload of what may be said of any work, around a payload.

    Raises:
        InvalidArgumentError: names the field.
    """
    # Batch code takes a core unless it says otherwise: a thousand programs then wait instead of starting together.
    default = _ONE_CORE if isinstance(payload, Program) else NO_DEMAND
    return _spec(body, payload, submission, demand=default if body.demand is None else demand_of(body.demand))


def demand_of(body: m.DemandBody) -> Demand:
    """Returns a demand in core's units.

    Raises:
        InvalidArgumentError: GPU memory without a GPU.
    """
    if body.gpu_memory_mb and not body.gpus:
        raise InvalidArgumentError("needs gpus of at least 1", field="demand.gpuMemoryMb")
    return Demand(
        cpu_milli=milli_cpu(body.cpu),
        memory_bytes=body.memory_mb * MIB,
        gpus=body.gpus,
        gpu_memory_bytes=body.gpu_memory_mb * MIB if body.gpu_memory_mb else None,
    )


def accepted(spec: WorkloadSpec, reply: Submitted) -> WorkloadView:
    """Returns a workload as it was when the cluster took it, from what was sent and what was replied.

    Args:
        reply: to this very submission, so that nothing has happened to the workload before.
    """
    assert reply.created, "the reply to a repetition tells of a workload with a past"
    return WorkloadView(
        spec=spec,
        phase=reply.phase,
        attempt=reply.attempt,
        restarts=0,
        node_id=reply.node_id,
        allocation=reply.allocation,
        message=reply.message,
        result=None,
        placed_at=reply.placed_at,
        started_at=None,
        finished_at=None,
        ports=(),
    )


def workload_view(view: WorkloadView) -> m.WorkloadView:
    """Returns a workload as REST shows it."""
    spec, result = view.spec, view.result
    return m.WorkloadView(
        id=spec.id,
        kind=kind_of(spec.payload),
        name=spec.name,
        phase=view.phase,
        node_id=view.node_id,
        attempt=view.attempt,
        restarts=view.restarts,
        message=view.message,
        priority=spec.priority.name.lower(),
        facade=spec.origin.facade,
        external_id=spec.origin.external_id or None,
        **_payload_names(view),
        demand=demand_body(spec.demand),
        gpus=[share.index for share in view.allocation.gpus] if view.allocation else [],
        ports=[m.PortBody(container_port=port.container_port, host_port=port.host_port) for port in view.ports],
        created_at=spec.created_at,
        placed_at=view.placed_at,
        started_at=view.started_at,
        finished_at=view.finished_at,
        exit_code=result.exit_code if result else None,
        duration_ms=result.duration_ms if result else None,
        pid=result.pid if result else None,
        results=len(result.blobs) if result else 0,
        max_duration_s=spec.max_duration_s,
        not_before=view.not_before,
        replay_of=spec.replay_of,
        replayed_by=view.replayed_by,
        output=(result.output or None) if result else None,
        cost=m.CostView(paid=view.meter.paid, held=view.meter.held, per_minute=view.meter.rate) if view.meter else None,
        preemptible=spec.preemptible,
        preemptions=view.preemptions,
        gang=None if spec.gang is None else m.GangBody(id=spec.gang.id, size=spec.gang.size, layout=spec.gang.layout),
        reservation_id=spec.reservation_id,
        kept_node_id=None if view.claim is None else view.claim.node_id,
        eviction=None if view.eviction is None else view.eviction.reason,
    )


def explanation_body(found: WorkloadExplanation) -> m.ExplanationBody:
    """Returns what a workload waits for."""
    placement, estimate = found.placement, found.estimate
    over = found.waits_for is WaitsFor.QUOTA
    return m.ExplanationBody(
        nodes=placement.nodes,
        fits=0 if over else placement.fits,
        refusals=[m.RefusalView(filter=r.filter, nodes=r.nodes, reason=r.reason) for r in found.refusals],
        suggestion=found.suggestion,
        notes=list(found.placement.notes),
        change=None if over or placement.change is None else _change_view(placement.change),
        waits_for=found.waits_for,
        not_before=found.not_before,
        quota=[
            m.ExcessView(
                resource=excess.resource,
                held=_shown(excess.resource, excess.held),
                asked=_shown(excess.resource, excess.asked),
                limit=_shown(excess.resource, excess.limit),
            )
            for excess in found.excesses
        ],
        ahead=found.ahead,
        first_ahead=list(found.first_ahead),
        estimate=None
        if estimate is None
        else m.EstimateView(earliest=estimate.earliest, latest=estimate.latest, basis=estimate.basis),
        sentence=found.sentence(),
    )


def _change_view(change: Change) -> m.ChangeView:
    return m.ChangeView(what=change.what, by=_shown(change.what, change.by, up=True))


def _shown(resource: str, value: int, *, up: bool = False) -> float:
    """Returns an amount in the wire's unit, rounded up to whole MB where less would not do."""
    match resource:
        case "cpu":
            return value / CPU_MILLI
        case "memory" | "disk" | "gpuMemory":
            return float(-(-value // MIB)) if up else value / MIB
        case _:
            return value


def result_paths(view: WorkloadView) -> dict[str, str]:
    """Returns the blob keys of a workload's result files by their path."""
    return {result_path(key): key for key in (view.result.blobs if view.result else ())}


def result_key_of(view: WorkloadView, path: str) -> str:
    """Returns the blob key of a result file.

    Raises:
        NotFoundError: the workload has no such result, yet or ever.
    """
    key = result_paths(view).get(path)
    if key is None:
        ended = "" if view.phase.terminal else ", and it has not ended yet"
        raise NotFoundError(f"workload {view.spec.id} has no result {path!r}{ended}", field="path")
    return key


def selector_of(
    selector: Mapping[str, str] | str, field: str = "selector"
) -> tuple[tuple[tuple[str, str], ...], tuple[LabelTerm, ...]]:
    """Returns the equalities and the other terms of a selector.

    Raises:
        InvalidArgumentError: it is text that cannot be read, or names what is no label.
    """
    if isinstance(selector, str):
        return parse_selector(selector, field)
    check_labels(selector, field)
    return tuple(sorted(selector.items())), ()


def _spec(body: m.WorkBody, payload: Program | Container, submission: Submission, *, demand: Demand) -> WorkloadSpec:
    pairs, terms = selector_of(body.selector)
    return WorkloadSpec(
        id=submission.workload_id,
        origin=Origin(facade=FACADE, account=submission.account),
        payload=payload,
        created_at=submission.now,
        name=body.name,
        demand=demand,
        priority=PRIORITIES[body.priority],
        restart=restart_of(body.restart_policy, RestartPolicy()),
        selector=pairs,
        selector_terms=terms,
        node_id=node_id_of(body.node_id),
        max_duration_s=body.max_duration_s,
        request_id=submission.key,
        request_digest=submission.digest,
        preemptible=body.preemptible,
        gang=gang_of(body.gang),
        reservation_id=reservation_id_of(body.reservation_id),
    )


def gang_of(body: m.GangBody | None) -> Gang | None:
    """Returns the gang that work belongs to."""
    return None if body is None else Gang(id=body.id, size=body.size, layout=body.layout)


def reservation_id_of(text: str | None) -> ReservationId | None:
    """Returns the reservation that work takes its place out of.

    Raises:
        InvalidArgumentError: it is no UUID.
    """
    return None if text is None else ReservationId(canonical_uuid(text, "reservationId"))


def restart_of(body: m.RestartPolicyBody | None, default: RestartPolicy) -> RestartPolicy:
    """Returns a restart policy; the default where none is given."""
    return default if body is None else RestartPolicy(rule=body.rule, max_restarts=body.max_restarts)


def node_id_of(text: str | None) -> NodeId | None:
    """Returns the only node allowed.

    Raises:
        InvalidArgumentError: it is no UUID.
    """
    return None if text is None else NodeId(canonical_uuid(text, "nodeId"))


def demand_body(demand: Demand) -> m.DemandBody:
    """Returns a demand in the API's units."""
    return m.DemandBody(
        cpu=demand.cpu_milli / CPU_MILLI,
        memory_mb=demand.memory_bytes // MIB,
        gpus=demand.gpus,
        gpu_memory_mb=None if demand.gpu_memory_bytes is None else demand.gpu_memory_bytes // MIB,
    )


def _payload_names(view: WorkloadView) -> dict[str, str | None]:
    names: dict[str, str | None] = {"image": None, "entry_point": None, "model": None}
    payload = view.spec.payload
    match payload:
        case Container():
            names["image"] = payload.image
        case Program():
            names["entry_point"] = payload.entry_point or None
        case Inference():
            names["model"] = payload.model_id
        case ModelServer():
            names["model"] = payload.model.id
        case _:
            assert_never(payload)
    return names
