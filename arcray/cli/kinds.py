"""What an argument may be: whatever else is typed is wrong use, and said by the name of its option."""

from __future__ import annotations

import math
from typing import Any, Final

import click

__all__ = ["AMOUNT", "COUNT", "MEGABYTES", "PATIENCE", "POSITIVE", "spelled"]

_MOST: Final = 2**63 - 1  # what every program, database and wire of ours can count


class _Number(click.FloatRange):
    """A number that is one: float() reads nan and inf as well, which no quantity is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        if number * 1000 > _MOST:
            self.fail("is too large.", param, ctx)
        return number


class _Whole(click.IntRange):
    """A whole number that everything can count."""

    def __init__(self, least: int, most: int = _MOST) -> None:
        super().__init__(min=least)  # the other end is no news for --help
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the number."""
        number = super().convert(value, param, ctx)
        if number > self._most:
            self.fail("is too large.", param, ctx)
        return number


AMOUNT: Final = _Number(min=0)
"""Cores or seconds, which are sent as thousandths."""

PATIENCE: Final = _Number(min=0, max=86_400)
"""Seconds that a command waits here: a day at the most, which every clock can count."""

COUNT: Final = _Whole(0)

POSITIVE: Final = _Whole(1)

MEGABYTES: Final = _Whole(0, _MOST // 2**20)


class _Text(click.types.StringParamType):
    """Text that can be sent: a byte that is none of UTF-8 arrives here as half of a surrogate pair."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the text."""
        text = super().convert(value, param, ctx)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail("is not UTF-8 text.", param, ctx)
        return text


_TEXT: Final = _Text()


def spelled(command: click.Command) -> click.Command:
    """Returns a command all of whose texts, and those of its commands, can be sent."""
    for parameter in command.params:
        if parameter.type is click.STRING:
            parameter.type = _TEXT
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            spelled(inner)
    return command
