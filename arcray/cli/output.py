"""What commands print: tables for people, JSON for programs. Never colours or a terminal's width: output is piped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

__all__ = ["emit", "emit_one", "shown", "table"]

Row = Mapping[str, Any]


def emit(rows: Sequence[Row], columns: Sequence[str], *, output: str, bodies: Sequence[Row] | None = None) -> None:
    """Prints many things of one kind.

    Args:
        columns: members of a row to show in the table, in order.
        bodies: what JSON shows instead of the rows: whole bodies as the server sent them.
    """
    if output == "json":
        click.echo(json.dumps([dict(body) for body in (rows if bodies is None else bodies)], indent=2))
        return
    click.echo(table(columns, [[row.get(column) for column in columns] for row in rows]))


def emit_one(row: Row, *, output: str, body: Row | None = None) -> None:
    """Prints one thing: its members under each other."""
    if output == "json":
        click.echo(json.dumps(dict(row if body is None else body), indent=2))
        return
    width = max(map(len, row), default=0)
    for name, value in row.items():
        click.echo(f"{name:<{width}}  {_text(value)}".rstrip())


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Returns an aligned table; numbers stand to the right."""
    texts = [[_text(value) for value in row] for row in rows]
    widths = [max([len(column), *(len(row[index]) for row in texts)]) for index, column in enumerate(columns)]
    right = [bool(rows) and all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(columns))]
    lines = [[column.upper() for column in columns], *texts]
    return "\n".join(
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _text(value: Any) -> str:
    match value:
        case None | "" | [] | ():
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.1f}"
        case list() | tuple():
            return ", ".join(map(_text, value))
        case _:
            return shown(str(value))


def shown(text: str) -> str:
    """Returns text with all that a terminal would act on spelled out: it came from whoever named a thing."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
