"""Happenings: what people and bad luck can do to a cluster, as values that a schedule is made of."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeAlias

from arcray.core.commands import Command, RegisterModel, SetNodeScheduling, StopWorkload, SubmitWorkload
from arcray.core.ids import NodeId
from arcray.core.queries import Query
from arcray.testing.simulation.lies import LieKind
from arcray.testing.simulation.network import Weather

__all__ = [
    "Ask",
    "BreakDriver",
    "ChangeWeather",
    "CutOff",
    "DiskAway",
    "FailDisk",
    "Happening",
    "KillAgent",
    "KillAtCommit",
    "KillScheduler",
    "Leave",
    "Lie",
    "Look",
    "SetClock",
    "SlowDisk",
    "StopClock",
    "TakeOver",
    "words",
]


@dataclass(frozen=True, slots=True)
class Ask:
    """Somebody asks for a change, and again when no answer comes, up to so many times."""

    command: Command
    tries: int


@dataclass(frozen=True, slots=True)
class Look:
    """Somebody asks a question."""

    query: Query


@dataclass(frozen=True, slots=True)
class KillScheduler:
    """The scheduler is killed; another one starts later."""

    down_s: float


@dataclass(frozen=True, slots=True)
class KillAtCommit:
    """The scheduler is killed when a transaction is on disk and nobody was told, after so many others."""

    after: int
    down_s: float


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Another scheduler starts while the present one goes on for a while."""

    overlap_s: float


@dataclass(frozen=True, slots=True)
class KillAgent:
    """A machine's agent is killed, with all that it runs when the power fails, and starts again later."""

    node_id: NodeId
    power: bool
    down_s: float


@dataclass(frozen=True, slots=True)
class CutOff:
    """A machine is cut off from the network for a while."""

    node_id: NodeId
    for_s: float


@dataclass(frozen=True, slots=True)
class Leave:
    """A machine says goodbye and comes back later."""

    node_id: NodeId
    down_s: float


@dataclass(frozen=True, slots=True)
class Lie:
    """A machine reports what is not so, about some attempt that once ran somewhere.

    Args:
        what: which sort of lie; see ``lies``.
        draw: chooses the attempt.
    """

    node_id: NodeId
    what: LieKind
    draw: int


@dataclass(frozen=True, slots=True)
class BreakDriver:
    """The driver fails at the orders of a machine for a while, before or after it has handed them over."""

    node_id: NodeId
    for_s: float


@dataclass(frozen=True, slots=True)
class FailDisk:
    """One step of a transaction fails, after so many others."""

    steps: int


@dataclass(frozen=True, slots=True)
class DiskAway:
    """Nothing can be written for a while."""

    for_s: float


@dataclass(frozen=True, slots=True)
class SlowDisk:
    """Transactions take up to so long for a while; beyond half a minute they time out and succeed."""

    slow_s: float
    for_s: float


@dataclass(frozen=True, slots=True)
class SetClock:
    """The scheduler's clock is set forward, or back."""

    by_s: float


@dataclass(frozen=True, slots=True)
class StopClock:
    """The scheduler's clock stands still for a while."""

    for_s: float


@dataclass(frozen=True, slots=True)
class ChangeWeather:
    """The network gets worse for a while."""

    weather: Weather
    for_s: float


Happening: TypeAlias = (
    Ask
    | Look
    | KillScheduler
    | KillAtCommit
    | TakeOver
    | KillAgent
    | CutOff
    | Leave
    | Lie
    | BreakDriver
    | FailDisk
    | DiskAway
    | SlowDisk
    | SetClock
    | StopClock
    | ChangeWeather
)


def words(what: Happening) -> str:
    """Returns a happening as people read it."""
    match what:
        case Ask():
            return f"asks up to {what.tries} times: {_command_words(what.command)}"
        case _:
            values = ", ".join(f"{each.name}={getattr(what, each.name)}" for each in fields(what))
            return f"{type(what).__name__}({values})"


def _command_words(command: Command) -> str:
    match command:
        case SubmitWorkload():
            spec = command.spec
            key = f" under {spec.request_id}" if spec.request_id else ""
            wanted = f"{spec.demand.cpu_milli} mCPU, {spec.demand.gpus} GPUs"
            return f"submit {spec.id} {type(spec.payload).__name__}{key}, {wanted}, restart {spec.restart.rule}"
        case StopWorkload():
            return f"stop {command.workload_id} for {command.account}"
        case SetNodeScheduling():
            return f"{'cordon' if command.cordoned else 'uncordon'} {command.node_id}"
        case RegisterModel():
            return f"register {command.model.id}"
        case _:
            return str(command)
