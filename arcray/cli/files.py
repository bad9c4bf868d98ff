"""Files that are typed: read whole and as they are, or refused by the name of the option that named them."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from arcray.core.errors import InvalidArgumentError

__all__ = ["content_of", "text_of"]


def content_of(file: Path | BinaryIO, field: str) -> bytes:
    """Returns the bytes of a file.

    Raises:
        InvalidArgumentError: it cannot be read.
    """
    try:
        return file.read_bytes() if isinstance(file, Path) else file.read()
    except OSError as error:
        raise InvalidArgumentError(f"{_name(file)} cannot be read: {error.strerror}", field=field) from error


def text_of(file: Path | BinaryIO, field: str) -> str:
    """Returns the text of a file, its line ends as they are.

    Raises:
        InvalidArgumentError: it cannot be read, or is not UTF-8.
    """
    try:
        return content_of(file, field).decode()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"{_name(file)} is not UTF-8 text", field=field) from error


def _name(file: Path | BinaryIO) -> str:
    return str(file if isinstance(file, Path) else file.name)
