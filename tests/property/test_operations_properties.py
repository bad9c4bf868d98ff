"""The queue against a plain list, and operations in any order against what must always hold."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from arcray.core.commands import (
    DetachNode,
    DiscardWorkload,
    DrainNode,
    LabelNode,
    SetNodeScheduling,
    SetQuota,
)
from arcray.core.errors import ArcrayError
from arcray.core.ids import AccountId, WorkloadId
from arcray.core.labels import LabelOperator, LabelTerm
from arcray.core.node import Health
from arcray.core.pending import Lane, PendingQueue
from arcray.core.policy import ClusterPolicy
from arcray.core.quota import Quota, Usage
from arcray.core.resources import Demand
from arcray.core.workload import Origin, Phase, Priority, RestartPolicy, RestartRule
from arcray.testing.builders import T0, a_capacity, a_node, a_workload, node_id
from arcray.testing.world import World, candidates

ACCOUNTS = [AccountId(name) for name in ("ana", "bo", "cy")]


# -- the queue ---------------------------------------------------------------------------------------------------------


@dataclass
class Waiting:
    workload_id: WorkloadId
    priority: Priority
    request: str
    account: AccountId
    instead_of: WorkloadId | None
    blocked: bool = False


@dataclass
class PlainQueue:
    """One list in order of arrival."""

    waiting: list[Waiting] = field(default_factory=list)

    def heads(self) -> list[WorkloadId]:
        """The first candidate of every group."""
        seen: set[tuple[Priority, str]] = set()
        found = []
        for each in sorted(self.waiting, key=lambda each: each.priority):
            if not each.blocked and (each.priority, each.request) not in seen:
                seen.add((each.priority, each.request))
                found.append(each.workload_id)
        return found

    def ahead_of(self, one: Waiting) -> list[Waiting]:
        index = self.waiting.index(one)
        return [
            other
            for position, other in enumerate(self.waiting)
            if (other.priority, position) < (one.priority, index)
            and (not other.blocked or other.account == one.account)
        ]


arrivals = st.tuples(
    st.just("add"),
    st.sampled_from(Priority),
    st.sampled_from(["large", "small"]),
    st.sampled_from(ACCOUNTS),
    st.sampled_from([None, None, WorkloadId("old"), WorkloadId("older")]),
)
queue_steps = st.lists(
    st.one_of(
        arrivals,
        arrivals,
        st.tuples(st.just("remove"), st.integers(0, 40)),
        st.tuples(st.just("block"), st.integers(0, 40)),
        st.tuples(st.just("unblock"), st.sampled_from(ACCOUNTS)),
    ),
    max_size=40,
)


@given(queue_steps)
@settings(max_examples=300, deadline=None)
def test_queue_says_what_a_plain_list_says(history: list[tuple[Any, ...]]) -> None:
    queue, plain = PendingQueue(), PlainQueue()
    for number, (kind, *rest) in enumerate(history):
        ready = [each for each in plain.waiting if not each.blocked]
        if kind == "add":
            each = Waiting(WorkloadId(f"w{number:02}"), *rest)
            queue.add(each.workload_id, each.priority, each.request, None, Lane(each.account, each.instead_of))
            plain.waiting.append(each)
        elif kind == "unblock":
            (account,) = rest
            theirs = [each for each in plain.waiting if each.blocked and each.account == account]
            assert queue.unblock(account) == bool(theirs)
            for each in theirs:
                each.blocked = False
        elif kind == "remove" and plain.waiting:
            each = plain.waiting.pop(rest[0] % len(plain.waiting))
            queue.remove(each.workload_id)
        elif kind == "block" and ready:
            chosen = ready[rest[0] % len(ready)]
            queue.block(chosen.workload_id)
            for each in ready:  # its lane in its group stands aside
                each.blocked = each.blocked or _lane(each) == _lane(chosen)
        _check_queue(queue, plain)


def _lane(each: Waiting) -> tuple[Priority, str, AccountId, WorkloadId | None]:
    return each.priority, each.request, each.account, each.instead_of


def _check_queue(queue: PendingQueue, plain: PlainQueue) -> None:
    assert len(queue) == len(plain.waiting)
    assert queue.ready == sum(not each.blocked for each in plain.waiting)
    assert list(candidates(queue)) == plain.heads()
    for account in ACCOUNTS:
        assert queue.of_account(account) == sum(each.account == account for each in plain.waiting)
    for each in plain.waiting:
        assert queue.is_blocked(each.workload_id) == each.blocked
        ahead = plain.ahead_of(each)
        found = queue.ahead_of(each.workload_id, 3, each.account)
        assert found.total == len(ahead)
        assert found.alike == sum(other.request == each.request for other in ahead)
        own = [other for other in sorted(ahead, key=lambda other: other.priority) if other.account == each.account]
        assert found.first == tuple(other.workload_id for other in own[:3])


# -- operations --------------------------------------------------------------------------------------------------------

NODES, WORK = st.integers(1, 3), st.integers(1, 12)
GPUS = st.sampled_from([frozenset(), frozenset({0}), frozenset({0, 1})])
TERM = LabelTerm(key="zone", operator=LabelOperator.NOT_IN, values=("us",))
LIMITS = {ACCOUNTS[0]: Quota(workloads=2, gpus=2), ACCOUNTS[1]: Quota(cpu_milli=3000, pending=3)}  # never changed below
steps = st.lists(
    st.one_of(
        st.tuples(st.just("attach"), NODES),
        st.tuples(st.just("detach"), NODES),
        st.tuples(
            st.just("submit"),
            WORK,
            st.sampled_from(ACCOUNTS),
            st.integers(0, 2),
            st.sampled_from(RestartRule),
            st.booleans(),
        ),
        st.tuples(
            st.just("submit"),
            WORK,
            st.sampled_from(ACCOUNTS),
            st.just(1),
            st.just(RestartRule.ALWAYS),
            st.sampled_from([False]),
        ),
        st.tuples(st.just("run"), WORK),
        st.tuples(st.just("end"), WORK, st.sampled_from([Phase.SUCCEEDED, Phase.FAILED, Phase.STOPPED])),
        st.tuples(st.just("stop"), WORK),
        st.tuples(st.just("cordon"), NODES, GPUS, st.booleans()),
        st.tuples(st.just("drain"), NODES, GPUS, st.sampled_from([None, 0.0, 5.0])),
        st.tuples(st.just("label"), NODES, st.sampled_from(["eu", "us", None])),
        st.tuples(st.just("later"), st.sampled_from([1.0, 10.0, 100.0])),
        st.tuples(st.just("replay"), WORK, WORK),
        st.tuples(st.just("discard"), WORK),
        st.tuples(st.just("quota"), st.sampled_from([None, Quota(gpus=1)])),
        st.tuples(st.just("round")),
    ),
    max_size=50,
)


@given(steps)
@settings(max_examples=300, deadline=None)
def test_operations_in_any_order_keep_what_must_hold(history: list[tuple[Any, ...]]) -> None:
    world = World(ClusterPolicy(), T0)
    for account, quota in LIMITS.items():
        world.handle(SetQuota(account=account, quota=quota))
    for step in history:
        with suppress(ArcrayError):  # many are refused, which is none of the matter here
            _take(world, *step)
        world.run_round()
        _check(world)
    _check_recovery(world)


def _take(world: World, kind: str, *rest: Any) -> None:  # noqa: C901, PLR0912  one arm per step
    workload_id = a_workload(rest[0]).id if rest and isinstance(rest[0], int) else a_workload(0).id
    match kind, rest:
        case "attach", (number,):
            world.attach(a_node(number, capacity=a_capacity(cores=4, gpus=2)))
        case "detach", (number,):
            node = world.cluster.state.nodes.get(node_id(number))
            if node is not None:
                world.handle(DetachNode(node_id=node.id, epoch=node.epoch))
        case "submit", (number, account, gpus, rule, choosy):
            world.submit(
                a_workload(
                    number,
                    origin=Origin(facade="rest", account=account),
                    demand=Demand(cpu_milli=1000, gpus=gpus),
                    restart=RestartPolicy(rule=rule),
                    selector_terms=(TERM,) if choosy else (),
                    max_duration_s=50.0,
                )
            )
        case "run", _ if workload_id in world.cluster.state.workloads:
            if world.workload(workload_id).node_id is not None:
                world.report(world.workload(workload_id), Phase.RUNNING)
        case "end", (_, phase) if workload_id in world.cluster.state.workloads:
            if world.workload(workload_id).node_id is not None:
                world.report(world.workload(workload_id), phase)
        case "stop", _:
            world.stop(workload_id)
        case "cordon", (number, gpus, cordoned):
            world.handle(SetNodeScheduling(node_id=node_id(number), cordoned=cordoned, gpus=gpus))
        case "drain", (number, gpus, deadline_s):
            world.handle(DrainNode(node_id=node_id(number), gpus=gpus, deadline_s=deadline_s))
        case "label", (number, zone):
            world.handle(LabelNode(node_id=node_id(number), labels={"zone": zone}))
        case "later", (seconds,):
            world.later(seconds)
        case "replay", (number, other):
            of = a_workload(other)
            world.submit(a_workload(100 + number, replay_of=of.id, origin=Origin(facade="rest", account=ACCOUNTS[2])))
        case "discard", _:
            world.handle(DiscardWorkload(workload_id=workload_id))
        case "quota", (quota,):
            world.handle(SetQuota(account=ACCOUNTS[2], quota=quota))
        case _:
            pass


def _check(world: World) -> None:
    state = world.cluster.state
    state.check_invariants()
    for account, quota in LIMITS.items():
        held = state.usage.get(account, Usage())
        assert quota.workloads is None or held.workloads <= quota.workloads
        assert quota.cpu_milli is None or held.cpu_milli <= quota.cpu_milli
        assert quota.gpus is None or held.gpus <= quota.gpus
    for node in state.nodes.values():
        live = state.live_on(node.id)
        if node.drain is not None and node.drain.done_at is not None:
            left = [w for w in live if w.allocation and any(s.index in node.drain.gpus for s in w.allocation.gpus)]
            assert left == []
            assert node.drain.gpus or live == []
        if node.health in (Health.LOST, Health.GONE):
            assert live == []
    for workload in state.workloads.values():
        assert (workload.eviction is None) or workload.phase in (
            Phase.STOPPING,
            Phase.FAILED,
            Phase.STOPPED,
            Phase.SUCCEEDED,
        )
        if workload.replayed_by is not None:
            assert state.workloads[workload.replayed_by].spec.replay_of == workload.id
            assert not workload.dead


def _check_recovery(world: World) -> None:
    """What a scheduler that starts on the rows knows is what this one knows."""
    state = world.cluster.state
    recovered = world.recovered().cluster.state
    assert (recovered.usage, recovered.quotas) == (state.usage, state.quotas)
    assert set(recovered.draining) == set(state.draining)
    assert len(recovered.pending) == len(state.pending)
