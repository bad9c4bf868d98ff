"""A typed client of arcray's REST API."""

from __future__ import annotations

from arcray.client.client import Client
from arcray.client.ledger import AccountInfo, IssuedKey, KeyInfo, StatementLine
from arcray.client.transport import RetryPolicy
from arcray.client.types import (
    Answer,
    ModelInfo,
    NodeInfo,
    ReservationInfo,
    ResultFile,
    SliceInfo,
    WorkloadInfo,
    WorkOptions,
)

__all__ = [
    "AccountInfo",
    "Answer",
    "Client",
    "IssuedKey",
    "KeyInfo",
    "ModelInfo",
    "NodeInfo",
    "ReservationInfo",
    "ResultFile",
    "RetryPolicy",
    "SliceInfo",
    "StatementLine",
    "WorkOptions",
    "WorkloadInfo",
]
