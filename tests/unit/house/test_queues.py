"""Every limit of the settings that bounds a queue has a metric, and every queue that is named is read by somebody."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from arcray.config import Settings
from arcray.core.queues import Queue

PACKAGE = Path(__file__).parents[3] / "arcray"

LIMITS = {
    "arcnet.max_sockets": {Queue.SOCKETS},
    "arcnet.socket_queue": {Queue.SOCKET_FRAMES},
    "claw.max_sockets": {Queue.CLAW_SOCKETS},
    "claw.socket_queue": {Queue.CLAW_FRAMES},
    "gateway.max_connections": {Queue.CONNECTIONS},
    "hivemind.max_dials": {Queue.DIALS},
    "hivemind.max_hashing": {Queue.LOGINS},
    "inference.max_waiting": {Queue.WAITING},
    "node.max_orders": {Queue.WORK},
    "pool.max_sockets": {Queue.DEVICE_SOCKETS},
    "pool.max_tasks": {Queue.TASKS},
    "pool.socket_queue": {Queue.DEVICE_FRAMES},
    "scheduler.commit_batch": {Queue.BATCH},
    "scheduler.event_buffer": {Queue.EVENTS},
    "scheduler.max_commands": {Queue.COMMANDS, Queue.CALLERS, Queue.LOOKUPS},
    "scheduler.max_pending": {Queue.PENDING},
    "scheduler.max_queued_orders": {Queue.ORDERS},
}
# Limits that hold apart from any setting: of what waits in and for one process, see where it is read.
FIXED = {Queue.ASKS, Queue.STREAM_EVENTS, Queue.READER_EVENTS, Queue.CLIENT_EVENTS, Queue.CLAW_WORDS}

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


def test_every_limit_of_a_queue_is_a_metric() -> None:
    assert set(limits(Settings)) == LIMITS.keys() | NO_QUEUES.keys()


def test_every_queue_is_bounded_by_a_setting_or_by_design() -> None:
    assert set().union(*LIMITS.values()) | FIXED == set(Queue)


def test_every_queue_is_read_in_one_place() -> None:
    sources = (path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py")))
    read = [
        keyword.value.attr
        for source in sources
        if "QueueReading(" in source  # to parse all of them takes half a second
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "QueueReading"
        for keyword in node.keywords
        if keyword.arg == "queue" and isinstance(keyword.value, ast.Attribute)
    ]
    assert sorted(read) == sorted(queue.name for queue in Queue)
