"""Routing: who is a candidate, who is best, and what slots in flight change."""

from __future__ import annotations

import pytest

from arcray.core.errors import NotFoundError
from arcray.core.ids import ModelId, NodeId
from arcray.core.placement.formulas import DOCUMENTS, FORMULAS, RoutingNode
from arcray.core.placement.routing import RoutingIndex

LLAMA = ModelId("llama")
HERE = "9q9hvu"


def index_of(*nodes: RoutingNode, slots: int = 1, index: RoutingIndex | None = None) -> RoutingIndex:
    found = index or RoutingIndex()
    for node in nodes:
        found.upsert_node(node)
        found.set_models(node.id, {LLAMA: slots})
    return found


def node(
    name: str,
    *,
    geohash: str = HERE,
    geozone: str = "",
    cogen: bool = False,
    battery: float = 0.0,
    utilization: float = 0.0,
    last_seen_s: float = 0.0,
    admits: bool = False,
    schedulable: bool = True,
) -> RoutingNode:
    return RoutingNode(
        id=NodeId(name),
        last_seen_s=last_seen_s,
        geohash=geohash,
        geozone=geozone,
        cogen=cogen,
        battery_level=battery,
        utilization=utilization,
        admits_by_utilization=admits,
        schedulable=schedulable,
    )


def refusals(index: RoutingIndex, now_s: float = 0.0) -> dict[str, int]:
    return {refusal.filter: refusal.nodes for refusal in index.explain(LLAMA, now_s).refusals}


def test_score_of_the_conformance_case_is_1_0576() -> None:
    index = index_of(node("a", cogen=True, battery=0.87, utilization=0.42))
    assert index.score(NodeId("a"), LLAMA, HERE) == 1.0576


@pytest.mark.parametrize(
    ("geohash", "penalty"),
    [
        ("9q9hvu", 0.0224),
        ("9q9hvx", 0.03),
        ("9q9hxx", 0.098),
        ("9q9xxx", 0.332),
        ("9qxxxx", 2.52),
        ("9xxxxx", 10.02),
        ("xxxxxx", 10.02),
        ("9q9h", 0.098),
        ("", 1.0),
    ],
)
def test_distance_follows_the_common_prefix(geohash: str, penalty: float) -> None:
    index = index_of(node("a", geohash=geohash))
    assert index.score(NodeId("a"), LLAMA, HERE) == -penalty


def test_request_without_a_geohash_is_fifty_milliseconds_from_everyone() -> None:
    index = index_of(node("b-far", geohash="zzzzzz", cogen=True), node("a-near"))
    assert index.score(NodeId("a-near"), LLAMA, "") == -1.0
    assert index.route(LLAMA, "", 0.0) == "b-far"


def test_unknown_place_wins_over_the_far_side_of_the_world() -> None:
    index = index_of(node("far", geohash="zzzzzz"), node("unknown", geohash=""))
    assert index.route(LLAMA, HERE, 0.0) == "unknown"


def test_better_node_further_away_wins_where_the_distance_costs_less() -> None:
    index = index_of(node("near"), node("cogen", geohash="9q9xxx", cogen=True))
    assert index.route(LLAMA, HERE, 0.0) == "cogen"
    index = index_of(node("near"), node("cogen", geohash="9qxxxx", cogen=True))
    assert index.route(LLAMA, HERE, 0.0) == "near"


def test_battery_counts_above_four_fifths_only() -> None:
    index = index_of(node("a", battery=0.8), node("b", battery=0.81))
    assert index.route(LLAMA, HERE, 0.0) == "b"


def test_saturated_node_without_slot_control_is_left_alone() -> None:
    index = index_of(node("a", utilization=0.85, admits=True))
    assert index.route(LLAMA, HERE, 0.0) is None
    assert refusals(index) == {"utilization": 1}
    index.upsert_node(node("a", utilization=0.8499, admits=True))
    assert index.route(LLAMA, HERE, 0.0) == "a"


def test_silent_node_without_slot_control_is_left_alone_after_thirty_seconds() -> None:
    index = index_of(node("a", admits=True))
    assert index.route(LLAMA, HERE, 30.0) == "a"
    assert index.route(LLAMA, HERE, 30.1) is None
    assert refusals(index, 30.1) == {"fresh": 1}
    index.upsert_node(node("a", admits=True, last_seen_s=31.0))
    assert index.route(LLAMA, HERE, 31.0) == "a"


