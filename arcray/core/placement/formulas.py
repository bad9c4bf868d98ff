"""Formulas: how well a node suits an inference request. Two are defined by the protocol; one is chosen by config.

Scores are integers in millionths, so that they compare exactly: ties are ties, and no order of additions matters. They
are kept as costs, where less is better: cost = load_weight * load - merit + penalty.

A node has the same merit for every request; what depends on the request is only how near it is. Nodes are therefore
filed in *buckets*, each within the next wider one: a formula says which buckets a node is in (``homes``) and which ones
a request looks into, each with the penalty of that distance (``reaches``). A node found in several counts by the least.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from arcray.core.ids import NodeId

__all__ = ["ANYWHERE", "CODE", "DOCUMENTS", "FORMULAS", "MILLION", "Formula", "Reach", "RoutingNode"]

MILLION: Final = 1_000_000

Reach: TypeAlias = tuple[tuple[str, int], ...]  # buckets to look into, each with its penalty

_PREFIXES: Final = (6, 5, 4, 3, 2)  # one common character is as far as none
# By length of the common geohash prefix.
_DISTANCE_KM: Final = {6: 1.2, 5: 5.0, 4: 39.0, 3: 156.0, 2: 1250.0, 0: 5000.0}
_UNKNOWN_LATENCY_MS: Final = 50.0  # where either side has no geohash
ANYWHERE: Final = ""  # the widest home: the bucket of all nodes
_NOWHERE: Final = "??????"  # where a node without geohash is; no geohash contains a question mark


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingNode:
    """A node as routing sees it; its latest reading included.

    Args:
        geohash: up to 6 characters; "" when unknown.
        geozone: name of its zone; "" when unknown.
        cogen: whether it runs on cogeneration or solar power, which the protocol treats alike.
        battery_level: 0.0 to 1.0; 1.0 without a battery.
        utilization: of its GPUs, or of its CPU where it has none, 0.0 to 1.0.
        last_seen_s: when that reading came, on the clock of ``RoutingIndex.route``.
        admits_by_utilization: it has no slot control of its own, so that a busy or silent one is left alone.
        schedulable: whether it takes new work.
    """

    id: NodeId
    last_seen_s: float
    geohash: str = ""
    geozone: str = ""
    cogen: bool = False
    battery_level: float = 1.0
    utilization: float = 0.0
    admits_by_utilization: bool = False
    schedulable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """One way to score.

    Args:
        load_weight: millionths of score that a full load takes off, in units of 1.0.
        merit: what a node brings, in millionths.
        most_merit: the most that any node brings.
        homes: buckets that a node is in, narrowest first, ``ANYWHERE`` last.
        reaches: buckets that a request from (geohash, geozone) looks into.
    """

    load_weight: int
    merit: Callable[[RoutingNode], int]
    most_merit: int
    homes: Callable[[RoutingNode], tuple[str, ...]]
    reaches: Callable[[str, str], Reach]


def _latency_penalty(latency_ms: float) -> int:
    return round(0.2 * latency_ms / 10 * MILLION)


_PENALTIES: Final = {length: _latency_penalty(1 + 0.1 * km) for length, km in _DISTANCE_KM.items()}
_UNKNOWN_PENALTY: Final = _latency_penalty(_UNKNOWN_LATENCY_MS)


def _code_merit(node: RoutingNode) -> int:
    return MILLION * node.cogen + MILLION // 2 * (node.battery_level > 0.8)


def _code_homes(node: RoutingNode) -> tuple[str, ...]:
    place = node.geohash.ljust(len(_NOWHERE), "?")
    return (*(place[:length] for length in _PREFIXES), ANYWHERE)


@lru_cache(maxsize=4_096)  # a kilobyte each; the index keeps as many for each model and seldom asks
def _code_reaches(geohash: str, _geozone: str) -> Reach:
    if not geohash:
        return ((ANYWHERE, _UNKNOWN_PENALTY),)
    near = ((geohash[:length], _PENALTIES[length]) for length in _PREFIXES if length <= len(geohash))
    return (*near, (_NOWHERE, _UNKNOWN_PENALTY), (ANYWHERE, _PENALTIES[0]))


def _documents_merit(node: RoutingNode) -> int:
    return 50 * MILLION * node.cogen + 30 * MILLION + round(20 * MILLION * min(1.0, max(0.0, node.battery_level)))


def _documents_homes(node: RoutingNode) -> tuple[str, ...]:
    return f"zone:{node.geozone}", ANYWHERE


def _documents_reaches(_geohash: str, geozone: str) -> Reach:
    return ((f"zone:{geozone}", -100 * MILLION), (ANYWHERE, 0)) if geozone else ((ANYWHERE, 0),)


CODE: Final = Formula(
    load_weight=1, merit=_code_merit, most_merit=MILLION + MILLION // 2, homes=_code_homes, reaches=_code_reaches
)
"""1.0 on cogeneration + 0.5 above 0.8 of battery - 0.2 for every 10 ms of latency - load.

Source: ArcNet protocol, section 2.3 (scheduler of the first implementation).
"""

DOCUMENTS: Final = Formula(
    load_weight=30,
    merit=_documents_merit,
    most_merit=100 * MILLION,
    homes=_documents_homes,
    reaches=_documents_reaches,
)
"""100 in the same geozone + 50 on cogeneration + 30 of idleness + 20 of battery.

Source: ArcNet protocol, section 2.3 (formula of the documents).
"""

FORMULAS: Final = {"code": CODE, "documents": DOCUMENTS}
