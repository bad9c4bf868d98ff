"""What is installed here."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["installed_version"]


def installed_version() -> str:
    """Returns arcray's version, as its installation states it."""
    try:
        return version("arcray")
    except PackageNotFoundError:
        return "0+source"
