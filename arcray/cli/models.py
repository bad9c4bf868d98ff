"""Commands about models: list, register, remove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from arcray.cli.context import Context, complain, options, pass_context
from arcray.cli.files import content_of
from arcray.cli.kinds import AMOUNT, COUNT, MEGABYTES
from arcray.cli.output import emit, emit_one
from arcray.cli.work import demand_of
from arcray.core.errors import ConflictError

if TYPE_CHECKING:
    from arcray.client import ModelInfo

__all__ = ["models"]


@click.group(invoke_without_command=True)
@options
@pass_context
@click.pass_context
def models(click_context: click.Context, context: Context, /) -> None:
    """Models that the pool answers for; alone, lists them."""
    if click_context.invoked_subcommand is None:
        _list(context)


@models.command("list")
@options
@pass_context
def list_models(context: Context, /) -> None:
    """List the registered models."""
    _list(context)


def _list(context: Context) -> None:
    with context.client() as client:
        found = client.models()
    emit(
        [_row(model) for model in found],
        ["name", "format", "ready_on", "message"],
        output=context.output,
        bodies=[model.raw for model in found],
    )


@models.command()
@click.argument("name")
@click.argument("source")
@click.option(
    "--format", "format_", type=click.Choice(["python", "onnx", "openai"]), required=True, help="How it is run."
)
@click.option("--from-workload", default="", help="SOURCE is a result file of this program.")
@click.option("--replicas", type=COUNT, default=1, show_default=True, help="Copies to load.")
@click.option("--max-concurrency", type=COUNT, help="Requests in flight that each copy takes.")
@click.option("--target", default="", help="The name that the endpoint knows it by (openai).")
@click.option("--cpu", type=AMOUNT, default=0.0, help="Cores of each copy.")
@click.option("--memory-mb", type=MEGABYTES, default=0, help="Memory of each copy.")
@click.option("--gpus", type=COUNT, default=0, help="GPUs of each copy.")
@click.option("--gpu-memory-mb", type=MEGABYTES, help="Memory on each GPU.")
@click.option("--wait", is_flag=True, help="Return once a node answers for it.")
@options
@pass_context
def register(context: Context, /, name: str, source: str, format_: str, from_workload: str, **rest: Any) -> None:
    """Register and load a model.

    SOURCE is module:name (python), a file (onnx) or a base URL (openai).
    """
    local = format_ == "onnx" and not from_workload
    with context.client() as client:
        model = client.register_model(
            name,
            format_,
            source="" if local or from_workload else source,
            content=content_of(Path(source), "source") if local else None,
            from_workload=(from_workload, source) if from_workload else None,
            target=rest["target"],
            replicas=rest["replicas"],
            max_concurrency=rest["max_concurrency"],
            demand=demand_of(rest["cpu"], rest["memory_mb"], rest["gpus"], rest["gpu_memory_mb"]),
        )
        if rest["wait"]:
            try:
                model = client.wait_model(name)
            except ConflictError as error:  # nothing is in its way: it is the model that failed
                complain(error)
                raise SystemExit(1) from None
    emit_one(_row(model), output=context.output, body=model.raw)


@models.command()
@click.argument("name")
@options
@pass_context
def remove(context: Context, /, name: str) -> None:
    """Forget a model and stop its copies."""
    with context.client() as client:
        client.remove_model(name)
    emit_one({"name": name, "removed": True}, output=context.output)


def _row(model: ModelInfo) -> dict[str, Any]:
    message = "; ".join(dict.fromkeys(model.messages))
    return {"name": model.name, "format": model.format, "ready_on": model.ready_on, "message": message}
