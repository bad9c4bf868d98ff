"""Core's events as the audit log tells them, whichever protocol the work came by and runs on.

Source: claw-proto API Reference, "Events".
"""

from __future__ import annotations

from typing import Final, assert_never

from arcray import claw_proto as claw
from arcray.core import events as ev
from arcray.core.workload import Phase

__all__ = ["audited"]

_MOST: Final = 2**31 - 1  # an exit code on this wire


def audited(event: ev.Event) -> claw.WorkloadEvent | None:
    """Returns what the audit log says of an event; None where it has no word for it."""
    match event:
        case ev.WorkloadSubmitted():
            return _told(event, claw.Created(), claw.EventMetadata(message=_words(event.spec.name) or None))
        case ev.WorkloadPlaced():
            metadata = claw.EventMetadata(
                node_id=event.node_id, gpu_ids=tuple(share.index for share in event.allocation.gpus)
            )
            return _told(event, claw.Scheduled(node_id=claw.NodeId(event.node_id)), metadata)
        case ev.WorkloadPhaseChanged(phase=Phase.RUNNING):
            return _told(event, claw.Started(), claw.EventMetadata(message=_words(event.message) or None))
        case ev.WorkloadFinished():
            return _told(event, _end_of(event), _how_it_ended(event))
        case _:
            return None


def _end_of(event: ev.WorkloadFinished) -> claw.WorkloadEventKind:
    match event.phase:
        case Phase.SUCCEEDED:
            return claw.Completed(exit_code=_exit_code(event) or 0)
        case Phase.STOPPED:
            return claw.Stopped(reason=_words(event.message))
        case Phase.FAILED | Phase.REJECTED:
            return claw.Failed(error=_words(event.message))
        case Phase.PENDING | Phase.PLACED | Phase.PULLING | Phase.STARTING | Phase.RUNNING | Phase.STOPPING:
            raise AssertionError(f"{event.phase} is no end")
        case _:
            assert_never(event.phase)


def _how_it_ended(event: ev.WorkloadFinished) -> claw.EventMetadata:
    message = _words(event.message) or None
    return claw.EventMetadata(
        message=message,
        exit_code=_exit_code(event),
        error=message if event.phase in (Phase.FAILED, Phase.REJECTED) else None,
        node_id=event.node_id,
    )


def _exit_code(event: ev.WorkloadFinished) -> int | None:
    code = event.result.exit_code if event.result else None
    return None if code is None else max(-_MOST - 1, min(code, _MOST))


def _words(text: str) -> str:
    # Names of files and errors of a system may hold what is no Unicode; the event is to be written all the same.
    return text.encode("utf-8", "replace").decode()


def _told(
    event: ev.WorkloadSubmitted | ev.WorkloadPlaced | ev.WorkloadPhaseChanged | ev.WorkloadFinished,
    kind: claw.WorkloadEventKind,
    metadata: claw.EventMetadata,
) -> claw.WorkloadEvent:
    return claw.WorkloadEvent(
        kind=kind,
        workload_id=claw.WorkloadId(event.workload_id),
        metadata=metadata,
        timestamp=claw.Timestamp.of(event.at),
    )
