"""The cluster: a dispatch table over the rules, and nothing else.

``handle`` decides and applies; ``answer`` reads. Neither waits, writes or knows the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from arcray.core import commands as cmd
from arcray.core.answers import answer
from arcray.core.errors import ArcrayError
from arcray.core.handlers import (
    cordons,
    dead_letters,
    drains,
    evictions,
    inference,
    models,
    nodes,
    quotas,
    recovery,
    scheduling,
    workloads,
)
from arcray.core.ids import WorkloadId
from arcray.core.model import Model
from arcray.core.node import Node
from arcray.core.orders import NodeOrder
from arcray.core.policy import ClusterPolicy
from arcray.core.queries import Answer, Query
from arcray.core.quota import AccountQuota
from arcray.core.state import ClusterState
from arcray.core.turn import Outcome, Turn
from arcray.core.workload import Workload

__all__ = ["Cluster"]


def _on_tick(turn: Turn, command: cmd.Tick) -> None:
    _ = command
    nodes.expire_leases(turn)
    inference.expire_inference(turn)
    evictions.stop_overtime(turn)
    drains.expire_drains(turn)
    if turn.state.pending.release_due(turn.now):
        turn.state.needs_round = True


_HANDLERS: Final[dict[type, Callable[[Turn, Any], cmd.Reply]]] = {
    cmd.SubmitWorkload: workloads.on_submit_workload,
    cmd.StopWorkload: workloads.on_stop_workload,
    cmd.ReportPhase: workloads.on_report_phase,
    cmd.ReportEnd: workloads.on_report_end,
    cmd.ReportTelemetry: nodes.on_report_telemetry,
    cmd.ReportModels: nodes.on_report_models,
    cmd.AttachNode: nodes.on_attach_node,
    cmd.DetachNode: nodes.on_detach_node,
    cmd.SetNodeScheduling: cordons.on_set_node_scheduling,
    cmd.DrainNode: drains.on_drain_node,
    cmd.LabelNode: cordons.on_label_node,
    cmd.SetQuota: quotas.on_set_quota,
    cmd.DiscardWorkload: dead_letters.on_discard_workload,
    cmd.RegisterModel: models.on_register_model,
    cmd.RemoveModel: models.on_remove_model,
    cmd.Schedule: scheduling.on_schedule,
    cmd.Tick: _on_tick,
}


class Cluster:
    """Decides for one cluster.

    Args:
        policy: limits and times.
        now: when this scheduler started; uptime counts from here.
    """

    def __init__(self, policy: ClusterPolicy, now: datetime) -> None:
        self.policy = policy
        self.state = ClusterState(policy, now)
        self._now = now

    @classmethod
    def restore(
        cls,
        policy: ClusterPolicy,
        *,
        nodes: Sequence[Node],
        workloads: Sequence[Workload],
        models: Sequence[Model],
        now: datetime,
        quotas: Sequence[AccountQuota] = (),
    ) -> Cluster:
        """Returns a cluster that goes on from rows: live workloads, the newest finished ones, every node and model."""
        cluster = cls(policy, now)
        cluster.state.restore(list(nodes), list(workloads), list(models), now, quotas)
        return cluster

    def handle(self, command: cmd.Command, now: datetime) -> Outcome:
        """Decides on a command and applies what follows.

        Args:
            now: the time in UTC; one that goes back counts as the newest so far.

        Raises:
            ArcrayError: the command is refused; the state is as before.
        """
        self._now = max(now, self._now)
        turn = Turn(self.state, self.policy, self._now)
        try:
            reply = _HANDLERS[type(command)](turn, command)
        except ArcrayError:
            assert not turn.events, "a handler refuses before its first event"
            raise
        if self.state.slots_freed:
            inference.dispatch_waiting(turn)
        if self.state.drains_to_check:
            drains.advance_drains(turn)
        return Outcome(reply=reply, events=tuple(turn.events), orders=tuple(turn.orders), awaits=turn.awaits)

    def undelivered(self) -> tuple[NodeOrder, ...]:
        """Returns the orders of every live attempt that its node may not have got, after a restart of the shell.

        Orders are delivered at least once, so one that its node has seen does no harm.
        """
        return recovery.undelivered(self.state, self.policy)

    def recall(self, workload: Workload) -> None:
        """Takes a finished workload back into memory from its row, so that the rules see what repeats it."""
        self.state.recall(workload)

    def retire(self, workload_ids: Iterable[WorkloadId], settled: Iterable[WorkloadId] = ()) -> None:
        """Lets go of finished workloads beyond the policy's limits; the shell names those that are in the rows now.

        Args:
            settled: dead letters whose rows say now that they are dealt with.
        """
        self.state.retire(workload_ids, settled)

    def answer(self, query: Query, now: datetime) -> Answer:
        """Answers from memory.

        Raises:
            NotFoundError: no such thing in memory; a finished workload may still be in the rows.
        """
        return answer(self.state, query, max(now, self._now))

    def next_due(self) -> datetime | None:
        """Returns when ``Tick`` has something to do; None when only a command can change that."""
        state = self.state
        dispatched = state.dispatched[0][0] if state.dispatched else None
        overtime = state.overtime[0][0] if state.overtime else None
        drained = drains.drains_due(state) if state.draining else None
        times = (
            state.leases.next_due(),
            state.waiting.next_due(),
            state.pending.next_due(),
            dispatched,
            overtime,
            drained,
        )
        return min((time for time in times if time is not None), default=None)

    @property
    def needs_round(self) -> bool:
        """Whether ``Schedule`` has something to do."""
        return self.state.needs_round
