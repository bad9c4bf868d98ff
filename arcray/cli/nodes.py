"""Commands about nodes: list, states, show, cordon, uncordon, drain, label."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from arcray.cli.context import Context, options, pass_context
from arcray.cli.kinds import AMOUNT
from arcray.cli.output import emit, emit_one
from arcray.core.errors import DeadlineExceededError, InvalidArgumentError

__all__ = ["nodes"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_POLL_S: Final = 1.0


def _gpus(command: _Command) -> _Command:
    return click.option(
        "--gpu", "gpus", type=click.IntRange(0, 63), multiple=True, help="This GPU only; may be repeated."
    )(command)


@click.group(invoke_without_command=True)
@options
@pass_context
@click.pass_context
def nodes(click_context: click.Context, context: Context, /) -> None:
    """The machines of the pool; alone, lists them."""
    if click_context.invoked_subcommand is not None:
        return
    with context.client() as client:
        found = client.nodes()
    emit(
        [
            {
                "id": node.id,
                "name": node.name,
                "status": node.status,
                "driver": node.driver,
                "gpus": node.gpu_count,
                "load": f"{node.gpu_utilization:.0%}",
                "models": node.models_loaded,
            }
            for node in found
        ],
        ["id", "name", "status", "driver", "gpus", "load", "models"],
        output=context.output,
        bodies=[node.raw for node in found],
    )


@nodes.command()
@options
@pass_context
def states(context: Context, /) -> None:
    """List cordons, drains and labels of all machines."""
    with context.client() as client:
        found = client.operations.nodes()
    columns = ["id", "name", "health", "cordoned", "cordoned gpus", "draining", "drained", "workloads", "labels"]
    emit([_row(said) for said in found], columns, output=context.output, bodies=found)


@nodes.command()
@click.argument("node_id")
@options
@pass_context
def show(context: Context, /, node_id: str) -> None:
    """Show cordons, drain and labels of a node."""
    with context.client() as client:
        _print(context, client.operations.node(node_id))


@nodes.command()
@click.argument("node_id")
@_gpus
@options
@pass_context
def cordon(context: Context, /, node_id: str, gpus: tuple[int, ...]) -> None:
    """Take no new work on a node; what runs there goes on."""
    with context.client() as client:
        _print(context, client.operations.cordon(node_id, gpus=gpus))


@nodes.command()
@click.argument("node_id")
@_gpus
@options
@pass_context
def uncordon(context: Context, /, node_id: str, gpus: tuple[int, ...]) -> None:
    """Take new work on a node again, and call a drain off."""
    with context.client() as client:
        _print(context, client.operations.uncordon(node_id, gpus=gpus))


@nodes.command()
@click.argument("node_id")
@_gpus
@click.option("--deadline", "deadline_s", type=AMOUNT, help="Seconds after which what is left is stopped.")
@click.option("--grace", "grace_s", type=AMOUNT, default=30.0, show_default=True, help="Seconds to end politely.")
@click.option("--wait", is_flag=True, help="Return once all work has gone.")
@click.option("--timeout", "timeout_s", type=AMOUNT, help="Longest wait.")
@options
@pass_context
def drain(context: Context, /, node_id: str, gpus: tuple[int, ...], **how: Any) -> None:
    """Cordon a node and move its work away.

    Work that may restart starts elsewhere, models are loaded elsewhere first, other work is waited for: until its end,
    or until --deadline.
    """
    with context.client() as client:
        said = client.operations.drain(node_id, gpus=gpus, deadline_s=how["deadline_s"], grace_s=how["grace_s"])
        waited_s, timeout_s = 0.0, how["timeout_s"]
        while how["wait"] and not said["drained"]:
            if timeout_s is not None and waited_s >= timeout_s:
                raise DeadlineExceededError(f"node {node_id} still has work after {timeout_s:g} s; the drain goes on")
            time.sleep(_POLL_S)
            waited_s += _POLL_S
            said = client.operations.node(node_id)
    _print(context, said)


@nodes.command()
@click.argument("node_id")
@click.argument("labels", nargs=-1, required=True)
@options
@pass_context
def label(context: Context, /, node_id: str, labels: tuple[str, ...]) -> None:
    """Set LABELS (key=value) on a node, or take them away (key-)."""
    with context.client() as client:
        _print(context, client.operations.label(node_id, dict(map(_label, labels))))


def _label(text: str) -> tuple[str, str | None]:
    key, sign, value = text.partition("=")
    if sign:
        return key, value
    if not text.endswith("-"):
        raise InvalidArgumentError(f"{text!r} is neither key=value nor key-", field="labels")
    return text[:-1], None


def _print(context: Context, said: Mapping[str, Any]) -> None:
    emit_one(_row(said), output=context.output, body=said)


def _row(said: Mapping[str, Any]) -> dict[str, Any]:
    drain = said.get("drain")
    return {
        "id": said["id"],
        "name": said["name"],
        "health": said["health"],
        "cordoned": said["cordoned"],
        "cordoned gpus": said["cordonedGpus"],
        "draining": drain is not None and not said["drained"],
        "drained": said["drained"],
        "deadline": drain["deadline"] if drain else None,
        "workloads": said["workloads"],
        "latency ms": said.get("latencyMs"),
        "labels": [f"{key}={value}" for key, value in said["labels"].items()],
    }
