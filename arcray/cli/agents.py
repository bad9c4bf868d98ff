"""The command that has this machine work for a pool of another protocol."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import click

from arcray.cli.context import Context, pass_context, place_options
from arcray.core.errors import InvalidArgumentError

if TYPE_CHECKING:
    from arcray.agents.hivemind_caller import Credentials

__all__ = ["COMMANDS"]

_PASSWORD: Final = "ARCRAY_AGENT_PASSWORD"  # noqa: S105 - the name of a variable


def _networks(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[Any, ...]:
    from ipaddress import ip_network

    try:
        return tuple(map(ip_network, values))
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


@click.command()
@click.option("--protocol", type=click.Choice(["hivemind"]), required=True, help="What the pool speaks.")
@click.option("--pool", "pool_address", required=True, metavar="HOST:PORT", help="The pool.")
@click.option("--listen", required=True, metavar="HOST:PORT", help="Where the pool hands tasks to this machine.")
@click.option("--user", default="", help=f"Who is paid for what runs here; the password is in {_PASSWORD}.")
@click.option("--node-id", default="", help="What this machine is called there (its user, or its host name).")
@click.option("--advertise", default="", metavar="HOST", help="The host that the pool dials, if it is not --listen's.")
@click.option(
    "--allow-from",
    metavar="CIDR",
    callback=_networks,
    multiple=True,
    help="Who may hand tasks to it (the addresses of the pool).",
)
@place_options
@pass_context
def agent(
    context: Context,
    /,
    protocol: str,
    pool_address: str,
    user: str,
    **joining: Any,
) -> None:
    """Have this machine work for a pool of another protocol until Ctrl-C.

    It runs the programs that the pool hands to it in a sandbox, tells what they write, and returns their results. A
    user whom the pool does not know is registered.
    """
    _ = protocol
    import asyncio  # with gRPC and pydantic half a second, which no other command need pay

    from arcray import logs
    from arcray.agents.hivemind import Joining, run

    settings = context.settings()
    logs.configure(settings.log_level, settings.log_format)
    asyncio.run(run(settings, Joining(pool=pool_address, credentials=_credentials(user), **joining)))


def _credentials(user: str) -> Credentials | None:
    from arcray.agents.hivemind_caller import Credentials

    if not user:
        return None
    password = os.environ.get(_PASSWORD, "")
    if not password:
        raise InvalidArgumentError(f"wants its password in the environment, as {_PASSWORD}", field="user")
    return Credentials(user, password)


COMMANDS: Final = (agent,)
