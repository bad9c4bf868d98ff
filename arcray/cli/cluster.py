"""Commands about arcray itself: up, down, status."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import click

from arcray.cli import daemon
from arcray.cli.context import Context, options, output_option, pass_context, place_options
from arcray.cli.kinds import PATIENCE
from arcray.cli.output import emit_one, shown
from arcray.core.errors import ArcrayError, UnavailableError

if TYPE_CHECKING:
    from arcray.config import Settings

__all__ = ["COMMANDS", "Served", "detached", "serve"]


class Served(Protocol):
    """An arcray that runs in this process."""

    @property
    def url(self) -> str:
        """Where it is reached."""
        ...

    def down(self) -> int:
        """Ends it; returns how many containers run on."""
        ...


_NOTICE_S: Final = 1.0


@click.command()
@click.option("--address", help="Join a running Ray cluster (auto finds the local one) instead of starting one.")
@click.option("--detach", is_flag=True, help="Return once it serves; arcray down ends it.")
@click.option(
    "--timeout", "timeout_s", type=PATIENCE, default=180.0, show_default=True, help="Seconds that --detach waits."
)
@place_options
@output_option
@pass_context
def up(context: Context, /, address: str | None, detach: bool, timeout_s: float) -> None:
    """Start arcray here and serve until Ctrl-C."""
    settings = context.settings()
    _check(settings)
    if detach:
        running = detached(_again(context, address), settings.state_dir, timeout_s)
        log = daemon.log_path(settings.state_dir)
        if context.output == "json":
            emit_one({"url": running.url, "pid": running.pid, "log": str(log)}, output="json")
        else:
            click.echo(f"arcray serves at {running.url} as pid {running.pid}; log in {shown(str(log))}")
        return
    serve(settings.state_dir, lambda: _start(settings, address))


@click.command()
@click.option(
    "--timeout", "timeout_s", type=PATIENCE, default=30.0, show_default=True, help="Seconds before it is killed."
)
@place_options
@output_option
@pass_context
def down(context: Context, /, timeout_s: float) -> None:
    """End the arcray that was started from the state directory, gently, then surely.

    Programs and models end with it. Containers run on, and the next `arcray up` from the same directory goes on with
    them; stop those that should end first.
    """
    directory = context.directory
    running = daemon.find(directory)
    gently = running is None or daemon.end(running, timeout_s)
    orphans = daemon.end_orphans(directory)
    if context.output == "json":
        pid, left = (running.pid, daemon.left(directory)) if running else (None, None)
        emit_one({"pid": pid, "gently": gently, "containersLeft": left}, output="json")
        return
    if running is None:
        click.echo(
            f"no arcray runs from {shown(str(directory))}"
            + (f"; ended {orphans} processes of one killed" if orphans else "")
        )
        return
    click.echo(f"arcray has ended (pid {running.pid})" + ("" if gently else f", killed after {timeout_s:g} s"))
    _tell_left(daemon.left(directory))


@click.command()
@options
@pass_context
def status(context: Context, /) -> None:
    """Tell whether arcray runs and what it has."""
    running = daemon.find(context.directory)
    row: dict[str, Any] = {"pid": running.pid if running else None, "state_dir": str(context.directory), "url": None}
    try:
        client = context.client()
    except UnavailableError as error:
        raise _unready(context, row, error) from error
    with client:
        # Whoever answers at another address than ours has nothing to do with our directory.
        ours = running is not None and client.url == running.url
        row = {**(row if ours else dict.fromkeys(row)), "url": client.url}
        try:
            client.ready()
        except ArcrayError as error:
            raise _unready(context, row, error) from error
        stats = client.stats()
    emit_one({"ready": True, **row, **_flat(stats)}, output=context.output, body={"ready": True, **row, **stats})


COMMANDS: Final = (up, down, status)


def serve(directory: Path, start: Callable[[], Served]) -> None:
    """Starts arcray in this process, says where, and returns once it was asked to end and has ended.

    Raises:
        ConflictError: the state directory is served already.
    """
    with daemon.claim(directory) as claim:
        # While it starts, being asked to end is an exception like Ctrl-C, so that what has started is cleaned up.
        signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
        arcray = start()
        stop = threading.Event()
        try:
            # Set after the start: Ray installs a handler of its own, which would exit without our clean-up.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda _number, _frame: stop.set())
            claim.ready(arcray.url)
            click.echo(f"arcray serves at {arcray.url}; Ctrl-C ends it")
            # A signal that falls between Python's check and the wait itself would be noticed at the wait's end only.
            while not stop.wait(_NOTICE_S):
                pass
            click.echo("arcray is ending")
        finally:
            left = arcray.down()
            claim.leave(left)
            _tell_left(left)


def detached(command: Sequence[str], directory: Path, timeout_s: float) -> daemon.Running:
    """Starts arcray in a process of its own and returns once it serves; asked to end before, that one is ended too.

    Raises:
        ArcrayError: as ``daemon.spawn`` says.
    """
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    return daemon.spawn(command, directory, timeout_s)


def _tell_left(containers: int | None) -> None:
    """Says what runs on, which costs its owner money: nothing if that is none, more careful if nobody knows."""
    if containers is None:
        click.echo("containers, if there were any, run on; the next arcray up goes on with them")
    elif containers:
        noun = "container runs" if containers == 1 else "containers run"
        click.echo(f"{containers} {noun} on; the next arcray up from this directory goes on with what still runs then")


def _start(settings: Settings, address: str | None) -> Served:
    from arcray import logs
    from arcray.runtime.bootstrap import up as start  # Ray costs a second, which no other command need pay

    logs.configure(settings.log_level, settings.log_format)
    # Ray has its workers import from where its driver stands before they import from anywhere else. Whoever may write
    # where arcray was typed, as everybody may in /tmp, would put modules of theirs into the scheduler and the gateway.
    os.chdir("/")
    return start(settings, address=address)


def _check(settings: Settings) -> None:
    from arcray.runtime.start_check import check_start  # the database's library costs 0.2 s

    check_start(settings)


def _again(context: Context, address: str | None) -> list[str]:
    """Returns this command line without --detach."""
    # -P: without it Python imports from the directory in which it was typed first.
    command = [sys.executable, "-P", "-m", "arcray.cli.main", "up"]
    if context.config:
        command += ["--config", str(context.config)]
    if address:
        command += ["--address", address]
    if context.state_dir:
        command += ["--state-dir", str(context.state_dir)]
    return command


def _unready(context: Context, row: dict[str, Any], error: ArcrayError) -> UnavailableError:
    """Returns what to say of an arcray that is not there; in JSON it has been said."""
    if context.output == "json":
        emit_one({"ready": False, **row, "message": str(error)}, output="json")
    return UnavailableError(f"not ready: {error}")


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns nested counts as one level of dotted names."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}.{name}" if prefix else str(name))
    return flat
