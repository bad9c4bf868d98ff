"""Requests are spread over devices: greedily or evenly, within what each has."""

from __future__ import annotations

import pytest

from arcray.core.ids import NodeId
from arcray.core.resources import Demand
from arcray.facades.pool.allocation import Candidate, Plan, plan
from arcray.facades.pool.messages import Number, Requirements


def candidate(name: str, cpu: Number = 0, *, memory: Number = 0, storage: Number = 0, gpu: bool = False) -> Candidate:
    return Candidate(
        device_id=name,
        name=name,
        node_id=NodeId(name),
        cpu=cpu,
        memory=memory,
        storage=storage,
        gpu=gpu,
        percent_milli=80,
    )


def cpus(found: Plan) -> list[tuple[str, Number]]:
    return [(each.device_id, each.cpu) for each in found.allocated]


def test_greedy_takes_all_that_the_first_have() -> None:
    found = plan(Requirements(cpu=100), [candidate("a", 54.5), candidate("b", 80), candidate("c", 80)], evenly=False)
    assert (cpus(found), found.fulfilled) == ([("a", 54.5), ("b", 45.5)], True)


@pytest.mark.parametrize(
    ("wanted", "rooms", "expected"),
    [
        (100, (80, 80, 80), (34, 33, 33)),
        (100, (80, 10, 80), (45, 10, 45)),
        (100.5, (80, 80), (50.25, 50.25)),
        (500, (80, 10), (80, 10)),
        (1, (80, 80), (1, None)),
        (100, (0, 80, 80), (None, 50, 50)),
    ],
)
def test_even_divides_over_all_that_have_some(
    wanted: Number, rooms: tuple[Number, ...], expected: tuple[Number | None, ...]
) -> None:
    names = "abc"[: len(rooms)]
    found = plan(
        Requirements(cpu=wanted), [candidate(name, room) for name, room in zip(names, rooms, strict=True)], evenly=True
    )
    assert dict(cpus(found)) == {name: part for name, part in zip(names, expected, strict=True) if part is not None}
    assert found.fulfilled is (wanted <= sum(rooms))
    assert all(type(part) is int for _, part in cpus(found)) is isinstance(wanted, int)


def test_the_first_that_has_a_gpu_gives_it() -> None:
    found = plan(
        Requirements(gpu=True), [candidate("a"), candidate("b", gpu=True), candidate("c", gpu=True)], evenly=True
    )
    assert [(each.device_id, each.gpu) for each in found.allocated] == [("b", True)]
    assert found.fulfilled


def test_no_gpu_is_given_where_none_is_wanted() -> None:
    found = plan(Requirements(cpu=1), [candidate("a", 1, gpu=True)], evenly=False)
    assert not found.allocated[0].gpu


def test_shares_are_whole_quantities_of_the_cluster() -> None:
    found = plan(
        Requirements(cpu=12.34567, memory=0.5, storage=1), [candidate("a", 80, memory=1, storage=1)], evenly=False
    )
    assert found.shares[0].demand == Demand(cpu_milli=988, memory_bytes=2**19, disk_bytes=10**6)


def test_tenths_add_up() -> None:
    found = plan(Requirements(cpu=0.3), [candidate("a", 0.1), candidate("b", 0.2)], evenly=False)
    assert found.fulfilled
