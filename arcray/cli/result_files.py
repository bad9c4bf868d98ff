"""Result files, written here under the names that their programs gave them; never outside the directory meant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from arcray.cli.output import shown
from arcray.core.errors import (
    ArcrayError,
    DeadlineExceededError,
    InvalidArgumentError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from arcray.client import Client

__all__ = ["fetched"]


def fetched(client: Client, workload_id: str, path: str, directory: Path) -> bool:
    """Writes one result below the directory; returns False, and says on stderr why, if just that one cannot be had."""
    try:
        target = _below(directory, path)
        content = client.result(workload_id, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    except (UnavailableError, DeadlineExceededError, UnauthenticatedError, PermissionDeniedError):
        raise  # nor can the others
    except ArcrayError as error:
        reason = error.message
    except OSError as error:
        reason = f"cannot be written: {error.strerror}"
    else:
        return True
    click.echo(f"arcray: {shown(path)}: {shown(reason)}", err=True)
    return False


def _below(directory: Path, relative: str) -> Path:
    """Returns where a result goes.

    Raises:
        InvalidArgumentError: its name, which came over the network, leads out of the directory or nowhere.
    """
    try:
        root = directory.resolve()
        path = (root / relative).resolve()
    except (ValueError, RuntimeError) as error:  # NUL; links in a circle
        raise InvalidArgumentError("is no path", field="path") from error
    if path == root or not path.is_relative_to(root):
        raise InvalidArgumentError(f"leads out of {directory}", field="path")
    return path
