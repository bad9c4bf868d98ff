"""Bodies of what operators do: nodes, quotas, dead letters, simulations. The same rules as those of ``messages``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from arcray.core.node import Health
from arcray.core.quantity import MAX_QUANTITY
from arcray.core.workload import Phase
from arcray.facades.rest.messages import (
    Base64,
    DemandBody,
    Env,
    ExplanationBody,
    GangBody,
    Id,
    Message,
    PortBody,
    RestartRules,
    Selector,
    VolumeBody,
    Word,
    Words,
    WorkBody,
    WorkloadView,
)
from arcray.facades.rest.strict import StrictMessage

__all__ = [
    "AttemptView",
    "CordonBody",
    "DeadLetterView",
    "DeadLettersView",
    "DisplacedView",
    "DrainBody",
    "DrainView",
    "LabelsBody",
    "NodeStateView",
    "NodeStatesView",
    "QuotaBody",
    "QuotaView",
    "QuotasView",
    "ReplayBody",
    "SimulateBody",
    "SimulatedNodeBody",
    "SimulatedWorkBody",
    "SimulationView",
    "SubmissionView",
]

_YEAR_S = 366 * 86_400.0

_Gpus: TypeAlias = Annotated[
    list[Annotated[int, Field(ge=0, le=63)]],
    Field(max_length=64, description="indices of the GPUs that are meant; empty means the node"),
]
_Megabytes: TypeAlias = Annotated[int, Field(ge=0, le=MAX_QUANTITY >> 20)]
_Cores: TypeAlias = Annotated[float, Field(ge=0, le=65_536)]


class CordonBody(StrictMessage):
    """What takes no new work, or takes it again."""

    gpus: _Gpus = Field(default_factory=list)


class DrainBody(StrictMessage):
    """How old work is moved away."""

    gpus: _Gpus = Field(default_factory=list)
    deadline_s: Annotated[
        float | None,
        Field(ge=0, le=_YEAR_S, description="after this what is left is stopped; absent waits for its end"),
    ] = None
    grace_s: Annotated[float, Field(ge=0, le=3600, description="between the polite and the certain signal")] = 30.0


class LabelsBody(StrictMessage):
    """Labels to lay over the machine's own; null takes one away, others stay."""

    labels: Annotated[dict[str, str | None], Field(min_length=1, max_length=64)]


class DrainView(Message):
    """A drain; ``doneAt`` is there once the last of the work has gone."""

    started_at: datetime
    gpus: list[int]
    deadline: datetime | None
    grace_s: float
    done_at: datetime | None


class NodeStateView(Message):
    """What an operator has said of a node, and what came of it.

    ``drained`` says that the node, or those of its GPUs that are being drained, have no work left. ``latencyMs`` is how
    long the node took to answer when it was asked last, null where its protocol does not ask.
    """

    id: str
    name: str
    health: Health
    cordoned: bool
    cordoned_gpus: list[int]
    drain: DrainView | None
    drained: bool
    labels: dict[str, str]
    workloads: int
    latency_ms: float | None


class NodeStatesView(Message):
    """One page of nodes."""

    nodes: list[NodeStateView]
    total: int
    limit: int
    offset: int


class QuotaBody(StrictMessage):
    """What an account may hold at a time and have waiting; null and absent are no limit."""

    workloads: Annotated[int | None, Field(ge=0, le=MAX_QUANTITY)] = None
    cpu: Annotated[float | None, Field(ge=0, le=10**9, description="cores")] = None
    memory_mb: Annotated[int | None, Field(ge=0, le=MAX_QUANTITY >> 20)] = None
    gpus: Annotated[int | None, Field(ge=0, le=MAX_QUANTITY)] = None
    pending: Annotated[int | None, Field(ge=1, le=MAX_QUANTITY, description="waiting for a place")] = None


class QuotaView(Message):
    """A quota, what is held of it and what waits; ``own`` is false where it is the default."""

    account: str
    own: bool
    quota: QuotaBody
    held: QuotaBody


class QuotasView(Message):
    """One page of quotas."""

    quotas: list[QuotaView]
    total: int
    limit: int
    offset: int


class AttemptView(Message):
    """How one attempt went."""

    attempt: int
    node_id: str | None
    placed_at: datetime | None
    started_at: datetime | None
    ended_at: datetime
    exit_code: int | None
    message: str


