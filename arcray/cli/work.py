"""Commands about work: submit, workloads, logs, results, stop, explain."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from arcray.cli.context import Context, options, pass_context
from arcray.cli.files import content_of, text_of
from arcray.cli.kinds import AMOUNT, COUNT, MEGABYTES, POSITIVE
from arcray.cli.output import emit, emit_one, shown
from arcray.cli.result_files import fetched
from arcray.core.errors import InvalidArgumentError

if TYPE_CHECKING:
    from arcray.client import Client, WorkloadInfo, WorkOptions
    from arcray.core.gang import Gang
    from arcray.core.workload import RestartPolicy, VolumeMount

__all__ = ["COMMANDS", "demand_of", "pairs_of"]

_Command = TypeVar("_Command", bound=Callable[..., Any])
_PAGE: Final = 500
_LOOK_S: Final = 0.5
_QUIET_LOOKS: Final = 4  # most work has its place at once
_GANG_DIGITS: Final = 9
_SHOWN: Final = 80  # letters of what was typed wrongly


def _work_options(command: _Command) -> _Command:
    for option in (
        click.option("--wait", is_flag=True, help="Print what it prints and return when it ends, with its success."),
        click.option("--max-duration", "max_duration_s", type=AMOUNT, help="Seconds after which it is stopped."),
        click.option(
            "--restart",
            type=click.Choice(["never", "on_loss", "on_failure", "always"]),
            default="never",
            help="When it starts again.",
        ),
        click.option("--reservation", "reservation_id", default="", help="Take the place out of this reservation."),
        click.option(
            "--all", "all_members", is_flag=True, help="Submit all members of the gang; ARCRAY_GANG_RANK differs."
        ),
        click.option(
            "--gang",
            metavar="ID:SIZE[:LAYOUT]",
            default="",
            help="Start together with the other members of this gang or not at all; LAYOUT is any, pack or spread.",
        ),
        click.option(
            "--preemptible", is_flag=True, help="May be ended, and started again later, for higher priorities."
        ),
        click.option(
            "--priority",
            type=click.Choice(["critical", "normal", "background"]),
            default="normal",
            help="Who goes first.",
        ),
        click.option("--max-restarts", type=COUNT, help="Restarts in a row; without it 3.", show_default=False),
        click.option(
            "--selector", default="", metavar="TERMS", help="Labels of its node: zone=eu,disk!=slow,gpu,rack in (a,b)."
        ),
        click.option("--node", "node_id", default="", help="The only node that may run it."),
        click.option("--gpu-memory-mb", type=MEGABYTES, help="Memory on each GPU; without it GPUs are its own."),
        click.option("--gpus", type=COUNT, default=0, help="GPUs."),
        click.option("--memory-mb", type=MEGABYTES, default=0, help="Memory."),
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
@click.option("--stdin", type=click.File("rb"), help="File that it reads as its standard input.")
@_work_options
@pass_context
def program(context: Context, /, file: Path, args: tuple[str, ...], entry_point: str, stdin: Any, **work: Any) -> None:
    """Run a Python FILE (or a .zip of files) with ARGS."""
    text = text_of(stdin, "stdin") if stdin else ""
    source = content_of(file, "file") if file.suffix == ".zip" else text_of(file, "file")
    with context.client() as client:
        submitted = [
            client.submit_program(
                source, args=args, stdin=text, env=env, entry_point=entry_point, options=_options(work)
            )
            for env in _environments(work)
        ]
        _report(context, client, submitted, wait=work["wait"])


@submit.command()
@click.argument("image")
@click.argument("args", nargs=-1)
@click.option("--entrypoint", default="", help="Replaces the image's entry point.")
@click.option("--publish", "-p", type=COUNT, multiple=True, help="Container port to publish; may be repeated.")
@click.option("--volume", "-v", multiple=True, metavar="SOURCE:TARGET[:ro]", help="Host path seen inside.")
@_work_options
@pass_context
def container(context: Context, /, image: str, args: tuple[str, ...], entrypoint: str, **work: Any) -> None:
    """Run an IMAGE with ARGS."""
    with context.client() as client:
        submitted = [
            client.submit_container(
                image,
                command=[entrypoint] if entrypoint else [],
                args=args,
                env=env,
                ports=work["publish"],
                volumes=[_volume(text) for text in work["volume"]],
                options=_options(work),
            )
            for env in _environments(work)
        ]
        _report(context, client, submitted, wait=work["wait"])


@click.command()
@click.option("--limit", type=POSITIVE, default=20, show_default=True, help="How many, newest first.")
@click.option("--all", "every", is_flag=True, help="All of it, however much; as JSON one object a line.")
@options
@pass_context
def workloads(context: Context, /, limit: int, *, every: bool) -> None:
    """List work, newest first."""
    with context.client() as client:
        if not every:
            _list(context, client.workloads(limit=limit))
            return
        work = client.each_workload(page=_PAGE)
        while page := list(islice(work, _PAGE)):  # printed as it comes, so that none but one page is held
            if context.output == "json":
                for one in page:
                    click.echo(json.dumps(dict(one.raw)))
            else:
                _list(context, page)


def _list(context: Context, found: Sequence[WorkloadInfo]) -> None:
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
        complete = [directory is None or fetched(client, workload_id, file.path, directory) for file in files]
    emit(
        [{"path": file.path, "sizeBytes": file.size_bytes} for file in files],
        ["path", "sizeBytes"],
        output=context.output,
    )
    if not all(complete):
        raise SystemExit(1)


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
    click.echo(shown(said["sentence"]))
    if said.get("firstAhead"):
        click.echo(shown(f"ahead: {', '.join(said['firstAhead'])}"))


COMMANDS: Final = (submit, workloads, logs, results, stop, explain)


def _report(context: Context, client: Client, submitted: list[WorkloadInfo], *, wait: bool) -> None:
    if wait:
        for index, workload in enumerate(submitted):
            _await_place(client, workload.id)
            # In JSON the answer is one document, so the log of it is not mixed in.
            if context.output == "table":
                _follow(client, workload.id)
            submitted[index] = client.wait(workload.id)
    if len(submitted) == 1:
        emit_one(_row(submitted[0]), output=context.output, body=submitted[0].raw)
    else:
        _emit_all(context, submitted)
    if wait and not all(workload.succeeded for workload in submitted):
        raise SystemExit(1)


def _await_place(client: Client, workload_id: str) -> None:
    """Returns once it waits no longer for a place. Says on stderr what it waits for, as soon as that takes a while."""
    from arcray.core.workload import Phase

    said = ""
    for looks in count():
        if client.get(workload_id).phase is not Phase.PENDING:
            return
        if looks >= _QUIET_LOOKS and (sentence := client.explain(workload_id)["sentence"]) != said:
            said = sentence
            click.echo(f"arcray: {workload_id} waits: {shown(sentence)}", err=True)
        time.sleep(_LOOK_S)


def _emit_all(context: Context, found: list[WorkloadInfo]) -> None:
    emit(
        [_row(workload) for workload in found],
        ["id", "kind", "name", "phase", "node", "exit", "ms", "message"],
        output=context.output,
        bodies=[workload.raw for workload in found],
    )


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
    from arcray.core.workload import Priority

    return WorkOptions(
        name=work["name"],
        demand=demand_of(work["cpu"], work["memory_mb"], work["gpus"], work["gpu_memory_mb"]),
        restart=_restart(work["restart"], work["max_restarts"]),
        node_id=work["node_id"],
        selector=work["selector"],
        max_duration_s=work["max_duration_s"],
        priority=Priority[work["priority"].upper()],
        preemptible=work["preemptible"],
        gang=_gang(work["gang"]),
        reservation_id=work["reservation_id"],
    )


def _gang(text: str) -> Gang | None:
    from arcray.core.gang import Gang, Layout

    if not text:
        return None
    identity, _, rest = text.partition(":")
    size, _, layout = rest.partition(":")
    if not identity or not size.isdecimal() or len(size) > _GANG_DIGITS or layout not in {"", *Layout}:
        raise InvalidArgumentError(f"{text[:_SHOWN]!r} is not ID:SIZE[:LAYOUT]", field="gang")
    return Gang(id=identity, size=int(size), layout=Layout(layout or "any"))


def _environments(work: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Yields the environment of each workload that one command submits, one by one: the first may be refused."""
    env = pairs_of(work["env"])
    if not work["all_members"]:
        yield env
        return
    gang = _gang(work["gang"])
    if gang is None:
        raise InvalidArgumentError("there are no members without a gang", field="all")
    for rank in range(gang.size):
        yield env | {"ARCRAY_GANG_RANK": str(rank), "ARCRAY_GANG_SIZE": str(gang.size)}


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


def pairs_of(texts: tuple[str, ...], field: str = "env") -> dict[str, str]:
    """Returns what NAME=VALUE options say."""
    pairs = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise InvalidArgumentError(f"{text!r} is not NAME=VALUE", field=field)
        pairs[name] = value
    return pairs


def _volume(text: str) -> VolumeMount:
    from arcray.core.workload import VolumeMount

    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not source or not target or mode not in {"", "ro", "rw"}:
        raise InvalidArgumentError(f"{text!r} is not SOURCE:TARGET[:ro]", field="volumes")
    return VolumeMount(source=source, target=target, read_only=mode == "ro")
