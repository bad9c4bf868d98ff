"""Replays: a dead letter's workload once more, with what its sender edited.

What lives here: which members may be edited of which kind, and what a replay takes over. What does not: whether the
work may be replayed (core), and the checks of each member (messages). A program's code is copied under the new id, so
that each workload owns its blobs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Final, assert_never

from arcray.core.blobkeys import inline, key_for, program_key, stdin_key
from arcray.core.errors import InvalidArgumentError
from arcray.core.ids import ModelId
from arcray.core.workload import (
    Container,
    Inference,
    ModelServer,
    Origin,
    PayloadKind,
    PortMapping,
    Program,
    VolumeMount,
    WorkloadSpec,
    kind_of,
)
from arcray.facades.rest import operation_messages as om
from arcray.facades.rest import translate
from arcray.facades.rest.container_rules import check_container

__all__ = ["Replay", "replay_of"]

_ANY: Final = frozenset(
    {"name", "demand", "priority", "restart_policy", "selector", "node_id", "max_duration_s", "gang", "reservation_id"}
)
_EDITABLE: Final = {
    PayloadKind.CONTAINER: _ANY | {"image", "command", "args", "env", "ports", "volumes"},
    PayloadKind.PROGRAM: _ANY | {"source", "archive", "entry_point", "args", "env", "stdin"},
    PayloadKind.INFERENCE: frozenset({"name", "priority", "model", "input", "context_window_tokens"}),
    PayloadKind.MODEL: _ANY - {"max_duration_s"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What is submitted.

    Args:
        blobs: to be written before, by key.
        copies: to be copied before: key to read, by key to write.
    """

    spec: WorkloadSpec
    blobs: dict[str, bytes] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)


def replay_of(ended: WorkloadSpec, edits: om.ReplayBody, submission: translate.Submission) -> Replay:
    """Returns the same work once more, as another workload of the same account.

    Raises:
        InvalidArgumentError: a member does not belong to work of this kind, or does not fit the others; names it.
    """
    edited = edits.model_fields_set
    kind = kind_of(ended.payload)
    for name in sorted(edited - _EDITABLE[kind]):
        alias = om.ReplayBody.model_fields[name].alias or name
        raise InvalidArgumentError(f"is no member of {kind.value} work", field=alias)
    replay = _payload(ended, edits, submission)
    spec = replace(
        replay.spec,
        id=submission.workload_id,
        origin=Origin(facade=translate.FACADE, account=ended.origin.account),
        created_at=submission.now,
        request_id=submission.key,
        request_digest=submission.digest,
        waiting=False,
        replay_of=ended.id,
        replaces=None,
        replaced_in_turn=(),
        reservation_id=None,  # its place there was given back when it ended
    )
    return replace(replay, spec=check_container(_work(spec, edits, edited)))


def _work(spec: WorkloadSpec, edits: om.ReplayBody, edited: set[str]) -> WorkloadSpec:
    """Returns the spec with the members edited that any work has."""
    if "name" in edited:
        spec = replace(spec, name=edits.name)
    if "demand" in edited and edits.demand is not None:
        spec = replace(spec, demand=translate.demand_of(edits.demand))
    if "priority" in edited:
        spec = replace(spec, priority=translate.PRIORITIES[edits.priority])
    if "restart_policy" in edited:
        spec = replace(spec, restart=translate.restart_of(edits.restart_policy, spec.restart))
    if "selector" in edited:
        pairs, terms = translate.selector_of(edits.selector)
        spec = replace(spec, selector=pairs, selector_terms=terms)
    if "node_id" in edited:
        spec = replace(spec, node_id=translate.node_id_of(edits.node_id))
    if "max_duration_s" in edited:
        spec = replace(spec, max_duration_s=edits.max_duration_s)
    if "gang" in edited:
        spec = replace(spec, gang=translate.gang_of(edits.gang))
    if "reservation_id" in edited:
        spec = replace(spec, reservation_id=translate.reservation_id_of(edits.reservation_id))
    return spec


def _payload(ended: WorkloadSpec, edits: om.ReplayBody, submission: translate.Submission) -> Replay:
    payload = ended.payload
    match payload:
        case Container():
            return Replay(spec=replace(ended, payload=_container(payload, edits)))
        case Program():
            return _program(ended, payload, edits, submission)
        case Inference():
            return Replay(spec=replace(ended, payload=_inference(payload, edits)))
        case ModelServer():
            return Replay(spec=ended)
        case _:
            assert_never(payload)


def _container(payload: Container, edits: om.ReplayBody) -> Container:
    edited = edits.model_fields_set
    ports = tuple(PortMapping(container_port=port.container_port, host_port=port.host_port) for port in edits.ports)
    volumes = tuple(
        VolumeMount(source=volume.source, target=volume.target, read_only=volume.read_only) for volume in edits.volumes
    )
    return Container(
        image=edits.image if "image" in edited else payload.image,
        command=tuple(edits.command) if "command" in edited else payload.command,
        args=tuple(edits.args) if "args" in edited else payload.args,
        env=tuple(edits.env.items()) if "env" in edited else payload.env,
        ports=ports if "ports" in edited else payload.ports,
        volumes=volumes if "volumes" in edited else payload.volumes,
    )


def _program(ended: WorkloadSpec, payload: Program, edits: om.ReplayBody, submission: translate.Submission) -> Replay:
    edited = edits.model_fields_set
    if edits.source is not None and edits.archive is not None:
        raise InvalidArgumentError("only one of source and archive may be given", field="source")
    archive = payload.archive if edits.source is None and edits.archive is None else edits.archive is not None
    entry_point = edits.entry_point if "entry_point" in edited else payload.entry_point if archive else ""
    translate.check_entry_point(entry_point, archive=archive)
    own_code, own_stdin = program_key(submission.workload_id, archive=archive), stdin_key(submission.workload_id)
    edited_code = edits.source.encode() if edits.source is not None else edits.archive
    edited_stdin = (edits.stdin or "").encode() if "stdin" in edited else None
    blobs: dict[str, bytes] = {}
    copies: dict[str, str] = {}

    def key_of(edited: bytes | None, before: str, own: str) -> str:
        if edited is not None:
            key = key_for(edited, own)
            blobs[key] = edited
        elif inline(before) is None:
            key, copies[own] = own, before
        else:
            key = before
        return key

    code = key_of(edited_code, payload.blob, own_code)
    reads = edited_stdin if edited_stdin is not None else payload.stdin_blob
    stdin = key_of(edited_stdin, payload.stdin_blob, own_stdin) if reads else ""
    again = Program(
        blob=code,
        archive=archive,
        entry_point=entry_point,
        args=tuple(edits.args) if "args" in edited else payload.args,
        env=tuple(edits.env.items()) if "env" in edited else payload.env,
        stdin_blob=stdin,
    )
    return Replay(spec=replace(ended, payload=again), blobs=blobs, copies=copies)


def _inference(payload: Inference, edits: om.ReplayBody) -> Inference:
    edited = edits.model_fields_set
    return replace(
        payload,
        model_id=ModelId(edits.model) if "model" in edited else payload.model_id,
        input=json.dumps(edits.input).encode() if "input" in edited else payload.input,
        context_window_tokens=(
            edits.context_window_tokens if "context_window_tokens" in edited else payload.context_window_tokens
        ),
    )
