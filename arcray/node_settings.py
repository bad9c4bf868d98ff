"""Settings of a machine: what it offers, and its containers, programs and models. Part of the tree in ``config``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from arcray.paths import absolute

__all__ = [
    "ContainerSettings",
    "ForkServerSettings",
    "LocationSettings",
    "ModelSettings",
    "NodeSettings",
    "ProgramSettings",
]

Directory: TypeAlias = Annotated[Path, AfterValidator(absolute)]  # nobody who opens it stands where it was written


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LocationSettings(_Section):
    """Where this machine stands; the zone follows from the geohash unless it is given."""

    geohash: str = Field(default="", max_length=6, pattern=r"^[0-9b-hjkmnp-z]{0,6}$")
    geozone: str = Field(default="", max_length=32)


class ContainerSettings(_Section):
    """Containers on this machine.

    Args:
        enabled: ``auto`` offers containers where an engine answers.
        images: glob patterns of images that may run; ``*`` allows all.
        mounts: host directories that volumes may come from, each with everything below it.
        pull: whether images that are absent are pulled.
        pids_limit: processes in one container.
        log_max_bytes: log kept of one container; older lines go first.
        call_timeout_s: longest wait for one call of the engine.
        look_s: time between two looks whether an engine has come or gone.
    """

    enabled: Literal["auto", "always", "never"] = "auto"
    images: tuple[str, ...] = ("*",)
    mounts: tuple[Directory, ...] = ()
    pull: bool = True
    pids_limit: int = Field(default=4096, ge=1)
    log_max_bytes: int = Field(default=16 * 2**20, ge=4096)
    call_timeout_s: float = Field(default=60.0, gt=0)
    look_s: float = Field(default=5.0, gt=0)


class ForkServerSettings(_Section):
    """Warm interpreters of which short programs are forks. Only where programs are users of their own in bubblewrap.

    Args:
        enabled: whether there are any; without, each program starts an interpreter.
        max_servers: how many at once, one for each owner of programs; who has not run any for longest gives way.
        idle_s: time without a program after which one ends.
        answer_s: longest wait for one; the program then starts without it.
        retry_s: time without any after one could not be started.
    """

    enabled: bool = True
    max_servers: int = Field(default=8, ge=1, le=1_000)
    idle_s: float = Field(default=60.0, gt=0)
    answer_s: float = Field(default=5.0, gt=0)
    retry_s: float = Field(default=60.0, gt=0)


class ProgramSettings(_Section):
    """Programs on this machine.

    Args:
        runner: ``auto`` takes the image if it is set and present, else the sandbox.
        image: runner image with a python3.
        sandbox: ``auto`` takes the strongest that works here; it is probed by running it. Where the agent is root,
            programs are users of their own, or are not run; ``none`` alone runs them as root, without isolation.
        network: whether a program may use the network.
        max_archive_bytes: unpacked size of an archive.
        max_result_bytes: size of all its result files.
        log_max_bytes: stdout and stderr kept; a longer log is cut with a note.
        default_memory_bytes: limit of a program that asked for none.
        pids_limit: processes and threads of one program.
        fork_server: how short programs start.
    """

    runner: Literal["auto", "image", "sandbox"] = "auto"
    image: str = ""
    sandbox: Literal["auto", "bubblewrap", "user", "none"] = "auto"
    network: bool = False
    max_archive_bytes: int = Field(default=1 * 2**30, ge=1024)
    max_result_bytes: int = Field(default=1 * 2**30, ge=1024)
    log_max_bytes: int = Field(default=16 * 2**20, ge=4096)
    default_memory_bytes: int = Field(default=4 * 2**30, ge=2**20)
    pids_limit: int = Field(default=512, ge=1)
    fork_server: ForkServerSettings = ForkServerSettings()


class ModelSettings(_Section):
    """Models on this machine.

    Args:
        enabled: whether this machine loads models.
        start_timeout_s: longest load.
        max_concurrency: requests in flight of a copy whose model sets none.
        python_path: directories that ``module:name`` models are imported from, before the environment's own.
        allow: glob patterns of ``module:name`` that may be loaded from elsewhere; a model's process is no sandbox, so
            by default only what is below ``python_path`` and entry points may.
        env: glob patterns of the variables that a model may set in its process. Name only what is read as plain data:
            many a variable (``LD_PRELOAD``, ``PYTHONPATH``, ``OPENSSL_CONF``) has a process load code.
        endpoints: glob patterns of hosts whose OpenAI-compatible endpoints may be models.
        probe_s, probe_timeout_s: time between two looks at the endpoint of a model, and what each may take; one that
            fails twice is not offered until it serves again.
        silence_s: longest time that a model's code may hold the event loop or the interpreter of its process; one that
            gives no sign of life for so long is ended and started again.
        user: name of the user that models run as where the agent is root; "" is the agent's own. It must be able to
            read the Python environment and pass through the state directory.
        max_restarts: restarts of a model process that dies, with back-off, before its workload fails.
    """

    enabled: bool = True
    start_timeout_s: float = Field(default=120.0, gt=0)
    max_concurrency: int = Field(default=32, ge=1)
    python_path: tuple[Directory, ...] = ()
    allow: tuple[str, ...] = ()
    env: tuple[str, ...] = ("MODEL_*", "OPENAI_API_KEY")
    endpoints: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    user: str = ""
    silence_s: float = Field(default=30.0, gt=0)
    probe_s: float = Field(default=5.0, gt=0)
    probe_timeout_s: float = Field(default=5.0, gt=0)
    max_restarts: int = Field(default=3, ge=0)


class NodeSettings(_Section):
    """What a machine offers and how it tells.

    Args:
        heartbeat_s: time between readings sent to the scheduler.
        reserved_cpu_milli, reserved_memory_bytes: kept back for the machine itself and arcray.
        cpu_milli, memory_bytes: what is offered; None measures it.
        max_orders: orders waiting on the machine before it refuses more.
    """

    heartbeat_s: float = Field(default=5.0, gt=0)
    reserved_cpu_milli: int = Field(default=0, ge=0)
    reserved_memory_bytes: int = Field(default=512 * 2**20, ge=0)
    cpu_milli: int | None = Field(default=None, ge=0)
    memory_bytes: int | None = Field(default=None, ge=0)
    max_orders: int = Field(default=10_000, ge=1)
    labels: dict[str, str] = Field(default_factory=dict)
    location: LocationSettings = LocationSettings()
    containers: ContainerSettings = ContainerSettings()
    programs: ProgramSettings = ProgramSettings()
    models: ModelSettings = ModelSettings()
