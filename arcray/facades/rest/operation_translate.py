"""What operators do, in core's words and back: nodes, quotas, dead letters, simulations. Wire units end here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Final

from arcray.core.commands import DrainNode
from arcray.core.errors import InvalidArgumentError
from arcray.core.ids import AccountId, NodeId, WorkloadId, canonical_uuid
from arcray.core.model import ModelFormat
from arcray.core.node import Drain, DriverCapabilities, LeaseTerms, NodeRegistration, NodeView
from arcray.core.ports import Ids
from arcray.core.quantity import CPU_MILLI, MIB, milli_cpu
from arcray.core.queries import QuotaView
from arcray.core.quota import Quota
from arcray.core.resources import Capacity, Gpu
from arcray.core.simulation import MOST_NODES, MOST_SUBMISSIONS
from arcray.core.what_if import Simulate, SimulatedSubmission, Simulation
from arcray.core.workload import Container, Program, WorkloadSpec, WorkloadView
from arcray.facades.rest import messages as m
from arcray.facades.rest import operation_messages as om
from arcray.facades.rest import translate

__all__ = [
    "dead_letter_view",
    "drain_of",
    "node_state_view",
    "quota_of",
    "quota_view",
    "simulate_of",
    "simulation_view",
]

_EVERYTHING: Final = DriverCapabilities(
    containers=True, programs=True, models=frozenset(ModelFormat), inference=True, sandbox="bubblewrap"
)
_LEASE: Final = LeaseTerms(unhealthy_after_s=60.0, lost_after_s=600.0)


def drain_of(node_id: NodeId, body: om.DrainBody) -> DrainNode:
    """Returns the command."""
    return DrainNode(node_id=node_id, gpus=frozenset(body.gpus), deadline_s=body.deadline_s, grace_s=body.grace_s)


def node_state_view(view: NodeView) -> om.NodeStateView:
    """Returns what an operator has said of a node."""
    return om.NodeStateView(
        id=view.registration.id,
        name=view.registration.name,
        health=view.health,
        cordoned=view.cordoned,
        cordoned_gpus=sorted(view.cordoned_gpus),
        drain=None if view.drain is None else _drain_view(view.drain),
        drained=view.drain is not None and view.drain.done_at is not None,
        labels=dict(view.labels),
        workloads=view.workloads,
        latency_ms=None if view.telemetry is None else view.telemetry.latency_ms,
    )


def quota_of(body: om.QuotaBody) -> Quota:
    """Returns a quota in core's units."""
    return Quota(
        workloads=body.workloads,
        cpu_milli=None if body.cpu is None else milli_cpu(body.cpu),
        memory_bytes=None if body.memory_mb is None else body.memory_mb * MIB,
        gpus=body.gpus,
        pending=body.pending,
    )


