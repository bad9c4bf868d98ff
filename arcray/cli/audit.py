"""``arcray audit``: what happened to work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

import click

from arcray.cli.context import Context, options, pass_context
from arcray.cli.kinds import POSITIVE
from arcray.cli.output import emit

__all__ = ["audit"]

_PAGE: Final = 500
_COLUMNS: Final = ["time", "event", "workload", "node", "message"]


@click.command()
@click.option("--workload", metavar="ID", help="Only what happened to this workload.")
@click.option("--node", metavar="ID", help="Only what happened on this node.")
@click.option("--since", metavar="TIME", help="Only then or later: 2026-02-03T12:34:56Z.")
@click.option("--limit", type=POSITIVE, default=100, show_default=True, help="How many, oldest first.")
@click.option("--all", "every", is_flag=True, help="All of them, however many; as JSON one object a line.")
@options
@pass_context
def audit(
    context: Context, /, workload: str | None, node: str | None, since: str | None, limit: int, *, every: bool
) -> None:
    """Show what happened to work: submitted, placed, started, ended. Requests for inference are left out."""
    with context.client() as client:
        page = _PAGE if every else min(limit, _PAGE)
        events = client.operations.audit(workload=workload, node=node, since=since, page=page)
        if not every:
            _show(context, list(islice(events, limit)))
            return
        while found := list(islice(events, _PAGE)):  # printed as it comes, so that none but one page is held
            if context.output == "json":
                for event in found:
                    click.echo(json.dumps(dict(event)))
            else:
                _show(context, found)


def _show(context: Context, events: list[Mapping[str, Any]]) -> None:
    rows = [
        {
            "time": event["timestamp"],
            "event": event["kind"] if isinstance(event["kind"], str) else next(iter(event["kind"])),
            "workload": event["workload_id"],
            "node": event["metadata"]["node_id"],
            "message": event["metadata"]["message"],
        }
        for event in events
    ]
    emit(rows, _COLUMNS, output=context.output, bodies=events)