def test_node_that_comes_back_without_slot_control_is_held_to_its_readings() -> None:
    index = index_of(node("a"))
    assert index.route(LLAMA, HERE, 100.0) == "a"
    index.upsert_node(node("a", admits=True))
    assert index.route(LLAMA, HERE, 100.0) is None
    index.upsert_node(node("a"))
    assert index.route(LLAMA, HERE, 100.0) == "a"


def test_slots_alone_count_where_a_node_controls_them() -> None:
    index = index_of(node("a", utilization=1.0))
    assert index.route(LLAMA, HERE, 1000.0) == "a"


def test_taken_slots_shut_a_node_until_one_is_released() -> None:
    index = index_of(node("a"), slots=2)
    index.acquire(NodeId("a"), LLAMA)
    assert index.route(LLAMA, HERE, 0.0) == "a"
    index.acquire(NodeId("a"), LLAMA)
    assert index.route(LLAMA, HERE, 0.0) is None
    assert refusals(index) == {"slots": 1}
    assert index.explain(LLAMA, 0.0).suggestion == "one free slot would do"
    assert index.release(NodeId("a"), LLAMA)
    assert index.route(LLAMA, HERE, 0.0) == "a"


def test_equal_nodes_share_the_traffic() -> None:
    index = index_of(node("a"), node("b"), node("c"), slots=4)
    answered = []
    for _ in range(9):
        chosen = index.route(LLAMA, HERE, 0.0)
        assert chosen is not None
        index.acquire(chosen, LLAMA)
        answered.append(chosen)
    assert answered == ["a", "b", "c"] * 3


def test_slots_in_flight_of_a_busy_machine_are_not_counted_twice() -> None:
    index = index_of(node("a", utilization=0.5), slots=4)
    index.acquire(NodeId("a"), LLAMA)
    assert index.score(NodeId("a"), LLAMA, HERE) == -0.5224


def test_readings_do_not_release_slots() -> None:
    index = index_of(node("a"))
    index.acquire(NodeId("a"), LLAMA)
    index.upsert_node(node("a", utilization=0.1, last_seen_s=5.0))
    index.set_models(NodeId("a"), {LLAMA: 1})
    assert index.in_flight(NodeId("a"), LLAMA) == 1
    assert index.route(LLAMA, HERE, 5.0) is None


def test_slots_outlive_the_unloading_of_their_model() -> None:
    index = index_of(node("a"), slots=2)
    index.acquire(NodeId("a"), LLAMA)
    index.set_models(NodeId("a"), {})
    assert refusals(index) == {"model": 1}
    index.set_models(NodeId("a"), {LLAMA: 1})
    assert index.route(LLAMA, HERE, 0.0) is None
    assert index.release(NodeId("a"), LLAMA)
    assert index.route(LLAMA, HERE, 0.0) == "a"


def test_slot_can_be_taken_before_the_node_has_named_its_models() -> None:
    index = RoutingIndex()
    index.upsert_node(node("a"))
    index.acquire(NodeId("a"), LLAMA)
    assert index.route(LLAMA, HERE, 0.0) is None
    index.set_models(NodeId("a"), {LLAMA: 2})
    assert index.in_flight(NodeId("a"), LLAMA) == 1
    assert index.route(LLAMA, HERE, 0.0) == "a"


def test_releasing_what_is_not_held_changes_nothing() -> None:
    index = index_of(node("a"))
    assert not index.release(NodeId("a"), LLAMA)
    assert not index.release(NodeId("nobody"), LLAMA)
    index.acquire(NodeId("a"), LLAMA)
    index.remove_node(NodeId("a"))
    index.upsert_node(node("a"))
    assert not index.release(NodeId("a"), LLAMA)


def test_removed_node_is_routed_to_no_more() -> None:
    index = index_of(node("a"), node("b"))
    index.remove_node(NodeId("a"))
    index.remove_node(NodeId("a"))
    assert index.route(LLAMA, HERE, 0.0) == "b"
    assert index.explain(LLAMA, 0.0).nodes == 1


def test_moved_node_is_found_where_it_is_now() -> None:
    index = index_of(node("a"), node("b", geohash="9q9hvx"))
    assert index.route(LLAMA, HERE, 0.0) == "a"
    index.upsert_node(node("a", geohash="dr5rsj"))
    assert index.route(LLAMA, HERE, 0.0) == "b"
    assert index.route(LLAMA, "dr5rsj", 0.0) == "a"


