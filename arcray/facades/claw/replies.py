"""What a node is told, in its dialect: the same word of ours is another message in each.

A word that a dialect does not have is None, and nothing is sent.

Source: claw-proto API Reference, "Gateway Messages".
"""

from __future__ import annotations

from datetime import datetime
from math import ceil
from typing import Final

from arcray import claw_proto as claw
from arcray.claw_proto import original
from arcray.claw_proto.frames import AnyGatewayMessage, Dialect
from arcray.core.errors import ArcrayError
from arcray.core.ids import WorkloadId, foreign_id
from arcray.core.orders import StartWorkload, StopAttempt
from arcray.facades.claw.nodes import FACADE
from arcray.facades.claw.refusals import error_of
from arcray.facades.claw.specs import original_spec_of, spec_of

__all__ = [
    "acknowledged",
    "configured",
    "deployed",
    "pinged",
    "refused",
    "registered",
    "shut_down",
    "status_asked",
    "stopped",
    "wire_id",
]

_U32: Final = 2**32 - 1


def wire_id(workload_id: WorkloadId, attempt: int) -> claw.WorkloadId:
    """Returns the id by which a node knows an attempt.

    What has ended never goes on, by the protocol's own table, and a node may still tell of an attempt that was given
    up. So another attempt is another workload on this wire; the first has the workload's own id.
    """
    return claw.WorkloadId(workload_id if attempt == 1 else foreign_id(FACADE, f"{workload_id}/{attempt}"))


def registered(
    dialect: Dialect,
    node_id: claw.NodeId,
    *,
    heartbeat_s: int,
    metrics_s: int,
    config: claw.NodeConfig | None = None,
) -> AnyGatewayMessage:
    """Returns the answer to a registration; that of the first implementation has no place for ``config``."""
    if dialect is Dialect.ORIGINAL:
        return original.Registered(
            node_id=node_id, heartbeat_interval_secs=heartbeat_s, metrics_interval_secs=metrics_s
        )
    return claw.Registered(heartbeat_interval_secs=heartbeat_s, metrics_interval_secs=metrics_s, config=config)


def acknowledged(dialect: Dialect, now: datetime) -> AnyGatewayMessage:
    """Returns the answer to a heartbeat."""
    at = claw.Timestamp.of(now)
    return original.HeartbeatAck(server_time=at) if dialect is Dialect.ORIGINAL else claw.HeartbeatAck(timestamp=at)


def deployed(dialect: Dialect, order: StartWorkload, now: datetime) -> AnyGatewayMessage:
    """Returns what has a node run an attempt. Which GPUs are meant stands in the document's ``status.gpu_ids``.

    Raises:
        UnsupportedError: the wire cannot say it; names what.
    """
    name = wire_id(order.workload_id, order.attempt)
    if dialect is Dialect.ORIGINAL:
        return original.StartWorkload(workload_id=name, spec=original_spec_of(order))
    at = claw.Timestamp.of(now)
    workload = claw.Workload(
        id=name,
        name=order.name,
        spec=spec_of(order),
        status=claw.WorkloadStatus(gpu_ids=tuple(share.index for share in order.allocation.gpus)),
        created_at=at,
        updated_at=at,
    )
    return claw.DeployWorkload(workload=workload)


def stopped(dialect: Dialect, order: StopAttempt) -> AnyGatewayMessage:
    """Returns what has a node end an attempt; the document knows no grace but its nodes' own."""
    name = wire_id(order.workload_id, order.attempt)
    if dialect is Dialect.ORIGINAL:
        return original.StopWorkload(workload_id=name, grace_period_secs=min(ceil(order.grace_s), _U32))
    return claw.StopWorkload(workload_id=name, force=order.grace_s <= 0)


def configured(dialect: Dialect, config: claw.NodeConfig) -> AnyGatewayMessage:
    """Returns what changes how a node works."""
    return original.ConfigUpdate(config=config) if dialect is Dialect.ORIGINAL else claw.UpdateConfig(config=config)


def status_asked(dialect: Dialect, workload_id: claw.WorkloadId) -> AnyGatewayMessage | None:
    """Returns what asks how far an attempt is."""
    return None if dialect is Dialect.ORIGINAL else claw.GetWorkloadStatus(workload_id=workload_id)


def pinged(dialect: Dialect, now: datetime) -> AnyGatewayMessage | None:
    """Returns what a node answers at once."""
    return None if dialect is Dialect.ORIGINAL else claw.Ping(timestamp=claw.Timestamp.of(now))


def shut_down(dialect: Dialect, reason: str, *, graceful: bool) -> AnyGatewayMessage | None:
    """Returns what has a node leave."""
    return None if dialect is Dialect.ORIGINAL else claw.Shutdown(reason=reason, graceful=graceful)


def refused(dialect: Dialect, error: ArcrayError) -> AnyGatewayMessage | None:
    """Returns what tells a node that something it said was refused; the document has no word for it."""
    return error_of(error) if dialect is Dialect.ORIGINAL else None
