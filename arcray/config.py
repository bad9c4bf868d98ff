"""One typed settings tree: a YAML file, then ``ARCRAY_*`` environment, validated at start, passed as arguments.

Nothing else in arcray reads the environment. Nested names join with two underscores:
``ARCRAY_GATEWAY__GRPC_PORT=50052``. Every default is safe on a laptop without a GPU. Every limit of
the server that can be set is in this tree, of which the ``*_settings`` modules have sections; what cannot be set is a
constant where it is enforced.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)
from yaml import YAMLError

from arcray.account_settings import LedgerSettings, PriceSettings, QuotaSettings
from arcray.claw_settings import ClawSettings
from arcray.core.errors import InvalidArgumentError
from arcray.core.ids import AccountId
from arcray.core.keys import Scope
from arcray.core.ledger import check_account_id
from arcray.hivemind_settings import HivemindSettings
from arcray.node_settings import (
    ContainerSettings,
    ForkServerSettings,
    LocationSettings,
    ModelSettings,
    NodeSettings,
    ProgramSettings,
)
from arcray.paths import absolute
from arcray.pool_settings import PoolSettings
from arcray.retention_settings import RetentionSettings
from arcray.storage_settings import BlobSettings, DatabaseSettings, checked_database_url

if TYPE_CHECKING:
    from sqlalchemy import URL

__all__ = [
    "ArcnetSettings",
    "AuthSettings",
    "BlobSettings",
    "ContainerSettings",
    "DatabaseSettings",
    "ForkServerSettings",
    "GatewaySettings",
    "InferenceSettings",
    "LedgerSettings",
    "LocationSettings",
    "ModelSettings",
    "NodeSettings",
    "PriceSettings",
    "ProgramSettings",
    "QuotaSettings",
    "RetentionSettings",
    "SchedulerSettings",
    "Settings",
    "load",
]

Port: TypeAlias = Annotated[int, Field(ge=1, le=65_535)]

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  compared, not bound


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AuthSettings(_Section):
    """Who may come in.

    Args:
        mode: ``open`` takes everyone and binds loopback only; ``keys`` wants an API key.
        keys: API keys by name, for ``keys`` mode, beside those that are issued; an account is called as its key is.
        scopes: what a key of ``keys`` may do, by its name; one without an entry may submit.
        insecure: lets ``open`` bind other addresses, and be asked for by any name; for closed networks only.
        sites: names (``host:port``) by which ``open`` is reached besides addresses and localhost, and whose web pages
            may use it.
        key_cache: issued keys that one gateway process remembers.
        key_cache_s: for how long it does without asking again. A revoked key is forgotten at once; this bounds what a
            process can miss that is cut off from the scheduler.
        wrong_key_cache_s: the same for keys that nobody has.
        failures_per_minute: wrong keys taken from one address; more are answered 429 without a look.
    """

    mode: Literal["open", "keys"] = "open"
    keys: dict[str, str] = Field(default_factory=dict, repr=False)
    scopes: dict[str, Scope] = Field(default_factory=dict)
    insecure: bool = False
    sites: tuple[str, ...] = ()
    key_cache: int = Field(default=10_000, ge=1)
    key_cache_s: float = Field(default=60.0, gt=0, le=3600)
    wrong_key_cache_s: float = Field(default=5.0, gt=0, le=60)
    failures_per_minute: int = Field(default=60, ge=1)

    @model_validator(mode="after")
    def _keys_are_called_as_accounts_are(self) -> AuthSettings:
        for name in self.keys:
            try:
                check_account_id(AccountId(name))
            except InvalidArgumentError as error:
                raise ValueError(f"key {name!r}: {error.message}") from error
        return self

    @model_validator(mode="after")
    def _keys_open_something(self) -> AuthSettings:
        owners: dict[str, str] = {}
        for name, key in self.keys.items():
            if not key:
                raise ValueError(f"key {name!r} is empty")
            if key != key.strip():  # no header carries that
                raise ValueError(f"key {name!r} begins or ends with a space")
            if (other := owners.setdefault(key, name)) != name:
                raise ValueError(f"keys {other!r} and {name!r} are the same")
        return self

    @model_validator(mode="after")
    def _scopes_are_of_keys(self) -> AuthSettings:
        unknown = sorted(self.scopes.keys() - self.keys.keys())
        if unknown:
            raise ValueError(f"scopes names keys that are not in keys: {', '.join(unknown)}")
        if Scope.NODE in self.scopes.values():
            raise ValueError("scope node is for issued keys, which name their node")
        return self


class GatewaySettings(_Section):
    """The listeners and their limits.

    Args:
        host: address that every native listener binds.
        http_ports: HTTP and WebSocket; [] leaves only Serve's own port.
        grpc_port: gRPC; None opens none.
        serve_port: Ray Serve's own HTTP proxy.
        replicas: gateway processes; the listeners share their ports.
        max_body_bytes: largest request body; inference has a limit of its own.
        grpc_bodies_bytes: of the bodies of all gRPC calls at a time, where one that comes counts as the largest: by
            default 18 may come at once. More wait for their turn.
        grpc_body_timeout_s: longest that one may take to come, and longest wait for a turn.
        max_header_bytes, max_headers: largest head of a request, its target counted, and how many headers it may have;
            more is answered 431, a longer target 414.
        ws_max_bytes: largest WebSocket message the listener accepts; protocols have tighter limits.
        ws_frames_per_s: frames that a WebSocket may send a second, five times as many at once; above that it is closed
            with 1008. 0 is no limit.
        max_connections: open connections per listener; more are answered 503.
        max_asks_bytes: of what one process, a node's among them, has asked of the scheduler and waits for.
        call_timeout_s: longest wait for an answer of the scheduler.
        header_timeout_s: longest that the headers of a request may take, from the connection or their first byte; and
            that a WebSocket may take to be opened, from its headers.
        body_timeout_s, body_bytes_per_s: longest that its body may take: so long, and what its size takes at this rate.
        write_timeout_s: longest that a client may take nothing of what was written to it.
        idle_timeout_s: longest between two requests of a connection; longer than the 60 s of common load balancers,
            which must be the ones to close.
        drain_s: time that open requests get when a replica is replaced.
    """

    host: str = "127.0.0.1"
    http_ports: tuple[Port, ...] = (8080, 3000)
    grpc_port: Port | None = 50051
    serve_port: Port = 8000
    replicas: int = Field(default=1, ge=1, le=64)
    max_body_bytes: int = Field(default=110 * 2**20, ge=1024)
    grpc_bodies_bytes: int = Field(default=2 * 2**30, ge=1024)
    grpc_body_timeout_s: float = Field(default=300.0, gt=0)
    max_header_bytes: int = Field(default=64 * 2**10, ge=1024)
    max_headers: int = Field(default=256, ge=16)
    ws_max_bytes: int = Field(default=8 * 2**20, ge=1024)
    ws_frames_per_s: int = Field(default=1_000, ge=0)
    max_connections: int = Field(default=4096, ge=1)
    max_asks_bytes: int = Field(default=256 * 2**20, ge=2**20)
    call_timeout_s: float = Field(default=30.0, gt=0)
    header_timeout_s: float = Field(default=20.0, gt=0)
    body_timeout_s: float = Field(default=30.0, gt=0)
    body_bytes_per_s: int = Field(default=16 * 2**10, ge=1)
    write_timeout_s: float = Field(default=30.0, gt=0)
    idle_timeout_s: int = Field(default=75, ge=1)
    drain_s: float = Field(default=5.0, ge=0)

    @property
    def authority(self) -> str:
        """``host:port`` by which its HTTP API is reached from this machine."""
        host = _ANY.get(self.host, self.host)
        return f"{f'[{host}]' if ':' in host else host}:{self.http_ports[0] if self.http_ports else self.serve_port}"


class InferenceSettings(_Section):
    """Routing of inference requests.

    Args:
        backoff_ms: waits between attempts to find a node; after the last one the request is rejected.
        timeout_s: longest time on a node; also the ceiling of a held slot.
        max_waiting: requests waiting for a slot; more are refused at once.
        saturation: a node that has no slot control of its own takes nothing at or above this utilization.
        stale_after_s: a reading older than this excludes such a node.
        max_body_bytes: largest request, with its input; larger ones are answered 413.
    """

    backoff_ms: tuple[int, ...] = (100, 200, 400)
    timeout_s: float = Field(default=30.0, gt=0)
    max_waiting: int = Field(default=10_000, ge=1)
    saturation: float = Field(default=0.85, gt=0, le=1)
    stale_after_s: float = Field(default=30.0, gt=0)
    max_body_bytes: int = Field(default=16 * 2**20, ge=1024)


class SchedulerSettings(_Section):
    """The scheduler.

    Args:
        missed_beats: a Ray node that misses this many heartbeats takes no new work; ten times as many lose it.
        max_pending: workloads waiting for a place; more are refused.
        max_queued_orders: undelivered orders per node.
        max_commands: commands being handled; more are refused.
        keep_finished: finished workloads kept in memory; older ones are in SQL only.
        keep_finished_inference: the same for inference requests.
        event_buffer: events kept for readers; a slower one gets a gap.
        commit_batch: records in one transaction at the most.
        restart_backoff_s: first wait before a restart; doubles up to restart_backoff_max_s.
        round_batch: placements in one scheduling round.
        round_decisions: placements and refusals in one scheduling round, a gang's counted by its members; the next
            round goes on from there.
        preemption_grace_s: time that work gets to end when it is preempted, or stopped with its gang.
        preemption_patience_s: how much longer than that grace the work in whose favour it was ended waits for the end;
            then it waits for any place again.
        max_gang_size: members of one gang.
        gang_timeout_s: longest wait for the last member of a gang; then those that came are rejected.
        gang_starts: restarts of a gang that fails before all of it runs, whatever its restart policy.
        gang_patience_s: wait of a complete gang after which work behind it leaves it the nodes that it could use.
        gang_hold_s: longest time that it is left them at a stretch; then others go first for as long.
        max_reservations: active at a time; more are refused.
        max_reservation_s: longest time that one is held.
        keep_reservations: ended ones kept in memory; older ones are in SQL only.
        restart_rest_s: an attempt that ran this long counts restarts, and their back-off, from nothing again.
        max_duration_s: longest that a container or program may ask to run; None is no limit.
        default_max_duration_s: what those get that ask for none; None is max_duration_s.
        overtime_grace_s: how much longer than it may work runs before the scheduler does what its node forgot.
        quota: of accounts that no operator gave one.
    """

    missed_beats: int = Field(default=3, ge=1)
    max_pending: int = Field(default=100_000, ge=1)
    max_queued_orders: int = Field(default=10_000, ge=1)
    max_commands: int = Field(default=50_000, ge=1)
    keep_finished: int = Field(default=1_000, ge=0)
    keep_finished_inference: int = Field(default=4_096, ge=0)
    event_buffer: int = Field(default=65_536, ge=16)
    commit_batch: int = Field(default=2_048, ge=1)
    restart_backoff_s: float = Field(default=1.0, gt=0)
    restart_backoff_max_s: float = Field(default=300.0, gt=0)
    round_batch: int = Field(default=1_000, ge=1)
    round_decisions: int = Field(default=128, ge=1)
    preemption_grace_s: float = Field(default=30.0, ge=0)
    preemption_patience_s: float = Field(default=60.0, gt=0)
    max_gang_size: int = Field(default=256, ge=1, le=1_024)
    gang_timeout_s: float = Field(default=300.0, gt=0)
    gang_starts: int = Field(default=3, ge=0)
    gang_patience_s: float = Field(default=60.0, ge=0)
    gang_hold_s: float = Field(default=600.0, gt=0)
    max_reservations: int = Field(default=10_000, ge=0)
    max_reservation_s: float = Field(default=86_400.0, gt=0)
    keep_reservations: int = Field(default=1_000, ge=0)
    restart_rest_s: float = Field(default=600.0, gt=0)
    max_duration_s: float | None = Field(default=None, gt=0)
    default_max_duration_s: float | None = Field(default=None, gt=0)
    overtime_grace_s: float = Field(default=30.0, gt=0)
    quota: QuotaSettings = QuotaSettings()

    @model_validator(mode="after")
    def _the_default_is_within_the_limit(self) -> SchedulerSettings:
        longest, given = self.max_duration_s, self.default_max_duration_s
        if longest is not None and given is not None and given > longest:
            raise ValueError(f"default_max_duration_s {given:g} is above max_duration_s {longest:g}")
        return self


class ArcnetSettings(_Section):
    """The ArcNet facade.

    Args:
        score: ``code`` is the first implementation's formula, ``documents`` the documents'.
        max_sockets: telemetry WebSockets of one gateway process.
        socket_queue: frames waiting for one slow socket; a longer queue closes it with 1013.
    """

    score: Literal["code", "documents"] = "code"
    max_sockets: int = Field(default=1_000, ge=1)
    socket_queue: int = Field(default=4_096, ge=16)


class Settings(BaseSettings):
    """All of it.

    Args:
        state_dir: database, blobs, node id, pid file and logs; absolute once it is read, ``~`` is your home; "" is
            the default.
        database_url: ``sqlite:///path`` or ``postgresql://user:password@host/name``; "" is SQLite in the state
            directory.
        facades: protocols to serve, by folder name or entry point.
        log_level: of arcray's own loggers.
        log_format: ``json`` for machines, ``text`` for people.
    """

    model_config = SettingsConfigDict(
        env_prefix="ARCRAY_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
    )

    state_dir: Path = Field(default_factory=lambda: Path.home() / ".arcray")
    database_url: str = Field(default="", repr=False)
    facades: tuple[str, ...] = ("arcnet", "claw", "hivemind", "pool", "rest")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"
    auth: AuthSettings = AuthSettings()
    gateway: GatewaySettings = GatewaySettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    inference: InferenceSettings = InferenceSettings()
    database: DatabaseSettings = DatabaseSettings()
    retention: RetentionSettings = RetentionSettings()
    blobs: BlobSettings = BlobSettings()
    node: NodeSettings = NodeSettings()
    ledger: LedgerSettings = LedgerSettings()
    arcnet: ArcnetSettings = ArcnetSettings()
    claw: ClawSettings = ClawSettings()
    hivemind: HivemindSettings = HivemindSettings()
    pool: PoolSettings = PoolSettings()

    @model_validator(mode="after")
    def _open_mode_stays_on_loopback(self) -> Settings:
        if self.auth.mode == "open" and self.gateway.host not in _LOOPBACK and not self.auth.insecure:
            raise ValueError(
                f"auth.mode open binds loopback only, gateway.host is {self.gateway.host}; "
                "set auth.mode to keys, or auth.insecure on a closed network"
            )
        return self

    @field_validator("state_dir", mode="before")
    @classmethod
    def _an_empty_state_directory_is_none(cls, path: Any) -> Any:
        return "~/.arcray" if path == "" else path  # as commands take an empty variable of the environment

    @field_validator("state_dir")
    @classmethod
    def _the_state_directory_is_absolute(cls, path: Path) -> Path:
        return absolute(path)

    @field_validator("database_url")
    @classmethod
    def _the_database_is_one_of_ours(cls, url: str) -> str:
        return url and checked_database_url(url)

    @property
    def sql_url(self) -> URL:
        """Where the database is, with the default filled in; no text, where letters of a path could mean more."""
        from sqlalchemy import URL, make_url  # costs 0.2 s, which most commands need not pay

        if self.database_url:
            return make_url(self.database_url)
        return URL.create("sqlite", database=str(self.state_dir / "arcray.db"))

    @property
    def blob_place(self) -> Path | str:
        """Where the blobs are, with the default filled in: a path, or a URL."""
        return self.blobs.place or self.state_dir / "blobs"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over arguments over nothing: the file's content arrives as arguments of ``load``."""
        _ = dotenv_settings, file_secret_settings, settings_cls
        return env_settings, init_settings


