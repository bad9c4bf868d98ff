"""Commands about work: submit, workloads, logs, results, stop, explain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeVar

import click

from arcray.cli.context import AMOUNT, Context, options, pass_context
from arcray.cli.output import emit, emit_one
from arcray.core.errors import InvalidArgumentError

if TYPE_CHECKING:
    from arcray.client import Client, WorkloadInfo, WorkOptions
    from arcray.core.workload import RestartPolicy, VolumeMount

__all__ = ["COMMANDS"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _work_options(command: _Command) -> _Command:
    for option in (
        click.option("--wait", is_flag=True, help="Print what it prints and return when it ends, with its success."),
        click.option("--max-duration", "max_duration_s", type=AMOUNT, help="Seconds after which it is stopped."),
        click.option(
            "--restart",
            type=click.Choice(["never", "on_failure", "always"]),
            default="never",
            help="When it starts again.",
        ),
        click.option(
            "--max-restarts", type=click.IntRange(0), help="Restarts in a row; without it 3.", show_default=False
        ),
        click.option(
            "--selector", default="", metavar="TERMS", help="Labels of its node: zone=eu,disk!=slow,gpu,rack in (a,b)."
        ),
        click.option("--node", "node_id", default="", help="The only node that may run it."),
        click.option("--gpu-memory-mb", type=int, help="Memory on each GPU; without it GPUs are its own."),
        click.option("--gpus", type=int, default=0, help="GPUs."),
        click.option("--memory-mb", type=int, default=0, help="Memory."),
        click.option("--cpu", type=AMOUNT, default=0.0, help="Cores."),
        click.option("--env", "env", multiple=True, metavar="NAME=VALUE", help="Environment; may be repeated."),
        click.option("--name", default="", help="Name for people."),
    ):
        command = option(command)
    return options(command)


@click.group()
def submit() -> None:
    """Run a program or a container on the pool."""


@submit.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("args", nargs=-1)
@click.option("--entry-point", default="", help="File of the archive to run.")
@click.option("--stdin", type=click.File("r", encoding="utf-8"), help="File that it reads as its standard input.")
@_work_options
@pass_context
def program(context: Context, /, file: Path, args: tuple[str, ...], entry_point: str, stdin: Any, **work: Any) -> None:
    """Run a Python FILE (or a .zip of files) with ARGS."""
    with context.client() as client:
        workload = client.submit_program(
            file,
            args=args,
            stdin=_read(stdin) if stdin else "",
            env=_pairs(work["env"]),
            entry_point=entry_point,
            options=_options(work),
        )
        _report(context, client, workload, wait=work["wait"])


@submit.command()
@click.argument("image")
@click.argument("args", nargs=-1)
@click.option("--entrypoint", default="", help="Replaces the image's entry point.")
@click.option("--publish", "-p", type=int, multiple=True, help="Container port to publish; may be repeated.")
@click.option("--volume", "-v", multiple=True, metavar="SOURCE:TARGET[:ro]", help="Host path seen inside.")
@_work_options
@pass_context
def container(context: Context, /, image: str, args: tuple[str, ...], entrypoint: str, **work: Any) -> None:
    """Run an IMAGE with ARGS."""
    with context.client() as client:
        workload = client.submit_container(
            image,
            command=[entrypoint] if entrypoint else [],
            args=args,
            env=_pairs(work["env"]),
            ports=work["publish"],
            volumes=[_volume(text) for text in work["volume"]],
            options=_options(work),
        )
        _report(context, client, workload, wait=work["wait"])


@click.command()
@click.option("--limit", default=20, show_default=True, help="How many, newest first.")
@options
@pass_context
def workloads(context: Context, /, limit: int) -> None:
    """List work, newest first."""
    with context.client() as client:
        found = client.workloads(limit=limit)
    emit(
        [_row(workload) for workload in found],
        ["id", "kind", "name", "phase", "node", "exit", "ms", "message"],
        output=context.output,
        bodies=[workload.raw for workload in found],
    )


@click.command()
@click.argument("workload_id")
@click.option("--follow", "-f", is_flag=True, help="Go on until it ends.")
@options
@pass_context
def logs(context: Context, /, workload_id: str, follow: bool) -> None:
    """Print what a workload printed."""
    with context.client() as client:
        if follow:
            _follow(client, workload_id)
        else:
            click.echo(client.logs(workload_id), nl=False)


@click.command()
@click.argument("workload_id")
@click.option("--to", "directory", type=click.Path(path_type=Path, file_okay=False), help="Write the files here.")
@options
@pass_context
def results(context: Context, /, workload_id: str, directory: Path | None) -> None:
    """List, or fetch, the files that a program left as its result."""
    with context.client() as client:
        files = client.results(workload_id)
        if directory is not None:
            for file in files:
                _write(directory, file.path, client.result(workload_id, file.path))
    emit(
        [{"path": file.path, "sizeBytes": file.size_bytes} for file in files],
        ["path", "sizeBytes"],
        output=context.output,
    )


@click.command()
@click.argument("workload_id")
@options
@pass_context
def stop(context: Context, /, workload_id: str) -> None:
    """End a workload."""
    with context.client() as client:
        workload = client.stop(workload_id)
    emit_one(_row(workload), output=context.output, body=workload.raw)


@click.command()
@click.argument("workload_id")
@options
@pass_context
def explain(context: Context, /, workload_id: str) -> None:
    """Tell what a workload waits for: what refused which nodes, who is ahead, what would fit, and when it may start."""
    with context.client() as client:
        said = client.explain(workload_id)
    if context.output == "json":
        emit_one(said, output="json")
        return
    click.echo(said["sentence"])
    if said.get("firstAhead"):
        click.echo(f"ahead: {', '.join(said['firstAhead'])}")


COMMANDS: Final = (submit, workloads, logs, results, stop, explain)


def _report(context: Context, client: Client, workload: WorkloadInfo, *, wait: bool) -> None:
    if wait:
        # In JSON the answer is one document, so the log of it is not mixed in.
        if context.output == "table":
            _follow(client, workload.id)
        workload = client.wait(workload.id)
    emit_one(_row(workload), output=context.output, body=workload.raw)
    if wait and not workload.succeeded:
        raise SystemExit(1)


def _follow(client: Client, workload_id: str) -> None:
    for text in client.follow_logs(workload_id):
        click.echo(text, nl=False)


def _row(workload: WorkloadInfo) -> dict[str, Any]:
    return {
        "id": workload.id,
        "kind": workload.kind,
        "name": workload.name,
        "phase": workload.phase.value,
        "node": workload.node_id,
        "exit": workload.exit_code,
        "ms": workload.duration_ms,
        "message": workload.message,
    }


def _options(work: dict[str, Any]) -> WorkOptions:
    from arcray.client import WorkOptions

    return WorkOptions(
        name=work["name"],
        demand=demand_of(work["cpu"], work["memory_mb"], work["gpus"], work["gpu_memory_mb"]),
        restart=_restart(work["restart"], work["max_restarts"]),
        node_id=work["node_id"],
        selector=work["selector"],
        max_duration_s=work["max_duration_s"],
    )


def _restart(rule: str, max_restarts: int | None) -> RestartPolicy | None:
    from arcray.core.workload import RestartPolicy, RestartRule

    if rule == "never":
        return None
    policy = RestartPolicy(rule=RestartRule(rule))
    return policy if max_restarts is None else replace(policy, max_restarts=max_restarts)


def demand_of(cpu: float, memory_mb: int, gpus: int, gpu_memory_mb: int | None) -> Any:
    """Returns the demand that the options name."""
    from arcray.core.resources import Demand

    return Demand(
        cpu_milli=round(cpu * 1000),
        memory_bytes=memory_mb * 2**20,
        gpus=gpus,
        gpu_memory_bytes=None if gpu_memory_mb is None else gpu_memory_mb * 2**20,
    )


def _read(file: TextIO) -> str:
    try:
        return file.read()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"{file.name} is not UTF-8 text", field="stdin") from error


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise InvalidArgumentError(f"{text!r} is not NAME=VALUE", field="env")
        pairs[name] = value
    return pairs


def _volume(text: str) -> VolumeMount:
    from arcray.core.workload import VolumeMount

    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not source or not target or mode not in {"", "ro", "rw"}:
        raise InvalidArgumentError(f"{text!r} is not SOURCE:TARGET[:ro]", field="volumes")
    return VolumeMount(source=source, target=target, read_only=mode == "ro")


def _write(directory: Path, relative: str, content: bytes) -> None:
    path = (directory / relative).resolve()
    # The name came over the network; it must not lead out of the directory.
    if not path.is_relative_to(directory.resolve()):
        raise InvalidArgumentError(f"{relative!r} leads out of {directory}", field="path")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
