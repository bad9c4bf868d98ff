"""What an operator wants of a node, as labels say it: its configuration, and that it leaves. No I/O.

Labels are what an operator sets on nodes of every protocol: they are kept, and reach whichever process the node is
connected to, now or later. Those that begin with ``claw/`` and are named here are also told to the node.

Source: claw-proto API Reference, "Configuration" and "Gateway Messages".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from arcray import claw_proto as claw
from arcray.facades.claw.nodes import FACADE

__all__ = ["HEARTBEAT", "LOG_LEVEL", "MAX_WORKLOADS", "METRICS", "SHUTDOWN", "Wishes", "wishes_of"]

_log = logging.getLogger(__name__)

HEARTBEAT: Final = f"{FACADE}/heartbeat-interval-secs"
METRICS: Final = f"{FACADE}/metrics-interval-secs"
MAX_WORKLOADS: Final = f"{FACADE}/max-concurrent-workloads"
LOG_LEVEL: Final = f"{FACADE}/log-level"
SHUTDOWN: Final = f"{FACADE}/shutdown"
"""``graceful`` has a node leave once what it runs has ended, ``now`` at once. As long as it is set, the node is told so
whenever it registers."""

_U32: Final = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is wanted.

    Args:
        config: None leaves the node as it is.
        leaves: it is to leave.
        graceful: after what runs has ended.
    """

    config: claw.NodeConfig | None = None
    leaves: bool = False
    graceful: bool = False


def wishes_of(labels: Mapping[str, str | None], *, silence_s: float) -> Wishes:
    """Returns what labels ask for; one whose value means nothing is passed over, and logged.

    Args:
        silence_s: a node that is silent for so long takes no new work, so that heartbeats have to come more often.
    """
    config = claw.NodeConfig(
        heartbeat_interval_secs=_number(labels, HEARTBEAT, low=1, below=silence_s),
        metrics_interval_secs=_number(labels, METRICS, low=1),
        max_concurrent_workloads=_number(labels, MAX_WORKLOADS, low=0),
        log_level=labels.get(LOG_LEVEL),
    )
    shutdown = labels.get(SHUTDOWN)
    if shutdown not in (None, "graceful", "now"):
        _log.warning("label means nothing", extra={"label": SHUTDOWN, "value": shutdown})
        shutdown = None
    return Wishes(
        config=None if config == claw.NodeConfig() else config,
        leaves=shutdown is not None,
        graceful=shutdown == "graceful",
    )


def _number(labels: Mapping[str, str | None], key: str, *, low: int, below: float = _U32 + 1) -> int | None:
    value = labels.get(key)
    if value is None:
        return None
    if value.isascii() and value.isdigit() and len(value) <= len(str(_U32)) and low <= int(value) < below:
        return int(value)
    _log.warning("label means nothing", extra={"label": key, "value": value})
    return None
