"""Selectors as text, terms, and labels that an operator lays over a machine's own."""

from __future__ import annotations

import pytest

from arcray.core.commands import LabelNode, Reservable, Reserve
from arcray.core.errors import InvalidArgumentError
from arcray.core.ids import AccountId, ReservationId
from arcray.core.labels import LabelOperator, LabelTerm, parse_selector
from arcray.core.policy import ClusterPolicy
from arcray.core.resources import Demand
from arcray.core.workload import Phase, WorkloadSpec
from arcray.testing.builders import a_node, a_workload, node_id
from arcray.testing.world import World

N1 = node_id(1)


def term(key: str, operator: LabelOperator, *values: str) -> LabelTerm:
    return LabelTerm(key=key, operator=operator, values=values)


@pytest.mark.parametrize(
    ("text", "pairs", "terms"),
    [
        ("", (), ()),
        ("zone=eu", (("zone", "eu"),), ()),
        ("zone == eu , disk = fast", (("disk", "fast"), ("zone", "eu")), ()),
        ("example.com/zone=eu", (("example.com/zone", "eu"),), ()),
        ("empty=", (("empty", ""),), ()),
        ("gpu", (), (term("gpu", LabelOperator.EXISTS),)),
        ("! spot", (), (term("spot", LabelOperator.ABSENT),)),
        ("disk!=slow", (), (term("disk", LabelOperator.NOT_IN, "slow"),)),
        ("rack in (b, a)", (), (term("rack", LabelOperator.IN, "a", "b"),)),
        ("rack notin (a)", (), (term("rack", LabelOperator.NOT_IN, "a"),)),
        (
            "zone=eu,rack in (a,b),!spot",
            (("zone", "eu"),),
            (term("spot", LabelOperator.ABSENT), term("rack", LabelOperator.IN, "a", "b")),
        ),
    ],
)
def test_selectors_are_read_as_kubernetes_writes_them(
    text: str, pairs: tuple[tuple[str, str], ...], terms: tuple[LabelTerm, ...]
) -> None:
    assert parse_selector(text) == (pairs, terms)


def test_a_term_is_written_as_it_is_read() -> None:
    _, terms = parse_selector("gpu,!spot,disk!=slow,rack in (a,b),rack notin (c,d)")
    assert parse_selector(",".join(map(str, terms)))[1] == terms


@pytest.mark.parametrize(
    "text",
    [
        *("=eu", "zone=eu disk=fast", "zone=eu,", ",", "rack in a", "rack in (a", "zone=-", "!", "a b", "("),
        *("x in (a b)", f"k={'v' * 257}", ",".join(f"k{n}=v" for n in range(65))),
    ],
)
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        parse_selector(text)
    assert refused.value.field == "selector"


def wanting(text: str, number: int = 1) -> WorkloadSpec:
    pairs, terms = parse_selector(text)
    return a_workload(number, selector=pairs, selector_terms=terms)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("zone=eu", True),
        ("zone in (us,eu)", True),
        ("zone!=us", True),
        ("rack!=a", True),
        ("zone", True),
        ("!rack", True),
        ("zone notin (eu)", False),
        ("rack", False),
        ("zone=eu,rack", False),
    ],
)
def test_work_goes_where_every_term_holds(world: World, text: str, *, fits: bool) -> None:
    world.attach(a_node(labels={"zone": "eu"}))
    world.submit(wanting(text))
    assert (world.workload(a_workload(1).id).phase is Phase.PLACED) == fits


def test_a_label_of_the_operators_counts_until_it_is_removed_and_outlasts_another_attachment(world: World) -> None:
    world.attach()
    world.handle(LabelNode(node_id=N1, labels={"zone": "eu"}))
    world.attach()
    world.submit(wanting("zone=eu", 1))
    world.handle(LabelNode(node_id=N1, labels={"zone": None}))
    world.submit(wanting("zone=eu", 2))
    assert world.workload(a_workload(1).id).phase is Phase.PLACED
    assert world.workload(a_workload(2).id).phase is Phase.PENDING


def test_a_machines_own_label_can_be_taken_away_and_given_back(world: World) -> None:
    world.attach(a_node(labels={"zone": "eu"}))
    node = world.cluster.state.nodes[N1]
    world.handle(LabelNode(node_id=N1, labels={"zone": None}))
    assert (node.labels, node.relabelled) == ({}, {"zone": None})
    world.handle(LabelNode(node_id=N1, labels={"zone": "eu"}))
    assert (node.labels, node.relabelled) == ({"zone": "eu"}, {})


def test_waiting_work_starts_when_a_node_gets_the_label(world: World) -> None:
    world.attach()
    world.submit(wanting("gpu-kind in (h100,h200)"))
    world.handle(LabelNode(node_id=N1, labels={"gpu-kind": "h200"}))
    world.run_round()
    assert world.workload(a_workload(1).id).phase is Phase.PLACED


def test_labelling_the_same_again_is_one_fact(world: World) -> None:
    world.attach()
    assert len(world.handle(LabelNode(node_id=N1, labels={"a": "b"})).events) == 1
    assert world.handle(LabelNode(node_id=N1, labels={"a": "b"})).events == ()


@pytest.mark.parametrize("labels", [{"": "x"}, {"a b": "x"}, {"a": "x y"}, {"a": "x" * 257}])
def test_a_label_that_cannot_be_one_is_refused(world: World, labels: dict[str, str | None]) -> None:
    world.attach()
    with pytest.raises(InvalidArgumentError) as refused:
        world.handle(LabelNode(node_id=N1, labels=labels))
    assert str(refused.value.field).startswith("labels.")


IMPOSSIBLE = [
    (("a b", "eu"), "a b"),
    (("zone", "e u"), "zone"),
    (("", "eu"), ""),
    (("k" * 257, "eu"), "k" * 256),
    (term("a b", LabelOperator.EXISTS), "a b"),
    (term("zone", LabelOperator.IN, "eu", "!"), "zone"),
]


@pytest.mark.parametrize(("asked", "key"), IMPOSSIBLE)
def test_work_that_asks_for_what_no_label_can_be_is_refused(asked: tuple[str, str] | LabelTerm, key: str) -> None:
    world = World(ClusterPolicy())
    fields = {"selector_terms": (asked,)} if isinstance(asked, LabelTerm) else {"selector": (asked,)}
    with pytest.raises(InvalidArgumentError) as caught:
        world.submit(a_workload(1, **fields))
    assert caught.value.field == f"selector.{key}"
    wanted = Reservable(demand=Demand(cpu_milli=1), selector=(asked,))
    with pytest.raises(InvalidArgumentError) as caught:
        world.handle(Reserve(reservation_id=ReservationId("r"), account=AccountId("ana"), slices=(wanted,), ttl_s=1.0))
    assert caught.value.field == f"slices.0.selector.{key}"