def load(path: Path | None = None, **overrides: Any) -> Settings:
    """Reads the settings: the file, then the environment, then ``overrides`` of the command line.

    Raises:
        InvalidArgumentError: a value is wrong or unknown, or the file is no settings; names it and its place.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        tree = _tree_of(path)
    try:
        settings = Settings(**tree)
        if overrides:
            settings = Settings.model_validate(_merged(settings.model_dump(), overrides))
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidArgumentError(
            first["msg"].removeprefix("Value error, "), field=".".join(str(part) for part in first["loc"])
        ) from error
    except SettingsError as error:
        raise InvalidArgumentError(f"{error}: it must be JSON", field="environment") from error
    return settings


def _tree_of(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise InvalidArgumentError(f"no settings file at {path}", field="config")
        return dict(YamlConfigSettingsSource(Settings, yaml_file=path)())
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        reason = "is not UTF-8 text"
    except YAMLError as error:
        reason = f"is no YAML: {' '.join(str(error).split())}"
    except (TypeError, ValueError):
        reason = "holds no mapping of settings"
    raise InvalidArgumentError(f"{path} {reason}", field="config")


def _merged(tree: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Returns tree with nested overrides laid over it."""
    merged = dict(tree)
    for key, value in overrides.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(value, dict) and isinstance(inner, dict) else value
    return merged
