"""What a path means that somebody wrote: itself, letter by letter, from where it was written, ``~`` being a home."""

from __future__ import annotations

from pathlib import Path

__all__ = ["absolute"]


def absolute(path: Path) -> Path:
    """Returns where a path leads from here; links in it stay.

    Raises:
        ValueError: it begins with the home of a user whom nobody knows, or no path can be that.
    """
    if "\0" in str(path):
        raise ValueError("a path has no NUL in it")
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"{path} is in the home of nobody here") from error