def test_places_are_forgotten_with_their_last_copy() -> None:
    index = index_of(node("a"), node("b", geohash="9q9xxx"), node("c", geohash="dr5rsj"))
    index.remove_node(NodeId("c"))
    index.set_models(NodeId("b"), {})
    buckets = index._models[LLAMA].buckets
    assert set(buckets) == {HERE[:length] for length in (6, 5, 4, 3, 2)} | {""}
    assert [len(bucket.items) for bucket in buckets.values()] == [1] * 6
    index.remove_node(NodeId("a"))
    assert index._models == {}
    index.remove_node(NodeId("b"))
    assert index._ranks._ids == []


def test_unschedulable_nodes_are_counted_whether_they_have_the_model_or_not() -> None:
    index = index_of(node("a", schedulable=False))
    index.upsert_node(node("b", schedulable=False))
    index.upsert_node(node("c"))
    assert refusals(index) == {"schedulable": 2, "model": 1}
    assert index.explain(LLAMA, 0.0).suggestion == "a node that has llama must take work again"
    index.upsert_node(node("a"))
    assert index.route(LLAMA, HERE, 0.0) == "a"
    assert index.explain(LLAMA, 0.0).fits == 1
    index.remove_node(NodeId("b"))
    assert refusals(index) == {"model": 1}


def test_unknown_model_is_refused_by_every_node() -> None:
    index = index_of(node("a"))
    explanation = index.explain(ModelId("phi"), 0.0)
    assert index.route(ModelId("phi"), HERE, 0.0) is None
    assert explanation.sentence() == (
        "0 of 1 nodes can take it: 1 by model (has not loaded phi); load phi on one more node"
    )


def test_explaining_what_fits_counts_the_candidates() -> None:
    index = index_of(node("a", admits=True), node("b", admits=True, last_seen_s=20.0), node("c"))
    assert index.explain(LLAMA, 40.0).fits == 2
    assert refusals(index, 40.0) == {"fresh": 1}


def test_models_of_an_unknown_node_are_not_found() -> None:
    with pytest.raises(NotFoundError):
        RoutingIndex().set_models(NodeId("a"), {LLAMA: 1})
    with pytest.raises(NotFoundError):
        RoutingIndex().acquire(NodeId("a"), LLAMA)


def test_formula_of_the_documents_weighs_zone_energy_idleness_and_battery() -> None:
    index = index_of(
        node("a", geozone="CAISO", cogen=True, battery=0.5, utilization=0.25), index=RoutingIndex(DOCUMENTS)
    )
    assert index.score(NodeId("a"), LLAMA, HERE, "CAISO") == 100 + 50 + 30 * 0.75 + 20 * 0.5
    assert index.score(NodeId("a"), LLAMA, HERE, "PJM") == 50 + 30 * 0.75 + 20 * 0.5
    assert index.score(NodeId("a"), LLAMA, HERE) == 50 + 30 * 0.75 + 20 * 0.5


def test_equal_scores_near_and_far_are_told_apart_by_id() -> None:
    # 100 for the zone against 50 for cogeneration, 30 for idleness and 20 for the battery.
    near = node("b-near", geozone="CAISO", utilization=1.0)
    far = node("a-far", geozone="PJM", cogen=True, battery=1.0)
    index = index_of(near, far, index=RoutingIndex(DOCUMENTS))
    assert index.score(near.id, LLAMA, "", "CAISO") == index.score(far.id, LLAMA, "", "CAISO") == 100.0
    assert index.route(LLAMA, "", 0.0, "CAISO") == "a-far"


def test_nodes_without_a_zone_are_in_nobodys_zone() -> None:
    index = index_of(node("a"), node("b", cogen=True), index=RoutingIndex(DOCUMENTS))
    assert index.route(LLAMA, HERE, 0.0, "") == "b"
    assert index.route(LLAMA, HERE, 0.0, "CAISO") == "b"


def test_formulas_are_chosen_by_the_names_of_the_configuration() -> None:
    assert sorted(FORMULAS) == ["code", "documents"]


def test_reading_of_an_unknown_node_is_refused() -> None:
    with pytest.raises(NotFoundError):
        RoutingIndex().read(NodeId("a"), last_seen_s=0.0, utilization=0.0, cogen=False, battery_level=1.0)


def test_reading_brings_a_silent_node_back_though_its_load_is_the_same() -> None:
    index = index_of(node("a", admits=True, utilization=0.3))
    assert index.route(LLAMA, HERE, now_s=31.0) is None
    index.read(NodeId("a"), last_seen_s=31.0, utilization=0.3, cogen=False, battery_level=0.0)
    assert index.route(LLAMA, HERE, now_s=31.0) == "a"