class DeadLetterView(Message):
    """Work that ended badly and waits for somebody: why, and its newest attempts, oldest first."""

    id: str
    reason: str
    workload: WorkloadView
    attempts: list[AttemptView]


class DeadLettersView(Message):
    """One page of dead letters; the total is null on a page that continues another."""

    dead_letters: list[DeadLetterView]
    total: int | None
    limit: int
    offset: int
    next_cursor: str | None


class ReplayBody(Message):
    """What is different this time; absent members stay as they were. Each is checked as in a submission."""

    name: Annotated[str, Field(max_length=128)] = ""
    demand: DemandBody | None = None
    priority: Literal["critical", "normal", "background"] = "normal"
    restart_policy: RestartRules = None
    selector: Selector = Field(default_factory=dict)
    node_id: Id | None = None
    max_duration_s: Annotated[float | None, Field(gt=0, le=10**9)] = None
    gang: Annotated[GangBody | None, Field(description="null tries it alone")] = None
    reservation_id: Annotated[Id | None, Field(description="absent takes a place like other work")] = None
    args: Words = Field(default_factory=list)
    env: Env = Field(default_factory=dict)
    # container
    image: Annotated[Word, Field(min_length=1, max_length=512)] = "-"
    command: Words = Field(default_factory=list)
    ports: Annotated[list[PortBody], Field(max_length=256)] = Field(default_factory=list)
    volumes: Annotated[list[VolumeBody], Field(max_length=64)] = Field(default_factory=list)
    # program
    source: Annotated[str | None, Field(min_length=1)] = None
    archive: Base64 | None = None
    entry_point: Annotated[Word, Field(max_length=1024)] = ""
    stdin: str | None = None
    # inference
    model: Annotated[str, Field(min_length=1, max_length=128)] = "-"
    input: Any = None
    context_window_tokens: Annotated[int, Field(ge=1, le=MAX_QUANTITY)] = 1


class SimulatedNodeBody(Message):
    """Machines that might join: ``count`` of them, described or like one that is there."""

    count: Annotated[int, Field(ge=1, le=10_000)] = 1
    like: Annotated[Id | None, Field(description="a node to copy")] = None
    cpu: _Cores = 0.0
    memory_mb: _Megabytes = 0
    disk_mb: _Megabytes = 0
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    gpu_memory_mb: Annotated[int, Field(ge=0, le=MAX_QUANTITY >> 20, description="of each GPU")] = 0
    labels: Annotated[dict[str, str], Field(max_length=64)] = Field(default_factory=dict)


class SimulatedWorkBody(WorkBody):
    """Work that might be submitted, ``count`` times; what it would run does not matter."""

    kind: Literal["program", "container"] = "container"
    count: Annotated[int, Field(ge=1, le=1_000)] = 1


class SimulateBody(Message):
    """What might happen, in this order."""

    add_nodes: Annotated[list[SimulatedNodeBody], Field(max_length=1_000)] = Field(default_factory=list)
    remove_nodes: Annotated[list[Id], Field(max_length=10_000)] = Field(default_factory=list)
    drain_nodes: Annotated[list[Id], Field(max_length=10_000)] = Field(default_factory=list)
    submit: Annotated[list[SimulatedWorkBody], Field(max_length=1_000)] = Field(default_factory=list)


class SubmissionView(Message):
    """What would become of one submission: a place, an explanation, or a refusal. ``newNode`` is true on a new one."""

    name: str
    node_id: str | None
    new_node: bool
    gpus: list[int]
    explanation: ExplanationBody | None
    refusal: str | None


class DisplacedView(Message):
    """What would become of work that a removed or drained node has."""

    id: str
    name: str
    node_id: str
    moved_to: str | None
    phase: Phase
    message: str


class SimulationView(Message):
    """What would happen. Lists are cut at 1,000 entries and to what the caller may see; totals count all.

    ``waiting`` workloads would wait for a place then; ``leftOut`` of the queue's end were not looked at.
    """

    submitted: list[SubmissionView]
    displaced: list[DisplacedView]
    displaced_total: int
    started: list[str]
    started_total: int
    waiting: int
    left_out: int
