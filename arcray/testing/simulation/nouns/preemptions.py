"""Preemptions: work that allows it is ended for more urgent work, whose place is kept from the first moment on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from arcray.core import events as ev
from arcray.core.claim import Cause, Claim, Eviction
from arcray.core.ids import WorkloadId
from arcray.testing.simulation.nouns.nodes import NodeFacts
from arcray.testing.simulation.nouns.workloads import WorkloadFacts
from arcray.testing.simulation.promise import must

__all__ = ["PreemptionFacts"]

_TO_BE_ENDED = ("placed", "pulling", "starting", "running")


class PreemptionFacts:
    """What is on disk of preemptions; it stands in the facts of the workloads that they are about."""

    def __init__(self, nodes: NodeFacts, workloads: WorkloadFacts) -> None:
        self._nodes = nodes
        self._workloads = workloads
        self._promised: dict[WorkloadId, set[WorkloadId]] = {}

    @property
    def takes(self) -> Mapping[type, Callable[[Any], None]]:
        """Returns what is done about which fact."""
        return {ev.WorkloadPreempted: self._preempted, ev.PlaceClaimed: self._claimed, ev.ClaimEnded: self._ended}

    def check(self) -> None:
        """Checks what must hold between transactions: nothing was ended for nobody."""
        must(not self._promised, f"no place is kept for {sorted(self._promised)}, for whom work is ended")

    def _preempted(self, event: ev.WorkloadPreempted) -> None:
        victim = self._workloads.at_attempt(event.workload_id, event.attempt)
        preemptor = self._workloads.not_ended(event.by)
        must(victim["phase"] in _TO_BE_ENDED, f"{event.workload_id} is preempted while {victim['phase']}")
        must(victim["spec"].preemptible, f"{event.workload_id} is preempted, and does not allow it")
        urgent, less = preemptor["spec"].priority, victim["spec"].priority
        must(urgent < less, f"{event.workload_id} of priority {less} is preempted for {event.by} of {urgent}")
        must(
            not preemptor["preemptions"], f"{event.workload_id} is preempted for {event.by}, which was preempted itself"
        )
        must(preemptor["spec"].gang is None, f"{event.workload_id} is preempted for a member of a gang")
        victim["preemptions"] += 1
        eviction = Eviction(reason=event.reason, by=event.by, cause=Cause.PREEMPTED)
        victim.update(phase="stopping", eviction=eviction)
        self._promised.setdefault(event.by, set()).add(event.workload_id)

    def _claimed(self, event: ev.PlaceClaimed) -> None:
        key = event.workload_id
        work, spec = self._workloads.not_ended(key), self._workloads.known[key]["spec"]
        must(work["phase"] == "pending" and work["claim"] is None, f"a place is kept for {key}, which has one")
        must(self._promised.pop(key, set()) == set(event.victims), f"{key} claims the places of {event.victims}")
        for victim in event.victims:
            node_id = self._workloads.known[victim]["node_id"]
            must(node_id == event.node_id, f"{victim} is ended on {node_id} for a place on {event.node_id}")
        self._nodes.check_takes(event.node_id, spec, event.allocation)
        self._workloads.check_asked(spec, event.allocation)
        self._workloads.check_quota(spec)
        work["claim"] = Claim(
            node_id=event.node_id, allocation=event.allocation, victims=event.victims, until=event.until
        )
        self._workloads.check_fits(event.node_id)

    def _ended(self, event: ev.ClaimEnded) -> None:
        work = self._workloads.not_ended(event.workload_id)
        must(work["claim"] is not None, f"no place was kept for {event.workload_id}")
        claim = work["claim"]  # those of an earlier one, which had its end, may end still
        evicted = ((key, self._workloads.known[key]["eviction"]) for key in claim.victims)
        left = [key for key, eviction in evicted if eviction is not None and eviction.by == event.workload_id]
        over = claim.until is not None and event.at >= claim.until
        must(over or not left, f"the place of {event.workload_id} is given up while {left} still end for it")
        self._workloads.end_claim(work)
