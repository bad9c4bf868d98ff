"""What every command knows: where the server is, who asks, how to print. And how a failure becomes an exit code.

The options may stand before or after the command's name, as people type them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.core import ParameterSource

from arcray.cli import daemon
from arcray.cli.exit_codes import EXIT_CODES
from arcray.cli.output import shown
from arcray.core.errors import ArcrayError, InvalidArgumentError, UnavailableError
from arcray.paths import absolute

if TYPE_CHECKING:
    from arcray.client import Client

__all__ = ["AMOUNT", "PATIENCE", "Context", "complain", "options", "output_option", "pass_context", "state_option"]

DEFAULT_URL: Final = "http://127.0.0.1:8080"


def _connect(url: str, api_key: str | None) -> Client:
    from arcray.client import Client  # httpx costs 0.2 s, which `arcray --help` need not pay

    return Client(url, api_key)


@dataclass(slots=True)
class Context:
    """Options of the command line.

    Args:
        url: the server; "" is the one that serves from the state directory.
        state_dir: None is the default, and if none serves from that, the default address is meant.
        output: table or json.
        connect: makes a client of a URL and a key.
    """

    url: str = ""
    api_key: str = ""
    output: str = "table"
    state_dir: Path | None = None
    connect: Callable[[str, str | None], Client] = _connect

    @property
    def directory(self) -> Path:
        """The state directory, with the default of the settings filled in."""
        try:
            return absolute(self.state_dir or Path("~/.arcray"))
        except ValueError as error:
            raise InvalidArgumentError(str(error), field="state_dir") from error

    def client(self) -> Client:
        """Returns a client of the server that is meant.

        Raises:
            UnavailableError: none serves from the directory that was named. Another may, and is not asked in its place.
        """
        return self.connect(self.url or self._served(), self.api_key or None)

    def _served(self) -> str:
        running = daemon.find(self.directory)
        if running and running.url:
            return running.url
        if running:
            raise UnavailableError(f"arcray is starting from {self.directory} as pid {running.pid}")
        if self.state_dir:
            raise UnavailableError(f"no arcray runs from {self.directory}; name the one that you mean with --url")
        return DEFAULT_URL


def complain(error: ArcrayError) -> int:
    """Prints ``arcray: field: message`` in one line on stderr; returns the exit code."""
    click.echo(f"arcray: {shown(' '.join(str(error).split()))}", err=True)
    return EXIT_CODES[error.code]


pass_context = click.make_pass_decorator(Context, ensure=True)

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Finite(click.FloatRange):
    """A number that is one: float() reads nan and inf as well, which no quantity is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


AMOUNT: Final = Finite(min=0)

PATIENCE: Final = Finite(min=0, max=86_400)
"""Seconds that a command waits here: a day at the most, which every clock can count."""


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    # The option of the group and that of its command write to the same place; the one that was given counts. What comes
    # from the environment was taken by the group, and must not replace what was typed there.
    inherited = context.parent is not None and (
        context.get_parameter_source(str(parameter.name)) is ParameterSource.ENVIRONMENT
    )
    if value is not None and not inherited:
        setattr(context.ensure_object(Context), str(parameter.name), value)


def options(command: _Command) -> _Command:
    """Adds the options that every command takes."""
    for option in (
        click.option(
            "--api-key",
            envvar="ARCRAY_API_KEY",
            callback=_remember,
            expose_value=False,
            help="Your key, if one is asked.",
        ),
        click.option(
            "--url", envvar="ARCRAY_URL", callback=_remember, expose_value=False, help=f"The server ({DEFAULT_URL})."
        ),
    ):
        command = option(command)
    return output_option(state_option(command))


def output_option(command: _Command) -> _Command:
    """Adds the option that says how to print."""
    return click.option(
        "--output", type=click.Choice(["table", "json"]), callback=_remember, expose_value=False, help="How to print."
    )(command)


def state_option(command: _Command) -> _Command:
    """Adds the option that names the state directory."""
    return click.option(
        "--state-dir",
        envvar="ARCRAY_STATE_DIR",
        type=click.Path(path_type=Path, file_okay=False),
        callback=_remember,
        expose_value=False,
        help="Database, logs and pid file (~/.arcray).",
    )(command)
