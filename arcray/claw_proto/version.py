"""Which version is spoken. Nodes and gateways have to agree on the major one, and only 1 exists.

Source: claw-proto API Reference, "Protocol Version".
"""

from __future__ import annotations

from typing import Final

from arcray.claw_proto.errors import ValidationError

__all__ = ["PROTOCOL_VERSION", "agree"]

PROTOCOL_VERSION: Final = 1


def agree(protocol_version: int) -> int:
    """Returns the version that this side and the one that names ``protocol_version`` speak.

    Raises:
        ValidationError: there is none.
    """
    if protocol_version != PROTOCOL_VERSION:
        raise ValidationError(f"must be {PROTOCOL_VERSION}, got {protocol_version}", field="protocol_version")
    return PROTOCOL_VERSION
