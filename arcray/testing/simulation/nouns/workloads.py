"""Workloads: accepted once, placed, run, requeued, ended exactly once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from arcray.core import events as ev
from arcray.core.claim import Eviction
from arcray.core.ids import AccountId, NodeId, WorkloadId
from arcray.core.policy import ClusterPolicy
from arcray.core.resources import NO_DEMAND, Allocation, Demand
from arcray.core.workload import Inference, Workload, WorkloadSpec
from arcray.testing.simulation.nouns.nodes import NodeFacts
from arcray.testing.simulation.nouns.quotas import QuotaFacts
from arcray.testing.simulation.nouns.reservations import ReservationFacts
from arcray.testing.simulation.promise import must

__all__ = ["WorkloadFacts", "result_mark"]

_ENDS: Final = ("succeeded", "failed", "stopped", "rejected")
_ON_NODE: Final = ("placed", "pulling", "starting", "running", "stopping")
_ORDER: Final = ("placed", "pulling", "starting", "running")
_REST_S: Final = ClusterPolicy().restart_rest.total_seconds()
_GANG_STARTS: Final = ClusterPolicy().gang_starts


class WorkloadFacts:
    """What is on disk of workloads: a dictionary of dictionaries, written by facts and nothing else.

    Attributes:
        known: the fields of ``Workload`` by their names, of every workload.
    """

    def __init__(self, nodes: NodeFacts, quotas: QuotaFacts, reservations: ReservationFacts) -> None:
        self.known: dict[WorkloadId, dict[str, Any]] = {}
        self._nodes = nodes
        self._quotas = quotas
        self._reservations = reservations
        self._kept: set[WorkloadId] = set()  # whose place was kept until now, in this transaction

    @property
    def takes(self) -> Mapping[type, Callable[[Any], None]]:
        """Returns what is done about which fact."""
        return {
            ev.WorkloadSubmitted: self._submitted,
            ev.WorkloadPlaced: self._placed,
            ev.WorkloadPhaseChanged: self._phase_changed,
            ev.WorkloadStopRequested: self._stop_requested,
            ev.WorkloadEvicted: self._evicted,
            ev.WorkloadRequeued: self._requeued,
            ev.WorkloadSettled: self._settled,
            ev.WorkloadFinished: self._finished,
            ev.ReservationGranted: self._reserved,
        }

    def live(self) -> list[WorkloadId]:
        """Returns what has not ended."""
        return [key for key, work in self.known.items() if work["phase"] not in _ENDS]

    def is_over(self, workload_id: WorkloadId, attempt: int) -> bool:
        """Returns whether an attempt has ended or was given up."""
        work = self.known.get(workload_id)
        return work is not None and (work["attempt"] > attempt or work["phase"] not in _ON_NODE)

    def check(self) -> None:
        """Checks what must hold between transactions: nothing is held on a node that was lost or left."""
        for key, work in self.known.items():
            if work["phase"] in _ON_NODE:
                health = self._nodes.known[work["node_id"]]["health"]
                must(health == "healthy", f"{key} is {work['phase']} on a node that is {health}")
            taking = work["spec"].reservation_id is not None and work["phase"] == "pending"
            must(not taking or work["attempt"], f"{key} waits, and was to take its place out of a reservation")
        self._kept.clear()

    def compare(self, workload: Workload, where: str) -> None:
        """Checks that a workload is what the facts say of it."""
        facts = self.known.get(workload.spec.id)
        if facts is None:
            raise AssertionError(f"compare {workload.spec.id} only when it is known")
        for name, value in facts.items():
            found = getattr(workload, name)
            if name == "result" and found is not None and workload.spec.waiting:
                found = replace(found, output=None)  # it went to the sender and is not kept
            must(found == value, f"{workload.spec.id}: {name} is {found!r} in {where}, and {value!r} by the facts")

    def check_quota(self, spec: WorkloadSpec, *, taken: bool = False) -> None:
        """Checks that an account may hold one more; what takes the place of a live copy needs no room of its own."""
        account = spec.origin.account
        if self._replaced_by(spec) is not None:
            return
        demands = [*self._demands_of(account), spec.demand]
        # What it takes of a reservation is counted there, all but that it is one workload more.
        asked = NO_DEMAND if taken else spec.demand
        self._check_sums(spec.id, account, demands, asked, workloads=1)

    def _check_sums(
        self, who: str, account: AccountId, demands: Sequence[Demand], asked: Demand, *, workloads: int
    ) -> None:
        """Checks that what an account holds is within its quota, as far as more of it was asked for."""
        quota = self._quotas.known.get(account)
        if quota is None:
            return
        reserved = self._reservations.held_by(account)
        cpu_milli = sum(each.cpu_milli for each in demands) + sum(each.cpu_milli for each in reserved)
        gpus = sum(each.gpus for each in demands) + sum(len(each.gpus) for each in reserved)
        for what, limit, sum_of, more in (
            ("workloads", quota.workloads, len(demands), workloads),
            ("processors", quota.cpu_milli, cpu_milli, asked.cpu_milli),
            ("GPUs", quota.gpus, gpus, asked.gpus),
        ):
            must(limit is None or not more or sum_of <= limit, f"{who}: {account} holds {sum_of} {what} of {limit}")

    def _demands_of(self, account: AccountId) -> list[Demand]:
        return [
            work["spec"].demand
            for work in self.known.values()
            if (work["allocation"] is not None or work["claim"] is not None)
            and work["spec"].origin.account == account
            and not isinstance(work["spec"].payload, Inference)
        ]

    # -- facts ---------------------------------------------------------------------------------------------------

    def _begin(self, spec: WorkloadSpec) -> dict[str, Any]:
        must(spec.id not in self.known, f"{spec.id} is accepted once")
        work = self.known[spec.id] = {
            "spec": spec,
            "phase": "pending",
            "attempt": 0,
            "restarts": 0,
            "streak": 0,
            "refusals": 0,
            "eviction": None,
            "replayed_by": None,
            "discarded": False,
            "node_id": None,
            "allocation": None,
            "message": "",
            "result": None,
            "placed_at": None,
            "started_at": None,
            "finished_at": None,
            "stop_requested": False,
            "stop_reason": "",
            "meter": None,
            "preemptions": 0,
            "claim": None,
            "not_before": None,
            "ports": (),
        }
        return work

    def _submitted(self, event: ev.WorkloadSubmitted) -> None:
        key = event.spec.request_id
        if key:
            same = [
                work["spec"].id
                for work in self.known.values()
                if (work["spec"].origin.account, work["spec"].request_id) == (event.spec.origin.account, key)
                and not (work["spec"].waiting and work["phase"] == "rejected")  # its sender was told to try again
            ]
            must(not same, f"{event.spec.id} is accepted under {key}, which is the key of {same}")
        self._begin(event.spec)

    def _placed(self, event: ev.WorkloadPlaced) -> None:
        work = self.not_ended(event.workload_id)
        spec = work["spec"]
        must(work["phase"] == "pending", f"{spec.id} is placed while {work['phase']}")
        must(event.attempt == work["attempt"] + 1, f"{spec.id}: attempt {event.attempt} follows {work['attempt']}")
        must(work["claim"] is None, f"{spec.id} is placed, and another place is kept for it")
        must(work["not_before"] is None or event.at >= work["not_before"], f"{spec.id} is placed before its back-off")
        must(spec.node_id in (None, event.node_id), f"{spec.id} is placed beside the only node that it may have")
        self._nodes.check_takes(event.node_id, spec, event.allocation)
        taken = spec.reservation_id is not None and event.attempt == 1
        if taken:
            self._reservations.check_takes(spec, event)
        if not isinstance(spec.payload, Inference):
            if spec.id not in self._kept:  # its place counted before, and the quota may be another one by now
                self.check_quota(spec, taken=taken)
            self.check_asked(spec, event.allocation)
        self._kept.discard(spec.id)
        work.update(
            phase="placed",
            attempt=event.attempt,
            node_id=event.node_id,
            allocation=event.allocation,
            placed_at=event.at,
            started_at=None,
            not_before=None,
        )
        self.check_fits(event.node_id)

    def check_asked(self, spec: WorkloadSpec, got: Allocation) -> None:
        """Checks that work gets what it asked for."""
        wanted = spec.demand
        must(
            (got.cpu_milli, got.memory_bytes, len(got.gpus)) == (wanted.cpu_milli, wanted.memory_bytes, wanted.gpus),
            f"{spec.id} gets {got}, and asked for {wanted}",
        )

    def check_fits(self, node_id: NodeId) -> None:
        """Checks that a node has all that is held of it, by work and for it, now and once those preempted are gone."""
        here = [work for work in self.known.values() if work["allocation"] and work["node_id"] == node_id]
        reserved = self._reservations.held_on(node_id)
        self._nodes.check_fits(node_id, [work["allocation"] for work in here] + reserved)
        claims = [
            work["claim"].allocation
            for work in self.known.values()
            if work["claim"] is not None and work["claim"].node_id == node_id
        ]
        if claims:
            staying = [each["allocation"] for each in here if each["eviction"] is None or each["eviction"].by is None]
            self._nodes.check_fits(node_id, staying + claims + reserved)

    def end_claim(self, work: dict[str, Any]) -> None:
        """Takes that a place is kept no longer, for it is given or given up."""
        work["claim"] = None
        self._kept.add(work["spec"].id)

    def _reserved(self, event: ev.ReservationGranted) -> None:
        for part in event.reservation.granted:
            self.check_fits(part.node_id)
            held, account = part.allocation, event.reservation.account
            asked = Demand(cpu_milli=held.cpu_milli, memory_bytes=held.memory_bytes, gpus=len(held.gpus))
            self._check_sums(event.reservation_id, account, self._demands_of(account), asked, workloads=0)

    def _phase_changed(self, event: ev.WorkloadPhaseChanged) -> None:
        work = self.at_attempt(event.workload_id, event.attempt)
        must(
            work["phase"] in _ORDER and _ORDER.index(event.phase) > _ORDER.index(work["phase"]),
            f"{event.workload_id} goes from {work['phase']} to {event.phase}",
        )
        work.update(phase=event.phase, message=event.message, ports=event.ports or work["ports"])
        if event.phase == "running":
            work["started_at"] = event.at

    def _stop_requested(self, event: ev.WorkloadStopRequested) -> None:
        work = self.not_ended(event.workload_id)
        asked = work["phase"] == "stopping" and work["eviction"] is not None and not work["stop_requested"]
        must(work["phase"] in _ORDER or asked, f"{event.workload_id} is asked to stop while {work['phase']}")
        work.update(phase="stopping", stop_requested=True, stop_reason=event.reason)

    def _evicted(self, event: ev.WorkloadEvicted) -> None:
        work = self.at_attempt(event.workload_id, event.attempt)
        known, gang = work["eviction"], event.cause == "gang"
        told_more = gang and known is not None and event.fails and not known.fails
        must(work["phase"] in _ORDER or told_more, f"{event.workload_id} is evicted while {work['phase']}")
        must(not gang or work["spec"].gang is not None, f"{event.workload_id} is in no gang, and evicted with it")
        must(gang or not event.restart, f"{event.workload_id}: what the cluster does counts as a restart")
        if event.cause == "overtime":
            longest, began = work["spec"].max_duration_s, work["started_at"]
            must(longest is not None, f"{event.workload_id} is evicted for a time that it never had")
            must((event.at - began).total_seconds() > longest, f"{event.workload_id} is evicted before its time")
        elif event.cause == "drain":
            self._nodes.check_drained(work["node_id"], event.workload_id)
        eviction = Eviction(reason=event.reason, restart=event.restart, fails=event.fails, cause=event.cause)
        work.update(phase="stopping", eviction=eviction)

    def _replaced_by(self, spec: WorkloadSpec) -> dict[str, Any] | None:
        """Returns the copy of a model that another one is to replace, unless it has ended."""
        replaced = self.known.get(spec.replaces) if spec.replaces is not None else None
        if replaced is None or replaced["phase"] not in _ENDS:
            return replaced
        return self._replaced_by(replaced["spec"])  # it may have been to replace another one itself

    def _check_alone(self, workload_id: WorkloadId) -> None:
        """Checks that nothing that was begun to take the place of a copy goes on beside it."""
        work = self.known[workload_id]
        for other_id, other in self.known.items():
            if other["phase"] not in _ENDS and not other["stop_requested"]:
                must(self._replaced_by(other["spec"]) is not work, f"{workload_id} goes on beside {other_id}")

    def _requeued(self, event: ev.WorkloadRequeued) -> None:
        work = self.at_attempt(event.workload_id, event.attempt)
        eviction = work["eviction"]
        must(
            work["phase"] in _ORDER or (eviction is not None and not eviction.fails),
            f"{event.workload_id} is requeued while {work['phase']}",
        )
        must(not work["stop_requested"], f"{event.workload_id} is requeued, and was to stop")
        work["restarts"] += 1 if event.restart else 0
        work["streak"] = (0 if event.rested else work["streak"]) + (1 if event.restart else 0)
        refused = event.refused or event.gang_refused
        must(not event.gang_refused or work["spec"].gang is not None, f"{event.workload_id} is in no gang")
        work["refusals"] = work["refusals"] + 1 if refused else 0
        policy = work["spec"].restart
        if event.rested:
            ran_s = 0.0 if work["started_at"] is None else (event.at - work["started_at"]).total_seconds()
            must(ran_s >= _REST_S, f"{event.workload_id} is said to have run long, and ran {ran_s} s")
        self._check_alone(event.workload_id)
        replaced = self._replaced_by(work["spec"])
        if replaced is not None and replaced["phase"] != "stopping":
            pass  # whatever its policy, for as long as a drain waits for it
        elif eviction is not None and eviction.cause == "preempted":
            must(not event.restart, f"{event.workload_id} was preempted, and that counts as a restart")
        elif work["spec"].gang is not None:
            most = max(_GANG_STARTS, policy.max_restarts if policy.rule == "on_failure" else 0)
            must(work["streak"] <= most, f"{event.workload_id} is restarted with its gang too often")
        else:
            again = event.restart or eviction is not None
            must(not again or policy.rule != "never", f"{event.workload_id} is restarted against its policy")
            must(not event.restart or work["streak"] <= policy.max_restarts, f"{event.workload_id} restarts too often")
        work.update(
            phase="pending",
            eviction=None,
            node_id=None,
            allocation=None,
            message=event.reason,
            ports=(),
            not_before=event.not_before if event.not_before > event.at else None,
        )

    def _finished(self, event: ev.WorkloadFinished) -> None:
        if event.spec is not None:  # of a request whose sender waits, this is the first that is written
            work = self._begin(event.spec)
            work.update(
                attempt=event.attempt, node_id=event.node_id, placed_at=event.placed_at, started_at=event.started_at
            )
        work = self.not_ended(event.workload_id)
        must(event.phase in _ENDS, f"{event.workload_id} ends as {event.phase}")
        must(event.attempt == work["attempt"], f"{event.workload_id} ends by an attempt that is not its last")
        must(event.node_id == work["node_id"], f"{event.workload_id} ends on a node where it is not")
        marks = () if event.result is None else event.result.blobs
        must(
            all(mark == result_mark(event.workload_id, event.attempt, str(event.node_id)) for mark in marks),
            f"{event.workload_id}: attempt {event.attempt} on {event.node_id} ends with the result of {marks}",
        )
        times = [time for time in (work["placed_at"], work["started_at"], event.at) if time is not None]
        must(times == sorted(times), f"{event.workload_id} was placed, started and ended at {times}")
        work.update(
            phase=event.phase,
            message=event.message,
            result=event.result,
            finished_at=event.at,
            allocation=None,
            eviction=None,
            claim=None,
        )

    def _settled(self, event: ev.WorkloadSettled) -> None:
        work = self.known.get(event.workload_id)
        must(work is not None, f"{event.workload_id} is dealt with, and was never accepted")
        assert work is not None
        must(work["phase"] in ("failed", "rejected"), f"{event.workload_id} is dealt with while {work['phase']}")
        must(not work["discarded"] and work["replayed_by"] is None, f"{event.workload_id} is dealt with twice")
        if event.replayed_by is not None:
            again = self.known.get(event.replayed_by)
            must(
                again is not None and again["spec"].replay_of == event.workload_id,
                f"{event.workload_id} is replayed by {event.replayed_by}, which is no replay of it",
            )
        work.update(replayed_by=event.replayed_by, discarded=event.replayed_by is None)

    def not_ended(self, workload_id: WorkloadId) -> dict[str, Any]:
        """Returns a workload about which there may be further facts."""
        work = self.known.get(workload_id)
        if work is None:
            must(False, f"{workload_id} was never accepted")  # noqa: FBT003 - must never happen
            raise AssertionError
        must(work["phase"] not in _ENDS, f"{workload_id} has ended as {work['phase']}, and nothing follows that")
        return work

    def at_attempt(self, workload_id: WorkloadId, attempt: int) -> dict[str, Any]:
        """Returns a workload about whose present attempt there may be further facts."""
        work = self.not_ended(workload_id)
        must(
            attempt == work["attempt"], f"{workload_id}: a fact of attempt {attempt}, the present is {work['attempt']}"
        )
        return work


def result_mark(workload_id: WorkloadId, attempt: int, node_id: str) -> str:
    """Returns what a simulated machine writes into the result of an attempt."""
    return f"{workload_id}/{attempt}/{node_id}"