def quota_view(view: QuotaView) -> om.QuotaView:
    """Returns a quota and what is held of it."""
    quota, usage = view.quota, view.usage
    return om.QuotaView(
        account=view.account,
        own=view.own,
        quota=om.QuotaBody(
            workloads=quota.workloads,
            cpu=None if quota.cpu_milli is None else quota.cpu_milli / CPU_MILLI,
            memory_mb=None if quota.memory_bytes is None else quota.memory_bytes // MIB,
            gpus=quota.gpus,
            pending=quota.pending,
        ),
        # Built without the checks of a request: nobody waiting is a fact here and no limit there.
        held=om.QuotaBody.model_construct(
            workloads=usage.workloads,
            cpu=usage.cpu_milli / CPU_MILLI,
            memory_mb=-(-usage.memory_bytes // MIB),
            gpus=usage.gpus,
            pending=view.pending,
        ),
    )


def dead_letter_view(view: WorkloadView) -> om.DeadLetterView:
    """Returns a dead letter."""
    return om.DeadLetterView(
        id=view.spec.id,
        reason=view.message or f"it {view.phase} without a word",
        workload=translate.workload_view(view),
        attempts=[
            om.AttemptView(
                attempt=each.attempt,
                node_id=each.node_id,
                placed_at=each.placed_at,
                started_at=each.started_at,
                ended_at=each.ended_at,
                exit_code=each.exit_code,
                message=each.message,
            )
            for each in view.attempts
        ],
    )


def simulate_of(
    body: om.SimulateBody,
    likes: Mapping[str, NodeView],
    ids: Ids,
    submission: translate.Submission,
    sees: AccountId | None,
) -> Simulate:
    """Returns the question.

    Args:
        likes: the nodes that ``like`` names.
        submission: who asks, and when; its id is not used.
        sees: whose workloads the answer may name.

    Raises:
        InvalidArgumentError: it asks for too much, or names what cannot be; names the member.
    """
    for field, counted, most in (
        ("addNodes", sum(each.count for each in body.add_nodes), MOST_NODES),
        ("submit", sum(each.count for each in body.submit), MOST_SUBMISSIONS),
    ):
        if counted > most:
            raise InvalidArgumentError(f"may come to {most}, and comes to {counted}", field=field)
    return Simulate(
        add_nodes=tuple(node for index, each in enumerate(body.add_nodes) for node in _nodes(each, likes, ids, index)),
        remove_nodes=_node_ids(body.remove_nodes, "removeNodes"),
        drain_nodes=_node_ids(body.drain_nodes, "drainNodes"),
        submit=tuple(
            spec for index, each in enumerate(body.submit) for spec in _workloads(each, ids, submission, index)
        ),
        account=sees,
    )


def simulation_view(found: Simulation, new_nodes: Collection[NodeId]) -> om.SimulationView:
    """Returns what would happen."""
    return om.SimulationView(
        submitted=[_submission_view(each, new_nodes) for each in found.submitted],
        displaced=[
            om.DisplacedView(
                id=each.workload_id,
                name=each.name,
                node_id=each.node_id,
                moved_to=each.moved_to,
                phase=each.phase,
                message=each.message,
            )
            for each in found.displaced
        ],
        displaced_total=found.displaced_total,
        started=list(found.started),
        started_total=found.started_total,
        waiting=found.waiting,
        left_out=found.left_out,
    )


def _drain_view(drain: Drain) -> om.DrainView:
    return om.DrainView(
        started_at=drain.started_at,
        gpus=sorted(drain.gpus),
        deadline=drain.deadline,
        grace_s=drain.grace_s,
        done_at=drain.done_at,
    )


def _nodes(
    body: om.SimulatedNodeBody, likes: Mapping[str, NodeView], ids: Ids, index: int
) -> Iterator[NodeRegistration]:
    if body.like is not None:
        model = likes[body.like]
        labels = {**model.labels, **body.labels}
        registration = replace(model.registration, labels=labels)
    else:
        devices = tuple(Gpu(index=number, memory_bytes=body.gpu_memory_mb * MIB) for number in range(body.gpus))
        registration = NodeRegistration(
            id=NodeId(""),
            name=f"new-{index + 1}",
            facade=translate.FACADE,
            driver="none",
            capacity=Capacity(
                cpu_milli=milli_cpu(body.cpu),
                memory_bytes=body.memory_mb * MIB,
                disk_bytes=body.disk_mb * MIB,
                gpus=devices,
            ),
            capabilities=_EVERYTHING,
            lease=_LEASE,
            labels=body.labels,
        )
    for _ in range(body.count):
        yield replace(registration, id=NodeId(ids.new()), external_id="")


def _workloads(
    body: om.SimulatedWorkBody, ids: Ids, submission: translate.Submission, index: int
) -> Iterator[WorkloadSpec]:
    payload = Container(image="-") if body.kind == "container" else Program(blob="-")
    try:
        spec = translate.work_of(body, payload, submission)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(error.message, field=f"submit.{index}.{error.field}") from error
    for _ in range(body.count):
        yield replace(spec, id=WorkloadId(ids.new()))


def _node_ids(texts: list[str], field: str) -> tuple[NodeId, ...]:
    found = (NodeId(canonical_uuid(text, f"{field}.{index}")) for index, text in enumerate(texts))
    return tuple(dict.fromkeys(found))


def _submission_view(each: SimulatedSubmission, new_nodes: Collection[NodeId]) -> om.SubmissionView:
    explanation: m.ExplanationBody | None = None
    if each.explanation is not None:
        explanation = translate.explanation_body(each.explanation)
    return om.SubmissionView(
        name=each.spec.name,
        node_id=each.node_id,
        new_node=each.node_id in new_nodes,
        gpus=[share.index for share in each.allocation.gpus] if each.allocation else [],
        explanation=explanation,
        refusal=each.refusal or None,
    )
