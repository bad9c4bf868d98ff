"""Routing: which node answers an inference request. An index of its own, because this is asked most and must be flat.

A node is a candidate iff it is schedulable, has the model loaded and has a free slot for it; a node without slot
control of its own also needs a utilization below the saturation (strictly) and a reading that is not stale (strictly
older than the limit is stale). The best by the formula wins; ties go by node id.

Decision: *load* is the greater of the reported utilization and the share of slots in flight. With nothing in flight
this is the protocol's formula; with work in flight, equal nodes share the traffic instead of the first one taking it
all until the next reading. Readings never change what is in flight.

Invariants: 0 <= in flight; a request is routed only where in flight < slots; no decision looks at all nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from arcray.core.errors import NotFoundError
from arcray.core.ids import ModelId, NodeId
from arcray.core.placement.buckets import NEVER, Bucket, Copy, Host, Model
from arcray.core.placement.explain import Explanation, FilterRefusal
from arcray.core.placement.formulas import ANYWHERE, CODE, MILLION, Formula, RoutingNode
from arcray.core.placement.ranks import RANK_BITS, Ranks

__all__ = ["RoutingIndex"]


class _Node:
    """A node and the models on it."""

    __slots__ = ("copies", "homes", "host", "said")

    def __init__(self) -> None:
        self.host = Host()
        self.said: RoutingNode | None = None  # when last it said more than how busy it is
        self.homes: tuple[str, ...] = ()
        self.copies: dict[ModelId, Copy] = {}


# What the first filter says of a copy, the age of readings aside. Plain integers, because they are compared twice for
# every request.
_CANDIDATE: Final = 0
_UNSCHEDULABLE: Final = 1
_UNLOADED: Final = 2  # only requests in flight are left of it
_FULL: Final = 3
_SATURATED: Final = 4
_STATES: Final = 5

_NO_MODEL: Final = Model(_STATES)
_MOST_PATHS: Final = 4096  # remembered origins of requests, for each model


class RoutingIndex:
    """The live index.

    Args:
        formula: how candidates are scored.
        saturation: utilization at which nodes without slot control take nothing more.
        stale_after_s: age of a reading beyond which such nodes take nothing.
    """

    def __init__(self, formula: Formula = CODE, *, saturation: float = 0.85, stale_after_s: float = 30.0) -> None:
        self._formula = formula
        self._saturation = saturation
        self._stale_after_s = stale_after_s
        self._nodes: dict[NodeId, _Node] = {}
        self._models: dict[ModelId, Model] = {}
        self._ranks = Ranks()
        self._unschedulable = 0

    def upsert_node(self, node: RoutingNode) -> None:
        """Takes a node up, or its newest reading; its models and what is in flight stay."""
        known = self._nodes.get(node.id)
        if known is None:
            known = self._open(node.id)
        known.said = node
        host = known.host
        self._unschedulable += host.schedulable - node.schedulable
        host.schedulable = node.schedulable
        host.merit = self._formula.merit(node)
        host.utilization = round(node.utilization * MILLION)
        host.saturated = node.admits_by_utilization and node.utilization >= self._saturation
        host.watched, host.last_seen_s = node.admits_by_utilization, node.last_seen_s
        homes = self._formula.homes(node)
        moved, before = homes != known.homes, known.homes
        known.homes = homes
        for copy in known.copies.values():
            if moved:
                copy.model.leave(copy, before)
                copy.model.enter(copy, homes)
            self._settle(copy)

    def read(
        self, node_id: NodeId, *, last_seen_s: float, utilization: float, cogen: bool, battery_level: float
    ) -> None:
        """Takes a node's newest reading.

        As ``upsert_node``, and a third of its price: readings are nearly all that nodes say, and all but the
        utilization is mostly what it was.

        Raises:
            NotFoundError: no such node.
        """
        known = self._find(node_id)
        said = known.said
        assert said is not None, "a node is taken up before it is read"
        if cogen != said.cogen or battery_level != said.battery_level:
            self.upsert_node(
                replace(
                    said, last_seen_s=last_seen_s, utilization=utilization, cogen=cogen, battery_level=battery_level
                )
            )
            return
        host = known.host
        host.last_seen_s = last_seen_s
        load = round(utilization * MILLION)
        if load == host.utilization and not host.watched:
            return  # a watched one may have been passed over as silent until now
        host.utilization = load
        host.saturated = host.watched and utilization >= self._saturation
        for copy in known.copies.values():
            self._settle(copy)

    def remove_node(self, node_id: NodeId) -> None:
        """Forgets a node and all that is in flight on it; forgetting an unknown one changes nothing."""
        known = self._nodes.get(node_id)
        if known is None:
            return
        for model_id in list(known.copies):
            self._remove_copy(known, model_id)
        self._unschedulable -= not known.host.schedulable
        self._ranks.discard(node_id)
        del self._nodes[node_id]

    def set_models(self, node_id: NodeId, models: Mapping[ModelId, int]) -> None:
        """Replaces the models that a node answers for, each with its slots.

        Raises:
            NotFoundError: no such node.
        """
        known = self._find(node_id)
        for model_id, copy in list(known.copies.items()):
            if model_id in models:
                continue
            if copy.in_flight:
                copy.slots = 0
                self._settle(copy)
            else:
                self._remove_copy(known, model_id)
        for model_id, slots in models.items():
            copy = known.copies.get(model_id) or self._add_copy(node_id, known, model_id)
            copy.slots = slots
            self._settle(copy)

    def route(self, model_id: ModelId, geohash: str, now_s: float, geozone: str = "") -> NodeId | None:
        """Returns the best candidate, None without one. Takes no slot.

        Args:
            geohash: where the request comes from; "" when unknown.
            now_s: never goes back from call to call.
            geozone: zone that the request comes from; "" when unknown.
        """
        model = self._models.get(model_id)
        if model is None:
            return None
        path = model.paths.get((geohash, geozone))
        if path is None:
            path = self._path(model, geohash, geozone)
        stale_after_s, floor = self._stale_after_s, -self._formula.most_merit
        best_cost, best = NEVER, None
        for bucket, penalty in path:
            limit = best_cost - penalty
            if limit < floor:
                break  # not even the best node there could be would win over that distance
            found = bucket.best(now_s, stale_after_s, limit)
            if found is not None:
                cost = (bucket.least >> RANK_BITS) + penalty
                if best is None or cost < best_cost or found.node_id < best:
                    best_cost, best = cost, found.node_id
        return best

    def acquire(self, node_id: NodeId, model_id: ModelId) -> None:
        """Takes a slot. Never refuses: recovery counts what is in flight before the node has named its models.

        Raises:
            NotFoundError: no such node.
        """
        copy = self._copy(node_id, model_id)
        if copy is None:
            copy = self._add_copy(node_id, self._find(node_id), model_id)
        copy.in_flight += 1
        self._settle(copy)

    def release(self, node_id: NodeId, model_id: ModelId) -> bool:
        """Gives a slot back; returns False when none was held, as after the node has gone."""
        copy = self._copy(node_id, model_id)
        if copy is None or not copy.in_flight:
            return False
        copy.in_flight -= 1
        if copy.in_flight or copy.slots:
            self._settle(copy)
        else:
            self._remove_copy(self._find(node_id), model_id)
        return True

    def in_flight(self, node_id: NodeId, model_id: ModelId) -> int:
        """Returns how many slots are taken; 0 for what is unknown."""
        copy = self._copy(node_id, model_id)
        return copy.in_flight if copy else 0

    def score(self, node_id: NodeId, model_id: ModelId, geohash: str, geozone: str = "") -> float | None:
        """Returns a node's score for a request in the formula's own units; None while it takes nothing.

        The age of its reading is not looked at.
        """
        copy = self._copy(node_id, model_id)
        if copy is None or copy.cost is None:
            return None
        homes = self._nodes[node_id].homes
        penalty = min(cost for name, cost in self._formula.reaches(geohash, geozone) if name in homes)
        return -(copy.cost + penalty) / MILLION

    def explain(self, model_id: ModelId, now_s: float) -> Explanation:
        """Returns how a request for a model stands with every node. Where it comes from excludes none."""
        model = self._models.get(model_id, _NO_MODEL)
        states = model.states
        fits = self._fresh(model, now_s)
        stale = states[_CANDIDATE] - fits
        loaded = states[_CANDIDATE] + states[_FULL] + states[_SATURATED]
        found = (
            ("schedulable", self._unschedulable, "is cordoned, draining or unhealthy"),
            ("model", len(self._nodes) - self._unschedulable - loaded, f"has not loaded {model_id}"),
            ("slots", states[_FULL], "has every slot in flight"),
            ("utilization", states[_SATURATED], f"is at {self._saturation:g} of its capacity or above"),
            ("fresh", stale, f"was silent for more than {self._stale_after_s:g} s"),
        )
        return Explanation(
            nodes=len(self._nodes),
            refusals=tuple(FilterRefusal(filter=name, nodes=nodes, reason=why) for name, nodes, why in found if nodes),
            suggestion="" if fits else self._advice(model_id, model),
            fits=fits,
        )

    def _fresh(self, model: Model, now_s: float) -> int:
        """Returns how many candidates there are, the age of readings included."""
        everywhere = model.buckets.get(ANYWHERE)
        if everywhere is None or everywhere.best(now_s, self._stale_after_s, NEVER) is None:
            return 0  # asked after a refusal, which is the rule: no need to count
        return sum(
            copy.state == _CANDIDATE and not (copy.host.watched and now_s - copy.host.last_seen_s > self._stale_after_s)
            for copy in model.copies.values()
        )

    def _advice(self, model_id: ModelId, model: Model) -> str:
        if model.states[_FULL]:
            return "one free slot would do"
        if model.states[_UNSCHEDULABLE]:
            return f"a node that has {model_id} must take work again"
        return f"load {model_id} on one more node" if len(self._nodes) > self._unschedulable else ""

    def _find(self, node_id: NodeId) -> _Node:
        known = self._nodes.get(node_id)
        if known is None:
            raise NotFoundError(f"no node {node_id} to route to")
        return known

    def _copy(self, node_id: NodeId, model_id: ModelId) -> Copy | None:
        model = self._models.get(model_id)
        return None if model is None else model.copies.get(node_id)

    def _path(self, model: Model, geohash: str, geozone: str) -> tuple[tuple[Bucket, int], ...]:
        """Returns the buckets that a request looks into, each once and with the least penalty, and remembers them."""
        least: dict[Bucket, int] = {}
        for name, penalty in self._formula.reaches(geohash, geozone):
            bucket = model.buckets.get(name)
            if bucket is not None:
                least[bucket] = min(penalty, least.get(bucket, penalty))
        if len(model.paths) >= _MOST_PATHS:
            model.paths.clear()
        path = model.paths[geohash, geozone] = tuple(sorted(least.items(), key=lambda item: item[1]))
        return path

    def _settle(self, copy: Copy) -> None:
        """Works out what a copy costs now and offers it where that is less than before."""
        host, slots, in_flight = copy.host, copy.slots, copy.in_flight
        if not host.schedulable:
            state = _UNSCHEDULABLE
        elif not slots:
            state = _UNLOADED
        elif in_flight >= slots:
            state = _FULL
        elif host.saturated:
            state = _SATURATED
        else:
            state = _CANDIDATE
        if state != copy.state:
            states = copy.model.states
            states[copy.state] -= 1
            states[state] += 1
            copy.state = state
        if state != _CANDIDATE:
            copy.cost = None
            copy.bucket.put(copy.index, NEVER)
            return
        load = max(host.utilization, in_flight * MILLION // slots)
        cost = copy.cost = self._formula.load_weight * load - host.merit
        copy.bucket.put(copy.index, (cost << RANK_BITS) + host.rank)

    def _open(self, node_id: NodeId) -> _Node:
        known = self._nodes[node_id] = _Node()
        self._unschedulable += 1  # as a new host is
        if self._ranks.add(node_id):
            for other_id, other in self._nodes.items():
                other.host.rank = self._ranks[other_id]
                for copy in other.copies.values():
                    self._settle(copy)
        known.host.rank = self._ranks[node_id]
        return known

    def _add_copy(self, node_id: NodeId, known: _Node, model_id: ModelId) -> Copy:
        model = self._models.get(model_id)
        if model is None:
            model = self._models[model_id] = Model(_STATES)
        copy = Copy(node_id, known.host, model, _UNLOADED)
        model.enter(copy, known.homes)
        known.copies[model_id] = model.copies[node_id] = copy
        model.states[_UNLOADED] += 1
        return copy

    def _remove_copy(self, known: _Node, model_id: ModelId) -> None:
        copy = known.copies.pop(model_id)
        model = copy.model
        del model.copies[copy.node_id]
        model.states[copy.state] -= 1
        model.leave(copy, known.homes)
        if not model.copies:
            del self._models[model_id]
