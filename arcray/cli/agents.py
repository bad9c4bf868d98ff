"""The command that has this machine work for a pool of another protocol."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from arcray.cli.context import Context, pass_context, place_options
from arcray.core.errors import InvalidArgumentError

if TYPE_CHECKING:
    from arcray.agents.hivemind_caller import Credentials

__all__ = ["COMMANDS"]

_OPTIONS: Final = {
    "hivemind": frozenset({"pool", "listen", "user", "node_id", "advertise", "allow_from"}),
    "claw": frozenset({"gateway", "encoding", "name", "max_workloads", "api_key"}),
    "pool": frozenset({"gateway", "name", "max_workloads", "api_key"}),
}
_NEEDED: Final = {"hivemind": ("pool", "listen"), "claw": ("gateway",), "pool": ("gateway",)}
_PASSWORD: Final = "ARCRAY_AGENT_PASSWORD"  # noqa: S105 - the name of a variable


def _networks(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[Any, ...]:
    from ipaddress import ip_network

    try:
        return tuple(map(ip_network, values))
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


@click.command()
@click.option("--protocol", type=click.Choice(list(_OPTIONS)), required=True, help="What the pool speaks.")
@click.option("--pool", default="", metavar="HOST:PORT", help="hivemind: the pool.")
@click.option("--listen", default="", metavar="HOST:PORT", help="hivemind: where the pool hands tasks to this machine.")
@click.option("--user", default="", help=f"hivemind: who is paid for what runs here; the password is in {_PASSWORD}.")
@click.option("--node-id", default="", help="hivemind: what this machine is called (its user, or its host name).")
@click.option(
    "--advertise", default="", metavar="HOST", help="hivemind: the host that the pool dials, if it is not --listen's."
)
@click.option(
    "--allow-from",
    metavar="CIDR",
    callback=_networks,
    multiple=True,
    help="hivemind: who may hand tasks to it (the addresses of the pool).",
)
@click.option("--gateway", default="", metavar="URL", help="claw, pool: the gateway, ws://HOST:PORT/claw or /ws.")
@click.option(
    "--encoding",
    type=click.Choice(["json", "bincode"]),
    default="json",
    show_default=True,
    help="claw: how this machine writes its frames; the gateway's are read in either.",
)
@click.option("--name", default="", help="claw, pool: what this machine is called (its host name).")
@click.option(
    "--max-workloads",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="claw, pool: how many workloads may run here at a time.",
)
@click.option(
    "--api-key", envvar="ARCRAY_API_KEY", default="", help="claw, pool: the key of this node, if one is asked."
)
@place_options
@pass_context
def agent(context: Context, /, protocol: str, **given: Any) -> None:
    """Have this machine work for a pool of another protocol until Ctrl-C.

    hivemind: it runs the programs that the pool hands to it in a sandbox, tells what they write, and returns their
    results. A user whom the pool does not know is registered.

    claw: it runs the containers that the gateway deploys, tells how far they are and what they write, and registers
    again when the gateway was away. Containers outlive an agent that is killed, and the next one goes on with them.

    pool: it joins a Resource Pool as a device, runs the programs and containers of the tasks that it is given, and
    returns what they write. The pool gives up what runs here when the connection ends, and so does this machine.
    """
    _check_options(click.get_current_context(), protocol, given)
    import asyncio  # with gRPC and pydantic half a second, which no other command need pay

    from arcray import logs

    settings = context.settings()
    logs.configure(settings.log_level, settings.log_format)
    joining = {option: given[option] for option in _OPTIONS[protocol]}
    if protocol == "claw":
        from arcray.agents import claw

        asyncio.run(claw.run(settings, claw.Joining(**joining)))
    elif protocol == "pool":
        from arcray.agents import device

        asyncio.run(device.run(settings, device.Joining(**joining)))
    else:
        from arcray.agents import hivemind

        credentials = _credentials(joining.pop("user"))
        asyncio.run(hivemind.run(settings, hivemind.Joining(credentials=credentials, **joining)))


def _check_options(context: click.Context, protocol: str, given: Mapping[str, Any]) -> None:
    """Refuses what is missing for a protocol, and what is typed for another one."""
    for option in _NEEDED[protocol]:
        if not given[option]:
            raise InvalidArgumentError(f"is needed for --protocol {protocol}", field=option)
    others = given.keys() - _OPTIONS[protocol]
    for option in sorted(others):
        if context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            raise InvalidArgumentError(f"is no option of --protocol {protocol}", field=option)


def _credentials(user: str) -> Credentials | None:
    from arcray.agents.hivemind_caller import Credentials

    if not user:
        return None
    password = os.environ.get(_PASSWORD, "")
    if not password:
        raise InvalidArgumentError(f"wants its password in the environment, as {_PASSWORD}", field="user")
    return Credentials(user, password)


COMMANDS: Final = (agent,)
