"""Bodies of the REST API, both ways: names, types and limits of every member. No meaning.

Strict: a string is no number. Unknown members are ignored (not by ``strict``). These models are also the API docs.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from arcray.core.explanation import WaitsFor
from arcray.core.gang import Layout
from arcray.core.model import ModelFormat
from arcray.core.quantity import MAX_QUANTITY
from arcray.core.reservation import ReservationState
from arcray.core.workload import PayloadKind, Phase, RestartRule
from arcray.facades.rest.opaque import Opaque

__all__ = [
    "Base64",
    "ChangeView",
    "ContainerBody",
    "CostView",
    "DemandBody",
    "Env",
    "EstimateView",
    "ExcessView",
    "ExplanationBody",
    "FromWorkloadBody",
    "GangBody",
    "Id",
    "Message",
    "ModelBody",
    "ModelView",
    "ModelsView",
    "PortBody",
    "ProgramBody",
    "Quantity",
    "RefusalView",
    "ReservationBody",
    "ReservationView",
    "ReservationsView",
    "RestartPolicyBody",
    "RestartRules",
    "ResultView",
    "ResultsView",
    "Selector",
    "ServerView",
    "SliceBody",
    "SliceView",
    "StopBody",
    "VolumeBody",
    "Word",
    "Words",
    "WorkBody",
    "WorkloadView",
    "WorkloadsView",
]

_Texts = TypeVar("_Texts", bound=Iterable[str])

_MAX_WORDS: Final = 4096
_MAX_WORD: Final = 131_072  # what Linux takes as one argument
_MAX_TEXT: Final = 2**20  # of all arguments, or of the environment; Linux takes some 2 MiB of both together
_ENV_NAME: Final = re.compile(r"[^=\0]{1,256}")


class Message(BaseModel):
    """What all bodies are: strict, frozen, camelCase on the wire."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="ignore",
        alias_generator=to_camel,
        serialize_by_alias=True,
        validate_by_name=True,  # for our own code; the codec takes aliases only
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


def _no_nul(text: str) -> str:
    # The kernel ends arguments, variables and paths there; the node would fail far from the cause.
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return text


