"""What every command knows: where the server is, who asks, how to print. And how a failure becomes an exit code.

The options may stand before or after the command's name, as people type them. What was typed names the server before
what the environment says, and a URL before a place: a typed URL, a typed state directory or settings file,
``ARCRAY_URL``, ``ARCRAY_STATE_DIR`` or ``ARCRAY_CONFIG``, the defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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
    from arcray.config import Settings

__all__ = ["Context", "complain", "options", "output_option", "pass_context", "place_options"]

DEFAULT_URL: Final = "http://127.0.0.1:8080"


def _connect(url: str, api_key: str | None) -> Client:
    from arcray.client import Client  # httpx costs 0.2 s, which `arcray --help` need not pay

    return Client(url, api_key)


@dataclass(slots=True)
class Context:
    """Options of the command line.

    Args:
        url: the server; "" is the one that serves from the state directory.
        state_dir: None is that of the settings, and if none serves from that, their address is meant.
        config: the settings file; None is none.
        output: table or json.
        connect: makes a client of a URL and a key.
        typed: names of those that were typed, and not taken from the environment.
    """

    url: str = ""
    api_key: str = ""
    output: str = "table"
    state_dir: Path | None = None
    config: Path | None = None
    connect: Callable[[str, str | None], Client] = _connect
    typed: set[str] = field(default_factory=set)

    @property
    def directory(self) -> Path:
        """The state directory, with that of the settings filled in.

        Raises:
            InvalidArgumentError: it is none, or the settings are wrong.
        """
        if self.state_dir is None and self.config is not None:
            return self.settings().state_dir
        try:
            return absolute(self.state_dir or Path("~/.arcray"))
        except ValueError as error:
            raise InvalidArgumentError(str(error), field="state_dir") from error

    def settings(self) -> Settings:
        """Returns the settings: the file's, the environment's over them, the state directory over both.

        Raises:
            InvalidArgumentError: they are wrong.
        """
        from arcray.config import load  # pydantic costs 0.3 s

        return load(self.config, **({"state_dir": self.state_dir} if self.state_dir else {}))

    def client(self) -> Client:
        """Returns a client of the server that is meant.

        Raises:
            InvalidArgumentError: as ``directory`` says.
            UnavailableError: none serves from the directory that was named. Another may, and is not asked in its place.
        """
        place_only = "url" not in self.typed and not self.typed.isdisjoint({"state_dir", "config"})
        return self.connect(self._served() if place_only or not self.url else self.url, self.api_key or None)

    def _served(self) -> str:
        directory = self.directory
        running = daemon.find(directory)
        if running and running.url:
            return running.url
        if running:
            raise UnavailableError(f"arcray is starting from {directory} as pid {running.pid}")
        settings = None if self.state_dir or self.config is None else self.settings()
        if self.state_dir or (settings and "state_dir" in settings.model_fields_set):
            raise UnavailableError(f"no arcray runs from {directory}; name the one that you mean with --url")
        return f"http://{settings.gateway.authority}" if settings else DEFAULT_URL


def complain(error: ArcrayError) -> int:
    """Prints ``arcray: field: message`` in one line on stderr; returns the exit code."""
    click.echo(f"arcray: {shown(' '.join(str(error).split()))}", err=True)
    return EXIT_CODES[error.code]


pass_context = click.make_pass_decorator(Context, ensure=True)

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    # The option of the group and that of its command write to the same place; the one that was given counts. What comes
    # from the environment was taken by the group, and must not replace what was typed there.
    inherited = context.parent is not None and (
        context.get_parameter_source(str(parameter.name)) is ParameterSource.ENVIRONMENT
    )
    if value is None or inherited:
        return
    known = context.ensure_object(Context)
    setattr(known, str(parameter.name), value)
    if context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE:
        known.typed.add(str(parameter.name))


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
    return output_option(place_options(command))


def output_option(command: _Command) -> _Command:
    """Adds the option that says how to print."""
    return click.option(
        "--output", type=click.Choice(["table", "json"]), callback=_remember, expose_value=False, help="How to print."
    )(command)


def place_options(command: _Command) -> _Command:
    """Adds the options that name the arcray of this machine: its state directory, or its settings."""
    for option in (
        click.option(
            "--config",
            envvar="ARCRAY_CONFIG",
            type=click.Path(path_type=Path, dir_okay=False),
            callback=_remember,
            expose_value=False,
            help="Settings file (YAML).",
        ),
        click.option(
            "--state-dir",
            envvar="ARCRAY_STATE_DIR",
            type=click.Path(path_type=Path, file_okay=False),
            callback=_remember,
            expose_value=False,
            help="Database, logs and pid file (~/.arcray).",
        ),
    ):
        command = option(command)
    return command
