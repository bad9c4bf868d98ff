"""Commands about reservations: reserve, reservations, release."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from arcray.cli.context import Context, options, pass_context
from arcray.cli.kinds import AMOUNT, COUNT, MEGABYTES, POSITIVE
from arcray.cli.output import emit, emit_one
from arcray.cli.work import demand_of, pairs_of

if TYPE_CHECKING:
    from arcray.client import ReservationInfo

__all__ = ["COMMANDS"]


@click.command()
@click.option("--cpu", type=AMOUNT, default=0.0, help="Cores.")
@click.option("--memory-mb", type=MEGABYTES, default=0, help="Memory.")
@click.option("--gpus", type=COUNT, default=0, help="GPUs.")
@click.option("--gpu-memory-mb", type=MEGABYTES, help="Memory on each GPU; without it GPUs are its own.")
@click.option("--parts", type=COUNT, default=1, show_default=True, help="Nodes that it is divided over, evenly.")
@click.option("--kind", type=click.Choice(["program", "container"]), default=None, help="What its nodes must run.")
@click.option("--select", "selector", multiple=True, metavar="NAME=VALUE", help="Label of its nodes; may be repeated.")
@click.option("--node", "node_id", default="", help="The only node allowed.")
@click.option("--ttl", "ttl_s", type=AMOUNT, default=300.0, show_default=True, help="Seconds until it expires.")
@options
@pass_context
def reserve(context: Context, /, **wanted: Any) -> None:
    """Hold a place without a workload, for work that names it later."""
    demand = demand_of(wanted["cpu"], wanted["memory_mb"], wanted["gpus"], wanted["gpu_memory_mb"])
    with context.client() as client:
        reservation = client.reserve(
            demand,
            parts=wanted["parts"],
            kind=wanted["kind"] or "",
            selector=pairs_of(wanted["selector"], "selector"),
            node_id=wanted["node_id"],
            ttl_s=wanted["ttl_s"],
        )
    emit_one(_row(reservation), output=context.output, body=reservation.raw)


@click.command()
@click.option("--limit", type=POSITIVE, default=20, show_default=True, help="How many, newest first.")
@options
@pass_context
def reservations(context: Context, /, limit: int) -> None:
    """List reservations, newest first."""
    with context.client() as client:
        found = client.reservations(limit=limit)
    emit(
        [_row(reservation) for reservation in found],
        ["id", "state", "nodes", "expires", "message"],
        output=context.output,
        bodies=[reservation.raw for reservation in found],
    )


@click.command()
@click.argument("reservation_id")
@options
@pass_context
def release(context: Context, /, reservation_id: str) -> None:
    """Give back what is left of a reservation."""
    with context.client() as client:
        reservation = client.release(reservation_id)
    emit_one(_row(reservation), output=context.output, body=reservation.raw)


COMMANDS: Final = (reserve, reservations, release)


def _row(reservation: ReservationInfo) -> dict[str, Any]:
    return {
        "id": reservation.id,
        "state": reservation.state.value,
        "nodes": ",".join(part.node_id for part in reservation.slices),
        "expires": reservation.expires_at,
        "message": reservation.message,
    }