def _from_base64(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("must be a base64 string")  # noqa: TRY004  pydantic reports ValueError, not TypeError
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("is not base64") from error


def _named(env: dict[str, str]) -> dict[str, str]:
    for name in env:
        if not _ENV_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a variable")
    _of_a_size(env.values())
    return env


def _of_a_size(words: _Texts) -> _Texts:
    """Passes what a process can be given, and a record should hold."""
    size = sum(map(len, words))
    if size > _MAX_TEXT:
        raise ValueError(f"has {size} characters in all, at most {_MAX_TEXT} are taken")
    return words


def _rule(value: object) -> object:
    return {"rule": value} if isinstance(value, str) else value


def _container_port(value: object) -> object:
    return {"containerPort": value} if isinstance(value, int) else value


Word: TypeAlias = Annotated[str, Field(max_length=_MAX_WORD), AfterValidator(_no_nul)]
Words: TypeAlias = Annotated[list[Word], Field(max_length=_MAX_WORDS), AfterValidator(_of_a_size)]
Env: TypeAlias = Annotated[dict[str, Word], Field(max_length=_MAX_WORDS), AfterValidator(_named)]
_Labels: TypeAlias = Annotated[dict[str, str], Field(max_length=64)]
Selector: TypeAlias = Annotated[
    _Labels | Annotated[str, Field(max_length=16_384)],
    Field(description="labels that the node must carry; as text also: zone=eu,disk!=slow,gpu,!spot,rack in (a,b)"),
]
_Port: TypeAlias = Annotated[int, Field(ge=1, le=65_535)]
Base64: TypeAlias = Annotated[
    bytes, BeforeValidator(_from_base64), WithJsonSchema({"type": "string", "contentEncoding": "base64"})
]
Quantity: TypeAlias = Annotated[int, Field(ge=0, le=MAX_QUANTITY >> 20)]  # in MB: bytes must stay exact in JSON
Id: TypeAlias = Annotated[str, Field(min_length=1, max_length=64)]


class DemandBody(Message):
    """What work asks of its node."""

    cpu: Annotated[float, Field(ge=0, le=65_536, description="cores")] = 0.0
    memory_mb: Quantity = 0
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    gpu_memory_mb: Annotated[
        int | None,
        Field(ge=0, le=MAX_QUANTITY >> 20, description="on each GPU, shared with others; absent or 0 takes whole GPUs"),
    ] = None


class RestartPolicyBody(Message):
    """When ended work starts again."""

    rule: RestartRule
    max_restarts: Annotated[int | None, Field(ge=0, description="null is no limit")] = 3


RestartRules: TypeAlias = Annotated[RestartPolicyBody | None, BeforeValidator(_rule)]


class GangBody(Message):
    """The gang that work belongs to: its members start together or not at all."""

    id: Annotated[str, Field(min_length=1, max_length=128, description="chosen by you; the same for all members")]
    size: Annotated[int, Field(ge=1, le=1_024, description="members")]
    layout: Annotated[Layout, Field(description="pack: all on one node; spread: each on a node of its own")] = (
        Layout.ANY
    )


class WorkBody(Message):
    """What may be said of any work."""

    name: Annotated[str, Field(max_length=128)] = ""
    demand: DemandBody | None = None
    priority: Literal["critical", "normal", "background"] = "normal"
    restart_policy: RestartRules = None
    selector: Selector = Field(default_factory=dict)
    node_id: Annotated[Id | None, Field(description="the only node allowed")] = None
    max_duration_s: Annotated[float | None, Field(gt=0, le=10**9)] = None
    preemptible: Annotated[
        bool, Field(description="may be ended, and started again later, for work of a higher priority")
    ] = False
    gang: GangBody | None = None
    reservation_id: Annotated[Id | None, Field(description="take the place out of this reservation")] = None


class ProgramBody(WorkBody):
    """Run Python code. Its stdout is its log; files under ``$ARCRAY_RESULT_DIR`` are its result."""

    kind: Literal["program"]
    source: Annotated[str | None, Field(min_length=1, description="the code itself")] = None
    archive: Annotated[Base64 | None, Field(description="a zip archive")] = None
    entry_point: Annotated[Word, Field(max_length=1024, description="file of the archive to run")] = ""
    args: Words = Field(default_factory=list)
    stdin: str | None = None
    env: Env = Field(default_factory=dict)


class PortBody(Message):
    """A container port; without ``hostPort`` the engine chooses."""

    container_port: _Port
    host_port: _Port | None = None


class VolumeBody(Message):
    """A host path, from the node's allow-list, seen inside a container."""

    source: Annotated[Word, Field(min_length=1, max_length=4096)]
    target: Annotated[Word, Field(min_length=1, max_length=4096)]
    read_only: bool = False


class ContainerBody(WorkBody):
    """Run an image."""

    kind: Literal["container"]
    image: Annotated[Word, Field(min_length=1, max_length=512)]
    command: Annotated[Words, Field(description="replaces the image's entry point")] = Field(default_factory=list)
    args: Words = Field(default_factory=list)
    env: Env = Field(default_factory=dict)
    ports: Annotated[list[Annotated[PortBody, BeforeValidator(_container_port)]], Field(max_length=256)] = Field(
        default_factory=list
    )
    volumes: Annotated[list[VolumeBody], Field(max_length=64)] = Field(default_factory=list)


class StopBody(Message):
    """How to stop work."""

    grace_s: Annotated[float, Field(ge=0, le=3600, description="between the polite and the certain signal")] = 10.0


class FromWorkloadBody(Message):
    """A result file of a program."""

    id: Id
    path: Annotated[str, Field(min_length=1, max_length=1024)]


class ModelBody(Message):
    """Register a model and keep copies of it loaded."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
    format: ModelFormat
    source: Annotated[Word | None, Field(min_length=1, description="module:name (python) or base URL (openai)")] = None
    content: Annotated[Base64 | None, Field(description="the model file (onnx)")] = None
    from_workload: FromWorkloadBody | None = None
    replicas: Annotated[int, Field(ge=0, le=256)] = 1
    node_id: Id | None = None
    selector: Selector = Field(default_factory=dict)
    restart_policy: RestartRules = None
    max_concurrency: Annotated[int | None, Field(ge=1, le=65_536, description="requests in flight of one copy")] = None
    target: Annotated[Word, Field(max_length=256, description="the name that the endpoint knows it by")] = ""
    demand: DemandBody | None = None
    env: Env = Field(default_factory=dict)


class CostView(Message):
    """Credits: paid so far, set aside, and for each minute where it is."""

    paid: int
    held: int
    per_minute: int


class SliceBody(Message):
    """One slice of a node that is wanted."""

    demand: DemandBody
    kind: Annotated[
        Literal["program", "container"] | None, Field(description="what the node must be able to run; absent: anything")
    ] = None
    selector: Selector = Field(default_factory=dict)
    node_id: Id | None = None


class ReservationBody(Message):
    """Hold slices of nodes without a workload, all of them or none.

    Either ``slices`` and their ``layout``, or one ``demand``: whole on one node (``greedy``), or divided into ``parts``
    on as many nodes (``even``).
    """

    slices: Annotated[list[SliceBody], Field(max_length=1_024)] = Field(default_factory=list)
    layout: Layout = Layout.ANY
    demand: DemandBody | None = None
    strategy: Literal["greedy", "even"] = "greedy"
    parts: Annotated[int, Field(ge=1, le=1_024)] = 1
    kind: Literal["program", "container"] | None = None
    selector: Selector = Field(default_factory=dict)
    node_id: Id | None = None
    ttl_s: Annotated[float, Field(gt=0, le=10**9, description="after this what is left is given back")] = 300.0


class SliceView(Message):
    """A slice of a node: what was granted, and what is left of it."""

    node_id: str
    demand: DemandBody
    gpus: list[int]
    left: DemandBody
    gpus_left: list[int]


class ReservationView(Message):
    """A reservation."""

    id: str
    state: ReservationState
    slices: list[SliceView]
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None
    message: str


class ReservationsView(Message):
    """One page of reservations."""

    reservations: list[ReservationView]
    total: int
    limit: int
    offset: int


class WorkloadView(Message):
    """A workload.

    ``keptNodeId`` is where a place is kept for it while those preempted for it end; ``eviction`` says why it was asked
    to end although it is to start again. ``cost`` is what it has paid so far, and what is set aside for it; absent
    where nothing has a price.
    ``image``, ``entryPoint`` and ``model`` are there for the kinds that have them; ``pid`` is the process that did the
    work, once it is known; ``output`` is what an inference request answered. ``notBefore`` is when work that waits for
    another attempt may start again.
    """

    id: str
    kind: PayloadKind
    name: str
    phase: Phase
    node_id: str | None
    attempt: int
    restarts: int
    message: str
    priority: str
    facade: str
    external_id: str | None
    image: str | None
    entry_point: str | None
    model: str | None
    demand: DemandBody
    gpus: list[int]
    ports: list[PortBody]
    created_at: datetime
    placed_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    exit_code: int | None
    duration_ms: float | None
    pid: int | None
    results: int
    max_duration_s: float | None = None
    not_before: datetime | None = None
    replay_of: str | None = None
    replayed_by: str | None = None
    output: Opaque | None = None
    cost: CostView | None = None
    preemptible: bool = False
    preemptions: int = 0
    gang: GangBody | None = None
    reservation_id: str | None = None
    kept_node_id: str | None = None
    eviction: str | None = None


class WorkloadsView(Message):
    """One page of workloads; the total is null on a page that continues another."""

    workloads: list[WorkloadView]
    total: int | None
    limit: int
    offset: int
    next_cursor: str | None


class ResultView(Message):
    """A result file."""

    path: str
    size_bytes: int


class ResultsView(Message):
    """The result files of a program, sorted by path."""

    results: list[ResultView]


class RefusalView(Message):
    """A filter, and the nodes that it was the first to refuse."""

    filter: str
    nodes: int
    reason: str


class ChangeView(Message):
    """The smallest change that would fit: so many cores, MB or GPUs less, or a condition that stands in the way."""

    what: str
    by: float


class ExcessView(Message):
    """A limit of the account's quota that is in the way: cores, MB, or a number."""

    resource: str
    held: float
    asked: float
    limit: float


class EstimateView(Message):
    """When it may start, and what that goes by."""

    earliest: datetime
    latest: datetime
    basis: str


class ExplanationBody(Message):
    """What a workload waits for.

    ``nodes`` is the sum of ``fits`` and of what the refusals count. ``ahead`` are the candidates before it, of whom
    ``firstAhead`` names a few of the caller's own. Without history there is no ``estimate``.
    """

    nodes: int
    fits: int
    refusals: list[RefusalView]
    suggestion: str
    notes: list[str] = Field(default_factory=list)
    change: ChangeView | None
    waits_for: WaitsFor
    not_before: datetime | None
    quota: list[ExcessView]
    ahead: int
    first_ahead: list[str]
    estimate: EstimateView | None
    sentence: str


class ServerView(Message):
    """A copy of a model; of another account's copy ``id`` and ``pid`` are None and ``message`` is empty."""

    id: str | None
    phase: Phase
    node_id: str | None
    pid: int | None
    message: str
    restarts: int


class ModelView(Message):
    """A model and its copies."""

    name: str
    owner: str
    format: ModelFormat
    source: str
    target: str
    max_concurrency: int | None
    demand: DemandBody
    created_at: datetime
    ready_on: list[str]
    servers: list[ServerView]


class ModelsView(Message):
    """One page of models."""

    models: list[ModelView]
    total: int
    limit: int
    offset: int
