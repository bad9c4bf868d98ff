"""Dead letters: what is one, and that it is dealt with once."""

from __future__ import annotations

from typing import Any

import pytest

from arcray.core import events as ev
from arcray.core.commands import DiscardWorkload, ReportEnd, Submitted
from arcray.core.errors import ConflictError, IdempotencyMismatchError, NotFoundError
from arcray.core.ids import AccountId
from arcray.core.policy import ClusterPolicy
from arcray.core.queries import ListWorkloads, WorkloadPage
from arcray.core.workload import Origin, PayloadKind, Phase, WorkloadSpec
from arcray.testing.builders import T0, a_workload, an_inference, node_id
from arcray.testing.world import World

W1, W2 = a_workload(1).id, a_workload(2).id
ALL = frozenset(PayloadKind)


def dead(world: World) -> list[str]:
    page = world.cluster.answer(ListWorkloads(kinds=ALL, dead=True), world.now)
    assert isinstance(page, WorkloadPage)
    return [view.spec.id for view in page.workloads]


def failed(world: World, number: int = 1) -> None:
    if not world.cluster.state.nodes:
        world.attach()
    world.submit(a_workload(number))
    world.report(world.workload(a_workload(number).id), Phase.FAILED, message="exit 1")


def a_replay(number: int = 2, of: int = 1, **fields: Any) -> WorkloadSpec:
    return a_workload(number, replay_of=a_workload(of).id, **fields)


def test_work_that_failed_for_good_is_a_dead_letter_and_work_that_ended_well_is_not(world: World) -> None:
    failed(world)
    world.submit(a_workload(2))
    world.succeed(world.workload(W2))
    assert dead(world) == [W1]


def test_work_that_its_owner_stopped_is_none(world: World) -> None:
    world.submit(a_workload(1))
    world.stop(W1)
    assert dead(world) == []


def test_a_request_that_nobody_could_take_is_one_unless_its_sender_waited(world: World) -> None:
    world.submit(a_workload(1, an_inference()))
    world.submit(a_workload(2, an_inference(), waiting=True))
    world.later(1)
    assert world.workload(W2).phase is Phase.REJECTED
    assert dead(world) == [W1]


def test_a_replay_settles_its_dead_letter(world: World) -> None:
    failed(world)
    outcome = world.submit(a_replay())
    assert [type(event) for event in outcome.events[:2]] == [ev.WorkloadSubmitted, ev.WorkloadSettled]
    assert all(event.durable for event in outcome.events)
    assert (world.workload(W1).replayed_by, world.workload(W2).spec.replay_of) == (W2, W1)
    assert dead(world) == []


def test_a_replay_that_fails_is_a_dead_letter_of_its_own(world: World) -> None:
    failed(world)
    world.submit(a_replay())
    world.report(world.workload(W2), Phase.FAILED)
    assert dead(world) == [W2]


def test_the_same_replay_again_is_the_same_workload(world: World) -> None:
    failed(world)
    world.submit(a_replay(request_id="k", request_digest="d"))
    reply = world.submit(a_replay(3, request_id="k", request_digest="d")).reply
    assert isinstance(reply, Submitted)
    assert (reply.workload_id, reply.created) == (W2, False)
    with pytest.raises(IdempotencyMismatchError):
        world.submit(a_replay(3, request_id="k", request_digest="other"))


def test_a_dead_letter_is_replayed_once(world: World) -> None:
    failed(world)
    world.submit(a_replay())
    with pytest.raises(ConflictError, match=f"was replayed as {W2}"):
        world.submit(a_replay(3))


@pytest.mark.parametrize("end", [Phase.SUCCEEDED, Phase.STOPPED, None])
def test_what_is_no_dead_letter_is_neither_replayed_nor_discarded(world: World, end: Phase | None) -> None:
    world.attach()
    world.submit(a_workload(1))
    if end is Phase.STOPPED:
        world.stop(W1)
    if end is not None:
        world.report(world.workload(W1), end)
    with pytest.raises(ConflictError):
        world.submit(a_replay())
    with pytest.raises(ConflictError):
        world.handle(DiscardWorkload(workload_id=W1))


def test_a_dead_letter_of_another_account_is_unknown(world: World) -> None:
    failed(world)
    other = AccountId("other")
    with pytest.raises(NotFoundError):
        world.submit(a_replay(origin=Origin(facade="rest", account=other)))
    with pytest.raises(NotFoundError):
        world.handle(DiscardWorkload(workload_id=W1, account=other))


def test_a_discarded_dead_letter_is_off_the_list_and_its_record_stays(world: World) -> None:
    failed(world)
    assert len(world.handle(DiscardWorkload(workload_id=W1)).events) == 1
    assert world.handle(DiscardWorkload(workload_id=W1)).events == ()
    assert dead(world) == []
    assert world.workload(W1).phase is Phase.FAILED
    with pytest.raises(ConflictError, match="discarded"):
        world.submit(a_replay())


def test_a_request_whose_sender_waited_may_be_replayed_because_its_input_is_kept(world: World) -> None:
    world.submit(a_workload(1, an_inference(input=b'"x"'), waiting=True))
    world.later(1)
    world.attach()
    world.load(node_id(1))
    world.submit(a_workload(2, an_inference(input=b'"x"'), replay_of=W1))
    assert world.workload(W2).phase is Phase.PLACED


def test_a_dead_letter_is_not_let_go_of_before_its_row_says_that_it_is_settled() -> None:
    world = World(ClusterPolicy(keep_finished=1), T0)
    failed(world)
    outcome = world.cluster.handle(DiscardWorkload(workload_id=W1), world.now)
    assert [type(event) for event in outcome.events] == [ev.WorkloadSettled]
    failed(world, 2)
    failed(world, 3)
    assert W1 in world.cluster.state.workloads
    world.cluster.retire([], [W1])
    failed(world, 4)
    failed(world, 5)
    assert W1 not in world.cluster.state.workloads


def test_a_dead_letter_that_is_settled_while_its_end_is_being_written_is_let_go_of_once() -> None:
    world = World(ClusterPolicy(keep_finished=0), T0)
    world.attach()
    world.submit(a_workload(1))
    work = world.workload(W1)
    end = ReportEnd(node_id=node_id(1), epoch=1, workload_id=W1, attempt=work.attempt, phase=Phase.FAILED)
    world.cluster.handle(end, world.now)
    world.cluster.handle(DiscardWorkload(workload_id=W1), world.now)
    world.cluster.retire([W1])
    assert W1 in world.cluster.state.workloads
    world.cluster.retire([], [W1])
    assert W1 not in world.cluster.state.workloads
