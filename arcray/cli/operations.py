"""Commands about what needs an eye on it: dead letters, quotas, what if."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click

from arcray.cli.context import Context, options, pass_context
from arcray.cli.files import text_of
from arcray.cli.kinds import AMOUNT, COUNT, MEGABYTES, POSITIVE
from arcray.cli.output import emit, emit_one, table
from arcray.core.errors import InvalidArgumentError

__all__ = ["COMMANDS"]

_PAGE: Final = 500


@click.group("dead-letters")
def dead_letters() -> None:
    """Work that ended badly and waits for somebody."""


@dead_letters.command("list")
@click.option("--limit", type=POSITIVE, default=20, show_default=True, help="How many, newest first.")
@click.option("--all", "every", is_flag=True, help="All of them, however many; as JSON one object a line.")
@options
@pass_context
def list_dead_letters(context: Context, /, limit: int, *, every: bool) -> None:
    """List them, newest first."""
    with context.client() as client:
        if not every:
            _list(context, client.operations.dead_letters(limit=limit))
            return
        letters = client.operations.each_dead_letter(page=_PAGE)
        while page := list(islice(letters, _PAGE)):  # printed as it comes, so that none but one page is held
            if context.output == "json":
                for letter in page:
                    click.echo(json.dumps(dict(letter)))
            else:
                _list(context, page)


def _list(context: Context, found: Sequence[Mapping[str, Any]]) -> None:
    emit(
        [
            {
                "id": letter["id"],
                "kind": letter["workload"]["kind"],
                "name": letter["workload"]["name"],
                "phase": letter["workload"]["phase"],
                "attempts": letter["workload"]["attempt"],
                "reason": letter["reason"],
            }
            for letter in found
        ],
        ["id", "kind", "name", "phase", "attempts", "reason"],
        output=context.output,
        bodies=found,
    )


@dead_letters.command()
@click.argument("workload_id")
@options
@pass_context
def show(context: Context, /, workload_id: str) -> None:
    """Show why, and how each attempt went."""
    with context.client() as client:
        letter = client.operations.dead_letter(workload_id)
    if context.output == "json":
        emit_one(letter, output="json")
        return
    work = letter["workload"]
    emit_one(
        {
            "id": letter["id"],
            "kind": work["kind"],
            "name": work["name"],
            "phase": work["phase"],
            "reason": letter["reason"],
        },
        output=context.output,
    )
    columns = ["attempt", "nodeId", "startedAt", "endedAt", "exitCode", "message"]
    click.echo(table(columns, [[attempt.get(column) for column in columns] for attempt in letter["attempts"]]))


@dead_letters.command()
@click.argument("workload_id")
@click.option("--set", "edits", multiple=True, metavar="MEMBER=VALUE", help="Say this otherwise; demand.gpus=1, say.")
@click.option("--edits", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The same as JSON.")
@click.option("--key", help="Idempotency key; without one, replaying again is the same replay.")
@options
@pass_context
def replay(context: Context, /, workload_id: str, edits: tuple[str, ...], file: Path | None, key: str | None) -> None:
    """Try again, with edits.

    VALUE is JSON where it reads as JSON, else text. A member of a demand replaces the demand: name all that it asks.
    """
    wanted = _object(text_of(file, "edits"), "edits") if file is not None else {}
    for edit in edits:
        _set(wanted, edit)
    with context.client() as client:
        workload = client.operations.replay(workload_id, wanted, key=key)
    emit_one(
        {"id": workload.id, "kind": workload.kind, "name": workload.name, "phase": workload.phase.value},
        output=context.output,
        body=workload.raw,
    )


@dead_letters.command()
@click.argument("workload_id")
@options
@pass_context
def discard(context: Context, /, workload_id: str) -> None:
    """Put one away; its record stays."""
    with context.client() as client:
        client.operations.discard(workload_id)
    emit_one({"id": workload_id, "discarded": True}, output=context.output)


@click.group()
def quotas() -> None:
    """What accounts may hold at a time."""


@quotas.command("list")
@options
@pass_context
def list_quotas(context: Context, /) -> None:
    """List accounts that have a quota of their own or hold something."""
    with context.client() as client:
        found = client.operations.quotas()
    emit([_quota_row(quota) for quota in found], _QUOTA_COLUMNS, output=context.output, bodies=found)


@quotas.command("show")
@click.argument("account")
@options
@pass_context
def show_quota(context: Context, /, account: str) -> None:
    """Show what an account may hold, and holds."""
    with context.client() as client:
        quota = client.operations.quota(account)
    emit_one(_quota_row(quota), output=context.output, body=quota)


@quotas.command("set")
@click.argument("account")
@click.option("--workloads", type=COUNT, help="Placed at a time.")
@click.option("--cpu", type=AMOUNT, help="Cores.")
@click.option("--memory-mb", type=MEGABYTES, help="Memory.")
@click.option("--gpus", type=COUNT, help="GPUs.")
@click.option("--pending", type=POSITIVE, help="Waiting for a place.")
@options
@pass_context
def set_quota(context: Context, /, account: str, **limits: Any) -> None:
    """Give an account a quota; what is not named is unlimited."""
    body = {"memoryMb" if name == "memory_mb" else name: value for name, value in limits.items() if value is not None}
    with context.client() as client:
        quota = client.operations.set_quota(account, body)
    emit_one(_quota_row(quota), output=context.output, body=quota)


@quotas.command()
@click.argument("account")
@options
@pass_context
def reset(context: Context, /, account: str) -> None:
    """Give an account the default again."""
    with context.client() as client:
        quota = client.operations.reset_quota(account)
    emit_one(_quota_row(quota), output=context.output, body=quota)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option("--add-nodes", multiple=True, metavar="JSON", help='{"count": 2, "like": NODE} or {"cpu": 64, ...}.')
@click.option("--remove-node", "remove_nodes", multiple=True, metavar="NODE", help="May be repeated.")
@click.option("--drain-node", "drain_nodes", multiple=True, metavar="NODE", help="May be repeated.")
@click.option("--submit", "submit", multiple=True, metavar="JSON", help='{"count": 4, "demand": {"gpus": 4}}.')
@options
@pass_context
def simulate(context: Context, /, file: Path | None, **wanted: tuple[str, ...]) -> None:
    """Tell what would happen if, and change nothing.

    FILE holds all of it as JSON, as POST /api/v1/simulate takes it.
    """
    body = _object(text_of(file, "file"), "file") if file is not None else {}
    add_nodes = [*_members(body, "addNodes"), *(_object(text, "addNodes") for text in wanted["add_nodes"])]
    submit = [*_members(body, "submit"), *(_object(text, "submit") for text in wanted["submit"])]
    with context.client() as client:
        said = client.operations.simulate(
            add_nodes=add_nodes,
            remove_nodes=[*_members(body, "removeNodes"), *wanted["remove_nodes"]],
            drain_nodes=[*_members(body, "drainNodes"), *wanted["drain_nodes"]],
            submit=submit,
        )
    if context.output == "json":
        emit_one(said, output="json")
        return
    _tell(said)


COMMANDS: Final = (dead_letters, quotas, simulate)

_RESOURCES: Final = ("workloads", "cpu", "memoryMb", "gpus", "pending")
_QUOTA_COLUMNS: Final = ("account", "own", *_RESOURCES)


def _quota_row(quota: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: _of(quota["held"].get(name), quota["quota"].get(name)) for name in _RESOURCES}
    return {"account": quota["account"], "own": quota["own"], **shown}


def _of(held: float | None, limit: float | None) -> str:
    return f"{held or 0:g} of {'any' if limit is None else f'{limit:g}'}"


def _tell(said: Mapping[str, Any]) -> None:
    if said["submitted"]:
        rows = []
        for each in said["submitted"]:
            node = "a new node" if each["newNode"] else each["nodeId"]
            why = each["refusal"] or (each["explanation"] or {}).get("sentence", "")
            rows.append([each["name"], node, each["gpus"], why])
        click.echo(table(["name", "node", "gpus", "why"], rows))
    if said["displaced"]:
        columns = ["id", "name", "nodeId", "movedTo", "phase", "message"]
        click.echo(table(columns, [[each[column] for column in columns] for each in said["displaced"]]))
    click.echo(
        f"{said['displacedTotal']} displaced, {said['startedTotal']} of the waiting started, {said['waiting']} waiting"
    )


def _object(text: str, field: str) -> dict[str, Any]:
    try:
        value = _sendable(json.loads(text))
    except ValueError as error:
        raise InvalidArgumentError(f"is not JSON: {error}", field=field) from error
    except RecursionError as error:
        raise InvalidArgumentError("is nested too deeply", field=field) from error
    if not isinstance(value, dict):
        raise InvalidArgumentError("must be an object", field=field)
    return value


def _members(body: dict[str, Any], name: str) -> list[Any]:
    found = body.get(name, [])
    if not isinstance(found, list):
        raise InvalidArgumentError("must be a list", field=name)
    return found


def _sendable(value: Any) -> Any:
    """Returns a value that JSON has: Python reads NaN, 1e999 and half of a surrogate pair as well.

    Raises:
        ValueError: it holds one of these.
        RecursionError: it is nested too deeply.
    """
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    return value


def _set(edits: dict[str, Any], text: str) -> None:
    path, sign, value = text.partition("=")
    if not sign or not path:
        raise InvalidArgumentError(f"{text!r} is not MEMBER=VALUE", field="set")
    *parents, last = path.split(".")
    place = edits
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise InvalidArgumentError(f"{parent} is set to something that has no members", field="set")
    place[last] = _value(value)
    try:
        _sendable(edits)
    except ValueError as error:
        raise InvalidArgumentError(f"{path} cannot be that: {error}", field="set") from error
    except RecursionError as error:
        raise InvalidArgumentError("is nested too deeply", field="set") from error


def _value(text: str) -> Any:
    """Returns what a text is as JSON, or itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
    except RecursionError as error:
        raise InvalidArgumentError("is nested too deeply", field="set") from error
