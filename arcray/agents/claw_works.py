"""One workload that a claw gateway has deployed here: where it stands, what is unheard, what a disk keeps. No I/O.

A workload goes by the protocol's table of states, step by step: what the node skips is filled in. Every step is a word
that waits here until it is known to be heard, over as many connections as that takes.

The record on the disk is for an agent that is killed: the next one goes on with the workload's container, and with its
end if that was not heard. It has what was deployed as the wire has it, and what was decided here.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from arcray import claw_proto as claw
from arcray.claw_proto import WorkloadState, codec_of
from arcray.claw_proto.lifecycle import TRANSITIONS
from arcray.claw_proto.validation import MAX_LOG_LINES
from arcray.core.commands import ReportEnd
from arcray.core.errors import ArcrayError, InvalidArgumentError
from arcray.core.ids import NodeId, WorkloadId
from arcray.core.resources import Allocation, GpuShare
from arcray.core.workload import Phase, RestartRule
from arcray.facades.claw.specs import restart_of

__all__ = ["Finish", "Work", "log_messages", "read_record", "record_of", "words"]

_S: Final = WorkloadState
_BEFORE: Final = {_S.RUNNING: _S.STARTING, _S.COMPLETED: _S.RUNNING, _S.STOPPED: _S.STOPPING}
"""The step that leads to a state where there is no direct one."""

_MESSAGE_LIMIT: Final = 4096
_RESTART_S: Final = 1.0  # doubles
_RESTART_DOUBLINGS: Final = 6
_RESTART_MAX_S: Final = 60.0
_RAN_LONG_S: Final = 60.0
_LINE_BYTES: Final = 32 << 10  # a longer line is told in pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """How a workload ended here."""

    state: WorkloadState
    message: str


@dataclass(slots=True, kw_only=True)
class Work:
    """One workload.

    Args:
        state: where the gateway has it once it has heard all that was told.
        attempt: of this machine: each start after the first is another.
        streak: starts in a row that did not run long.
        began: the present attempt runs, or ran.
        stop_asked: the gateway wants its end.
        evicted: its end was asked for by this machine, which leaves.
        live: where it stood before its end.
        restart_at_s: when it is started again, by the clock; None where it is not.
        finish: it has ended here; told once all that it wrote is.
        untold: steps that are not known to be heard, oldest first.
        log_sent, log_heard: bytes of its log that were sent over this connection, or before; that were heard.
    """

    workload: claw.Workload
    allocation: Allocation = Allocation()
    state: WorkloadState = _S.PENDING
    live: WorkloadState = _S.PENDING
    attempt: int = 1
    restarts: int = 0
    streak: int = 0
    began: bool = False
    began_at_s: float = 0.0
    stop_asked: bool = False
    evicted: bool = False
    restart_at_s: float | None = None
    finish: Finish | None = None
    untold: deque[claw.WorkloadUpdate] = field(default_factory=deque)
    log_sent: int = 0
    log_heard: int = 0
    ports: frozenset[int] = frozenset()

    @property
    def id(self) -> claw.WorkloadId:
        """Its name on the wire; ours is the same."""
        return self.workload.id

    @property
    def occupies(self) -> bool:
        """Whether it holds its slice of the machine."""
        return self.finish is None and not self.state.is_terminal

    @property
    def told_at_end(self) -> str | None:
        """What is told with its end."""
        return (words(self.finish.message) or None) if self.finish is not None else None

    def update(self, now: claw.Timestamp, message: str | None = None) -> claw.WorkloadUpdate:
        """Returns the word that says where it stands."""
        return claw.WorkloadUpdate(workload_id=self.id, state=self.state, message=message, timestamp=now)

    def go(self, to: WorkloadState, now: claw.Timestamp, message: str = "") -> list[claw.WorkloadUpdate]:
        """Goes to a state, over those in between; returns the words, which are untold from now on.

        A state that it has left behind is no step, and nor is a live one that it stands in, but for running, which the
        table lets be told again.
        """
        steps = list(_path(self.state, to))
        told = []
        for step in steps:
            self.live = self.live if self.state.is_terminal else self.state
            self.state = claw.advance(self.state, step)
            told.append(self.update(now, (words(message) or None) if step is steps[-1] else None))
        self.untold.extend(told)
        return told

    def unseen_end(self, node_id: NodeId) -> ReportEnd:
        """Returns what is to be said of an end of which nothing is known: it is not here any more."""
        return ReportEnd(
            node_id=node_id,
            epoch=0,
            workload_id=WorkloadId(self.id),
            attempt=self.attempt,
            phase=Phase.STOPPED if self.stop_asked else Phase.FAILED,
            message="it ended while its node's agent was away",
        )

    def restart(self, report: ReportEnd, now_s: float) -> str | None:
        """Has it start again after an end, if its own policy says so; returns what to say, None if it is over."""
        if self.stop_asked or not self.began or report.phase is Phase.STOPPED:
            return None
        policy = restart_of(self.workload.spec.restart_policy)
        if policy.rule is RestartRule.NEVER or (
            policy.rule is not RestartRule.ALWAYS and report.phase is not Phase.FAILED
        ):
            return None
        if policy.max_restarts is not None and self.restarts >= policy.max_restarts:
            return None
        self.streak = 0 if now_s - self.began_at_s >= _RAN_LONG_S else self.streak + 1
        delay_s = min(_RESTART_MAX_S, _RESTART_S * 2.0 ** min(max(0, self.streak - 1), _RESTART_DOUBLINGS))
        self.restart_at_s = now_s + delay_s
        self.restarts += 1
        return f"{report.message or 'it ended'}; started again in {delay_s:g} s, time {self.restarts}"

    def unsent(self) -> None:
        """Takes that a connection is gone, and with it whatever of the log was not heard.

        An end that came after such a piece of the log is told again once that is.
        """
        if self.state.is_terminal and self.untold and self.log_heard < self.log_sent:
            self.untold.pop()
            self.state = self.live
        self.log_sent = self.log_heard


def _path(state: WorkloadState, to: WorkloadState) -> Iterator[WorkloadState]:
    if to is _S.STOPPED and state is _S.RUNNING:
        yield from (_S.STOPPING, _S.STOPPED)
    elif to in TRANSITIONS[state]:
        yield to
    elif to in _BEFORE and state not in (_S.STOPPING, to) and not state.is_terminal:
        yield from _path(state, _BEFORE[to])
        yield to


def words(text: str) -> str:
    """Returns text for people as the wire takes it: Unicode, and not too long."""
    return text.encode("utf-8", "replace").decode()[:_MESSAGE_LIMIT]


def log_messages(
    workload_id: claw.WorkloadId, data: bytes, *, last: bool, full: bool
) -> tuple[list[claw.WorkloadLogs], int]:
    """Returns what tells a piece of a log, and how many of its bytes that is.

    An unfinished line waits for its end.

    Args:
        last: nothing follows, so an unfinished line is told too.
        full: the piece is as long as pieces get, so one is told where it is all that there is.
    """
    whole = data[: data.rfind(b"\n") + 1]
    taken = data if last or (full and not whole) else whole
    lines = [
        line[start : start + _LINE_BYTES].decode(errors="replace")
        for line in (taken[:-1] if taken.endswith(b"\n") else taken).split(b"\n")
        for start in range(0, max(1, len(line)), _LINE_BYTES)
    ]
    if not taken:
        return [], 0
    return [
        claw.WorkloadLogs(workload_id=workload_id, lines=tuple(lines[start : start + MAX_LOG_LINES]), is_stderr=False)
        for start in range(0, len(lines), MAX_LOG_LINES)
    ], len(taken)


def record_of(work: Work) -> bytes:
    """Returns what the disk keeps of a workload. Its end is told after its log, so it is kept once that was heard."""
    is_log_unheard = work.state.is_terminal and work.log_heard < work.log_sent
    return json.dumps(
        {
            "workload": json.loads(codec_of(claw.Workload).to_json(work.workload)),
            "allocation": {
                "cpuMilli": work.allocation.cpu_milli,
                "memoryBytes": work.allocation.memory_bytes,
                "gpus": [[share.index, share.memory_bytes, share.whole] for share in work.allocation.gpus],
            },
            "state": (work.live if is_log_unheard else work.state).value,
            "attempt": work.attempt,
            "restarts": work.restarts,
            "restartDue": work.restart_at_s is not None,
            "stopAsked": work.stop_asked,
            "logBytes": work.log_heard,
            "ports": sorted(work.ports),
            "finish": None if work.finish is None else [work.finish.state.value, work.finish.message],
        }
    ).encode()


def read_record(data: bytes) -> Work:
    """Returns the workload that a record is of, as it stands at the start of an agent.

    Raises:
        InvalidArgumentError: it is no record.
    """
    try:
        found: Any = json.loads(data)
        held, finish = found["allocation"], found["finish"]
        work = Work(
            workload=codec_of(claw.Workload).from_json(json.dumps(found["workload"])),
            allocation=Allocation(
                cpu_milli=int(held["cpuMilli"]),
                memory_bytes=int(held["memoryBytes"]),
                gpus=tuple(
                    GpuShare(index=int(index), memory_bytes=int(size), whole=bool(whole))
                    for index, size, whole in held["gpus"]
                ),
            ),
            state=WorkloadState(found["state"]),
            attempt=int(found["attempt"]),
            restarts=int(found["restarts"]),
            restart_at_s=0.0 if found.get("restartDue") else None,  # clocks of two processes have nothing in common
            stop_asked=bool(found["stopAsked"]),
            log_sent=int(found["logBytes"]),
            log_heard=int(found["logBytes"]),
            ports=frozenset(map(int, found["ports"])),
            finish=None if finish is None else Finish(state=WorkloadState(finish[0]), message=str(finish[1])),
        )
    except (ArcrayError, KeyError, TypeError, ValueError) as error:
        raise InvalidArgumentError("is no record of a workload", field="record") from error
    return work
