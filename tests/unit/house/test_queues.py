"""Every limit of the settings that bounds a queue has a metric, and every queue that is named is read by somebody."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel

from arcray.config import Settings
from arcray.core.queues import Queue
from arcray.facades.arcnet.queues import Queue as Arcnet
from arcray.facades.claw.queues import Queue as Claw
from arcray.facades.hivemind.queues import Queue as HiveMind
from arcray.facades.pool.queues import Queue as Pool
from arcray.wire.facade import load_facades

PACKAGE = Path(__file__).parents[3] / "arcray"

LIMITS: dict[str, set[StrEnum]] = {
    "arcnet.max_sockets": {Arcnet.SOCKETS},
    "arcnet.socket_queue": {Arcnet.FRAMES},
    "claw.max_sockets": {Claw.SOCKETS},
    "claw.socket_queue": {Claw.FRAMES},
    "gateway.max_connections": {Queue.CONNECTIONS},
    "hivemind.max_dials": {HiveMind.DIALS},
    "hivemind.max_hashing": {HiveMind.LOGINS},
    "inference.max_waiting": {Queue.WAITING},
    "node.max_orders": {Queue.WORK},
    "pool.max_sockets": {Pool.SOCKETS},
    "pool.max_tasks": {Pool.TASKS},
    "pool.socket_queue": {Pool.FRAMES},
    "scheduler.commit_batch": {Queue.BATCH},
    "scheduler.event_buffer": {Queue.EVENTS},
    "scheduler.max_commands": {Queue.COMMANDS, Queue.CALLERS, Queue.LOOKUPS},
    "scheduler.max_pending": {Queue.PENDING},
    "scheduler.max_queued_orders": {Queue.ORDERS},
}
# Limits that hold apart from any setting: of what waits in and for one process, see where it is read.
FIXED: set[StrEnum] = {Queue.ASKS, Queue.STREAM_EVENTS, Queue.READER_EVENTS, Queue.CLIENT_EVENTS, Claw.WORDS}

NO_QUEUES = {
    "blobs.max_blob_bytes": "the size of one thing",
    "gateway.max_asks_bytes": "what waits in asks, by another measure",
    "gateway.max_body_bytes": "the size of one thing",
    "gateway.max_header_bytes": "the size of one thing",
    "gateway.max_headers": "the size of one thing",
    "gateway.ws_max_bytes": "the size of one thing",
    "inference.max_body_bytes": "the size of one thing",
    "node.containers.log_max_bytes": "a file on the machine",
    "node.models.max_concurrency": "slots of a model, which nodes report",
    "node.models.max_restarts": "a number of attempts",
    "node.programs.fork_server.max_servers": "processes; who finds none starts without",
    "node.programs.log_max_bytes": "a file on the machine",
    "node.programs.max_archive_bytes": "the size of one thing",
    "node.programs.max_result_bytes": "files on the machine",
    "pool.device.max_message_bytes": "the size of one thing",
    "pool.max_allocations": "what is held, not what waits",
    "pool.max_cpu_allocation": "a share of a machine",
    "pool.max_devices": "what is listed, not what waits",
    "pool.max_memory_allocation": "a share of a machine",
    "pool.max_result_bytes": "the size of one thing",
    "pool.max_storage_allocation": "a share of a machine",
    "retention.max_events": "what is kept, not what waits",
    "retention.max_inference": "what is kept, not what waits",
    "retention.max_nodes": "what is kept, not what waits",
    "retention.max_reservations": "what is kept, not what waits",
    "retention.max_workloads": "what is kept, not what waits",
    "scheduler.default_max_duration_s": "a time",
    "scheduler.max_duration_s": "a time",
    "scheduler.max_gang_size": "the size of one thing; its members wait in pending",
    "scheduler.max_reservation_s": "a time",
    "scheduler.max_reservations": "what is held, not what waits",
    "scheduler.restart_backoff_max_s": "a time",
    "scheduler.round_batch": "work of one turn; what is left of it waits in pending",
}


def limits(settings: type[BaseModel], path: str = "") -> Iterator[str]:
    """Yields the paths of every setting that is a limit by its name."""
    for name, field in settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from limits(kind, f"{path}{name}.")
        elif "max" in name.split("_") or name.endswith(("_buffer", "_queue", "_batch")):
            yield path + name


def every_queue() -> set[StrEnum]:
    """What is named in core, and by the protocols."""
    return {*Queue, *(queue for facade in load_facades(Settings().facades) for queue in facade.queues)}


def queues_read_in(source: str) -> Iterator[StrEnum]:
    """Yields what a module has readings of; its enumeration is the one that it imports."""
    tree = ast.parse(source)
    (names,) = [
        importlib.import_module(node.module).Queue
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == "Queue" for alias in node.names)
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "QueueReading":
            yield from (
                names[keyword.value.attr]
                for keyword in node.keywords
                if keyword.arg == "queue" and isinstance(keyword.value, ast.Attribute)
            )


def test_every_limit_of_a_queue_is_a_metric() -> None:
    assert set(limits(Settings)) == LIMITS.keys() | NO_QUEUES.keys()


def test_every_queue_is_bounded_by_a_setting_or_by_design() -> None:
    assert FIXED.union(*LIMITS.values()) == every_queue()


def test_every_queue_is_read_in_one_place() -> None:
    sources = (path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py")))
    # To parse all of them would take half a second.
    read = [queue for source in sources if "QueueReading(" in source for queue in queues_read_in(source)]
    assert sorted(read) == sorted(every_queue())
