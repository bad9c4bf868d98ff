"""The command line's entry point: the commands, and errors as one line with an exit code."""

from __future__ import annotations

from typing import Any, NoReturn

import click

from arcray.cli import accounts, agents, audit, cluster, models, nodes, operations, reservations, work
from arcray.cli.context import complain, options
from arcray.cli.kinds import spelled
from arcray.core.errors import ArcrayError

__all__ = ["arcray", "main"]


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ArcrayError as error:
            ctx.exit(complain(error))


def _version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"arcray {version('arcray')}")
        context.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
@options
def arcray() -> None:
    """Pools GPU machines of every kind and runs every kind of work on them.

    Which arcray is meant: --url, else --state-dir or --config, else ARCRAY_URL, else ARCRAY_STATE_DIR or
    ARCRAY_CONFIG, else that of ~/.arcray, else http://127.0.0.1:8080.

    Exit codes: 0 done, 1 the work or the server failed, 2 wrong use, 3 no answer, 4 not found, 5 not allowed,
    6 not in this state, 7 no room, 8 no credits.
    """


for _command in (
    *cluster.COMMANDS,
    *agents.COMMANDS,
    nodes.nodes,
    *work.COMMANDS,
    *reservations.COMMANDS,
    models.models,
    accounts.accounts,
    accounts.keys,
    *operations.COMMANDS,
    audit.audit,
):
    arcray.add_command(spelled(_command))


def main() -> NoReturn:
    """Runs the command line."""
    arcray(prog_name="arcray")
    raise SystemExit(0)  # click has exited; this tells the type checker so


if __name__ == "__main__":
    main()
