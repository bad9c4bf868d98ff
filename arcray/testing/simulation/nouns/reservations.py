"""Reservations: granted as a whole, taken by work, given back, lost with a node, over in time; never given twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from random import Random
from typing import Any
from uuid import UUID

from arcray.core import events as ev
from arcray.core.commands import Command, ReleaseReservation, Reservable, Reserve
from arcray.core.gang import Layout
from arcray.core.ids import AccountId, NodeId, ReservationId
from arcray.core.reservation import Reservation
from arcray.core.resources import Allocation
from arcray.core.workload import WorkloadSpec
from arcray.testing.simulation.nouns.cast import ACCOUNTS, Cast, draw_demand
from arcray.testing.simulation.nouns.nodes import NodeFacts
from arcray.testing.simulation.promise import must

__all__ = ["ReservationFacts", "draw_reservation"]

_NOTHING = Allocation()


def draw_reservation(dice: Random, cast: Cast) -> Command:
    """Returns a reservation, one that is asked for again rightly or wrongly, or that one is given back."""
    if cast.reservations and dice.random() < 0.3:
        known = dice.choice(cast.reservations)
        return ReleaseReservation(
            reservation_id=known.reservation_id, account=dice.choice((None, known.account, *ACCOUNTS))
        )
    if cast.reservations and dice.random() < 0.2:
        known = dice.choice(cast.reservations)
        return dice.choice(
            (known, known, replace(known, request_digest="another"), replace(known, account=ACCOUNTS[0]))
        )
    number = len(cast.reservations) + 1
    wanted = Reserve(
        reservation_id=ReservationId(str(UUID(int=0xF000_0000 + number))),
        account=dice.choice(ACCOUNTS),
        slices=tuple(_slice(dice, cast) for _ in range(dice.choice((1, 1, 2, 3)))),
        ttl_s=dice.choice((2.0, 20.0, 60.0)),
        layout=dice.choice(tuple(Layout)),
        request_digest=f"digest-{number}",
    )
    cast.reservations.append(wanted)
    return wanted


def _slice(dice: Random, cast: Cast) -> Reservable:
    demand = replace(draw_demand(dice), cpu_milli=dice.choice((500, 1000, 2000)))
    return Reservable(
        demand=demand,
        selector=(("zone", dice.choice("ab")),) if dice.random() < 0.15 else (),
        node_id=dice.choice(cast.nodes).id if dice.random() < 0.1 else None,
    )


class ReservationFacts:
    """What is on disk of reservations.

    Attributes:
        known: the fields of ``Reservation`` by their names, of every reservation.
    """

    def __init__(self, nodes: NodeFacts) -> None:
        self.known: dict[ReservationId, dict[str, Any]] = {}
        self._nodes = nodes
        self._taking: dict[str, tuple[NodeId, Allocation, Allocation]] = {}

    @property
    def takes(self) -> Mapping[type, Callable[[Any], None]]:
        """Returns what is done about which fact."""
        return {
            ev.ReservationGranted: self._granted,
            ev.ReservationTaken: self._taken,
            ev.ReservationEnded: self._ended,
        }

    def active(self) -> list[dict[str, Any]]:
        """Returns those that have not ended."""
        return [facts for facts in self.known.values() if facts["state"] == "active"]

    def held_on(self, node_id: NodeId) -> list[Allocation]:
        """Returns what is left of reservations on a node."""
        return [part.allocation for facts in self.active() for part in facts["slices"] if part.node_id == node_id]

    def held_by(self, account: AccountId) -> list[Allocation]:
        """Returns what is left of an account's reservations."""
        return [part.allocation for facts in self.active() if facts["account"] == account for part in facts["slices"]]

    def check(self) -> None:
        """Checks what must hold between transactions: what was taken runs, and no node of a reservation is away."""
        for workload_id in self._taking:
            must(False, f"{workload_id} took its place and did not get it")  # noqa: FBT003 - must never happen
        for facts in self.active():
            for part in facts["granted"]:
                health = self._nodes.known[part.node_id]["health"]
                must(
                    health == "healthy", f"reservation {facts['id']} holds a part of {part.node_id}, which is {health}"
                )

    def check_takes(self, spec: WorkloadSpec, event: ev.WorkloadPlaced) -> None:
        """Checks that the first attempt of work that names a reservation gets a part of it."""
        if event.attempt > 1:
            return
        taking = self._taking.pop(spec.id, None)
        must(taking is not None, f"{spec.id} names {spec.reservation_id}, and is placed elsewhere")
        node_id, before, left = taking or ("", _NOTHING, _NOTHING)
        got = event.allocation
        must(event.node_id == node_id, f"{spec.id} takes a part of {node_id}, and is placed on {event.node_id}")
        must(
            (got.cpu_milli + left.cpu_milli, got.memory_bytes + left.memory_bytes)
            == (before.cpu_milli, before.memory_bytes),
            f"{spec.id} takes {got} of {before}, and {left} is left",
        )
        for share in before.gpus:
            parts = [part for part in (*got.gpus, *left.gpus) if part.index == share.index]
            memory = sum(part.memory_bytes for part in parts)
            must(memory == share.memory_bytes, f"{spec.id} takes {got.gpus} of {before.gpus}, and {left.gpus} is left")
        indices = {share.index for share in before.gpus}
        must(
            {share.index for share in (*got.gpus, *left.gpus)} == indices,
            f"{spec.id} takes {got.gpus} of {before.gpus}, and {left.gpus} is left",
        )

    def compare(self, reservations: Iterable[Reservation], where: str) -> None:
        """Checks that reservations are what the facts say of them."""
        for reservation in reservations:
            facts = self.known.get(reservation.id)
            must(facts is not None, f"reservation {reservation.id} is in {where}, and was never granted")
            for name, value in (facts or {}).items():
                found = getattr(reservation, name)
                told = f"reservation {reservation.id}: {name} is {found!r} in {where}, and {value!r} by the facts"
                must(found == value, told)

    def check_granted(self, command: Reserve, reply: Reservation) -> None:
        """Checks that an answer states a reservation that is on disk, and is what was asked for."""
        facts = self.known.get(reply.id)
        must(facts is not None, f"reservation {reply.id} is acknowledged before it is on disk")
        must(reply.id == command.reservation_id, f"{command.reservation_id} is answered with {reply.id}")
        must(reply.account == command.account, f"{command.account} is answered with a reservation of {reply.account}")
        got = [
            (part.allocation.cpu_milli, part.allocation.memory_bytes, len(part.allocation.gpus))
            for part in reply.granted
        ]
        wanted = [(part.demand.cpu_milli, part.demand.memory_bytes, part.demand.gpus) for part in command.slices]
        must(got == wanted, f"reservation {reply.id} has {got}, and {wanted} was asked for")
        nodes = [part.node_id for part in reply.granted]
        if command.layout is Layout.PACK:
            must(len(set(nodes)) == 1, f"reservation {reply.id} is to lie on one node, and lies on {nodes}")
        if command.layout is Layout.SPREAD:
            must(len(set(nodes)) == len(nodes), f"reservation {reply.id} is to be spread, and lies on {nodes}")

    # -- facts -----------------------------------------------------------------------------------------------------

    def _granted(self, event: ev.ReservationGranted) -> None:
        new = event.reservation
        must(new.id not in self.known, f"reservation {new.id} is granted twice")
        must(new.state == "active" and new.slices == new.granted, f"reservation {new.id} begins as {new}")
        must(new.expires_at > event.at, f"reservation {new.id} is over when it begins")
        self.known[new.id] = {
            "id": new.id,
            "account": new.account,
            "granted": new.granted,
            "slices": new.granted,
            "created_at": event.at,
            "expires_at": new.expires_at,
            "state": "active",
            "ended_at": None,
            "message": "",
            "request_digest": new.request_digest,
        }
        for part in new.granted:
            self._nodes.check_open(part.node_id, f"reservation {new.id}", part.allocation)

    def _taken(self, event: ev.ReservationTaken) -> None:
        facts = self._active(event.reservation_id)
        slices = list(facts["slices"])
        part = slices[event.index]
        self._taking[event.workload_id] = (part.node_id, part.allocation, event.left)
        slices[event.index] = replace(part, allocation=event.left)
        facts["slices"] = tuple(slices)

    def _ended(self, event: ev.ReservationEnded) -> None:
        facts = self._active(event.reservation_id)
        left = [part.allocation for part in facts["slices"] if part.allocation != _NOTHING]
        match event.state:
            case "expired":
                must(event.at >= facts["expires_at"], f"reservation {facts['id']} ends before its time is over")
            case "consumed":
                must(not left, f"reservation {facts['id']} is said to be used up, and has {left}")
            case _:
                must(event.state == "released", f"reservation {facts['id']} ends as {event.state}")
        facts.update(
            state=event.state,
            message=event.message,
            ended_at=event.at,
            slices=tuple(replace(part, allocation=_NOTHING) for part in facts["slices"]),
        )

    def _active(self, reservation_id: ReservationId) -> dict[str, Any]:
        facts = self.known[reservation_id]
        must(facts["state"] == "active", f"reservation {reservation_id} is {facts['state']}, and nothing follows that")
        return facts
