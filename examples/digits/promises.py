"""What the main job holds its parts to."""

from __future__ import annotations

__all__ = ["UnwellError", "require"]


class UnwellError(Exception):
    """Something that the main job promises does not hold."""


def require(holds: bool, otherwise: str) -> None:
    """Raises ``UnwellError`` unless something holds."""
    if not holds:
        raise UnwellError(otherwise)
