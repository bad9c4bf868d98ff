"""Reading a message: a field has the form and range that was asked for, or the refusal names it as the contract does.

What protobuf has checked (types, UTF-8) is not checked again. Absent and empty are the same to it, and so here.
"""

from __future__ import annotations

from typing import Final

from arcray.core.errors import InvalidArgumentError

__all__ = ["INT32", "NAME_LIMIT", "name", "sendable", "text", "token_text", "whole"]

NAME_LIMIT: Final = 128
INT32: Final = 2**31 - 1
_TOKEN_LIMIT: Final = 4096


def text(value: str, field: str, *, shortest: int = 0, longest: int) -> str:
    """Returns text of so many characters; any characters but NUL, which databases do not take.

    Raises:
        InvalidArgumentError: names ``field``.
    """
    if not shortest <= len(value) <= longest:
        raise InvalidArgumentError(f"must have {shortest} to {longest} characters", field=field)
    if "\0" in value:
        raise InvalidArgumentError("must not have a NUL character", field=field)
    return value


def name(value: str, field: str) -> str:
    """Returns what something is called: printable and without spaces at its ends, so that people can tell names apart.

    Raises:
        InvalidArgumentError: names ``field``.
    """
    text(value, field, shortest=1, longest=NAME_LIMIT)
    if not value.isprintable() or value != value.strip():
        raise InvalidArgumentError("must be printable, without spaces at its ends", field=field)
    return value


def token_text(value: str, field: str) -> str:
    """Returns a token that may be one, or "" where there is none.

    Raises:
        InvalidArgumentError: names ``field``.
    """
    return text(value, field, longest=_TOKEN_LIMIT)


def whole(value: int, field: str, *, low: int = 0, high: int = INT32) -> int:
    """Returns a number within a range.

    Raises:
        InvalidArgumentError: names ``field`` and the range.
    """
    if not low <= value <= high:
        raise InvalidArgumentError(f"must be between {low} and {high}, got {value}", field=field)
    return value


def sendable(value: str) -> str:
    """Returns text that protobuf takes: what is no Unicode, as foreign names may be, is marked."""
    return value.encode("utf-8", "replace").decode()
