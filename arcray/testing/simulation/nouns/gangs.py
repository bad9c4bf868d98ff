"""Gangs: members that come one by one, or never all; they start together, and what happens to one happens to all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any
from uuid import UUID

from arcray.core import events as ev
from arcray.core.commands import Command, SubmitWorkload
from arcray.core.gang import Gang, Layout
from arcray.core.ids import WorkloadId
from arcray.core.workload import Container, Program, RestartPolicy, RestartRule, WorkloadSpec
from arcray.testing.builders import a_container
from arcray.testing.simulation.nouns.cast import Cast, draw_demand
from arcray.testing.simulation.nouns.submissions import draw_work
from arcray.testing.simulation.nouns.workloads import WorkloadFacts
from arcray.testing.simulation.promise import must

__all__ = ["GangFacts", "draw_member"]

_GOES_ON = ("placed", "pulling", "starting", "running")


def draw_member(dice: Random, cast: Cast) -> Command:
    """Returns the next member of the gang that is coming, or the first one of another."""
    if not cast.members or dice.random() < 0.1:
        cast.members[:] = _gang(dice, cast)
    spec = replace(cast.members.pop(0), created_at=cast.client_time(dice))
    cast.workloads.append(spec)
    return SubmitWorkload(spec=spec)


def _gang(dice: Random, cast: Cast) -> list[WorkloadSpec]:
    cast.gangs += 1
    size = dice.choice((1, 2, 2, 3))
    gang = Gang(id=f"gang-{cast.gangs}", size=size, layout=dice.choice(tuple(Layout)))
    rule = dice.choice((RestartRule.NEVER, RestartRule.ON_FAILURE))
    first = replace(
        draw_work(dice, cast),
        gang=gang,
        demand=draw_demand(dice),
        restart=RestartPolicy(rule=rule, max_restarts=dice.choice((0, 1))),
        preemptible=False,
        node_id=None,
        request_id="",
    )
    alike = dice.random() < 0.7
    return [
        replace(
            first,
            id=WorkloadId(str(UUID(int=0xD000_0000 + 16 * cast.gangs + index))),
            payload=first.payload if isinstance(first.payload, Container | Program) else a_container(),
            demand=first.demand if alike else draw_demand(dice),
            waiting=False,
        )
        for index in range(size)
    ]


class GangFacts:
    """What is on disk of gangs.

    Attributes:
        members: by account and name, all members since the last time at which none was alive.
    """

    def __init__(self, workloads: WorkloadFacts) -> None:
        self.members: dict[tuple[str, str], list[WorkloadId]] = {}
        self._workloads = workloads

    @property
    def takes(self) -> Mapping[type, Callable[[Any], None]]:
        """Returns what is done about which fact."""
        return {ev.WorkloadSubmitted: self._joined, ev.WorkloadPlaced: self._placed}

    def check(self) -> None:
        """Checks what must hold between transactions: what is so of one member is so of all."""
        for (_, name), ids in self.members.items():
            works = [self._workloads.known[key] for key in ids]
            live = [work for work in works if work["finished_at"] is None]
            if not live:
                continue
            size = works[0]["spec"].gang.size
            attempts = {work["attempt"] for work in works}
            must(len(attempts) == 1, f"the members of {name} are at attempts {sorted(attempts)}")
            must(attempts == {0} or len(works) == size, f"{name} starts with {len(works)} of {size} members")
            phases = [str(work["phase"]) for work in live]
            going = [phase for phase in phases if phase in _GOES_ON]
            must("pending" not in phases or not going, f"{name} goes on in part: {phases}")
            for work in works:
                if work["finished_at"] is not None and work["phase"] != "succeeded":
                    told = f"a member of {name} has {work['phase']}, and others go on: {phases}"
                    must(all(_is_ending(each) for each in live), told)

    def _joined(self, event: ev.WorkloadSubmitted) -> None:
        spec = event.spec
        if spec.gang is None:
            return
        known = self._workloads.known
        key = (str(spec.origin.account), spec.gang.id)
        before = self.members.get(key, [])
        if all(known[each]["finished_at"] is not None for each in before):
            before = self.members[key] = []
        must(len(before) < spec.gang.size, f"{spec.id} is one too many in {spec.gang.id}")
        must(not spec.preemptible and spec.reservation_id is None, f"{spec.id} cannot be in {spec.gang.id}")
        for each in before:
            other = known[each]["spec"]
            alike = (other.gang, other.priority, other.restart) == (spec.gang, spec.priority, spec.restart)
            must(alike, f"{spec.id} is in {spec.gang.id}, and is otherwise than {each}")
            must(known[each]["finished_at"] is None, f"{spec.id} joins {spec.gang.id}, of which {each} has ended")
        before.append(spec.id)

    def _placed(self, event: ev.WorkloadPlaced) -> None:
        spec = self._workloads.known[event.workload_id]["spec"]
        if spec.gang is None:
            return
        works = [self._workloads.known[each] for each in self.members[spec.origin.account, spec.gang.id]]
        nodes = [
            work["node_id"] for work in works if work["attempt"] == event.attempt and work["allocation"] is not None
        ]
        if spec.gang.layout is Layout.PACK:
            must(len(set(nodes)) == 1, f"{spec.gang.id} is to lie on one node, and lies on {nodes}")
        if spec.gang.layout is Layout.SPREAD:
            must(len(set(nodes)) == len(nodes), f"{spec.gang.id} is to be spread, and lies on {nodes}")


def _is_ending(work: Mapping[str, Any]) -> bool:
    eviction = work["eviction"]
    return work["phase"] == "stopping" and (work["stop_requested"] or (eviction is not None and eviction.fails))
