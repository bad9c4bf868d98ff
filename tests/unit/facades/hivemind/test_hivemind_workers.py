"""Workers to nodes and back: what they are, how they do, what they earn."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from arcray.core import commands as cmd
from arcray.core.errors import InvalidArgumentError
from arcray.core.ids import AccountId, EntryId
from arcray.core.node import DriverCapabilities, Health, NodeView
from arcray.core.quantity import GIB
from arcray.core.queries import GetNode, GetWorkload
from arcray.core.resources import Capacity, Gpu
from arcray.core.workload import Phase, WorkloadView
from arcray.facades.hivemind import tasks, workers
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.own_words import gpus_of, saying_gpus
from arcray.testing.builders import T0, a_capacity, a_node
from arcray.testing.world import World

ANA = AccountId("ana")


def sample(**fields: Any) -> pool.RegisterWorkerNodeRequest:
    """The document's worker."""
    given: dict[str, Any] = {
        "node_id": "worker-001", "hostname": "192.168.1.100", "cpu_cores": 8, "memory_gb": 16, "cpu_score": 1000,
        "gpu_score": 2000, "gpu_memory_gb": 8, "location": "Asia/Taipei", "port": 50052, "gpu_name": "RTX 4090",
        "trust_level": 100, "last_heartbeat": 1640995200.0, "docker_status": "enabled",
    }  # fmt: skip
    return pool.RegisterWorkerNodeRequest(**(given | fields))


def attached(world: World, owner: AccountId | None = None, **fields: Any) -> NodeView:
    registration = workers.reached(workers.registration_of(sample(**fields), owner=owner))
    world.attach(registration)
    found = world.cluster.answer(GetNode(node_id=registration.id), world.now)
    assert isinstance(found, NodeView)
    return found


def test_the_documents_worker_is_a_node_that_takes_programs() -> None:
    registration = workers.registration_of(sample(), owner=None)
    assert registration.capacity == Capacity(
        cpu_milli=10_000, memory_bytes=16 * GIB, gpus=(Gpu(index=0, memory_bytes=8 * GIB, name="RTX 4090"),)
    )
    assert (registration.hostname, registration.external_id) == ("192.168.1.100", "worker-001")
    assert registration.owner is None


def test_a_worker_takes_programs_once_it_was_reached() -> None:
    registration = workers.registration_of(sample(), owner=None)
    assert registration.capabilities == DriverCapabilities()
    assert not workers.was_reached(registration)
    assert workers.was_reached(workers.reached(registration))


def test_those_speak_for_a_worker_who_own_or_registered_it() -> None:
    assert workers.speakers_of(workers.registration_of(sample(), owner=None)) == frozenset()
    registration = workers.registration_of(sample(), owner=ANA, speaker=AccountId("bo"))
    assert workers.speakers_of(registration) == {"ana", "bo"}


def test_cores_count_where_there_is_no_score() -> None:
    assert workers.registration_of(sample(cpu_score=0), owner=None).capacity.cpu_milli == 8_000
    assert workers.registration_of(sample(cpu_cores=0), owner=None).capacity.cpu_milli == 10_000


@pytest.mark.parametrize(
    ("trust", "docker", "tier"), [(100, "enabled", 0), (60, "available", 1), (49, "", 2), (100, "disabled", 2)]
)
def test_a_worker_that_is_trusted_less_is_chosen_later(trust: int, docker: str, tier: int) -> None:
    assert workers.registration_of(sample(trust_level=trust, docker_status=docker), owner=None).tier == tier
    assert workers.registration_of(sample(trust_level=-5, docker_status="enabled"), owner=ANA).tier == 0


def test_a_worker_of_arcrays_offers_all_of_its_gpus() -> None:
    gpus = tuple(Gpu(index=index, memory_bytes=8 * GIB, name="RTX 4090") for index in range(4))
    registration = workers.registration_of(sample(), owner=None, gpus=gpus_of(saying_gpus(gpus)))
    assert registration.capacity.gpus == gpus
    assert registration.labels["hivemind/gpu"] == "rtx-4090"
    mixed = (*gpus, Gpu(index=4, memory_bytes=GIB, name="T4"))
    assert "hivemind/gpu" not in workers.registration_of(sample(), owner=None, gpus=mixed).labels
    assert workers.registration_of(sample(), owner=None, gpus=()).capacity.gpus == ()


@pytest.mark.parametrize(
    "told", ["", "{}", "[1]", "[[1, 2]]", '[["a", -1]]', '[["a", true]]', '[["a", 1e3]]', '[["a"]]', "[" * 4000, "null",
             '[["a\\u0000", 1]]', str([["a", 1]] * 65).replace("'", '"')],
)  # fmt: skip
def test_what_are_no_gpus_is_refused_by_name(told: str) -> None:
    with pytest.raises(InvalidArgumentError, match="arcray-gpus: "):
        gpus_of({"arcray-gpus": told})


def test_a_worker_without_a_gpu_has_none_whatever_it_calls_it() -> None:
    registration = workers.registration_of(sample(gpu_score=0, gpu_memory_gb=0, gpu_name="N/A"), owner=None)
    assert registration.capacity.gpus == ()


@pytest.mark.parametrize(
    ("hostname", "address"),
    [
        ("127.0.0.1", "127.0.0.1:50052"),
        ("::1", "[::1]:50052"),
        ("fe80::1%eth0", "[fe80::1%eth0]:50052"),
        ("localhost", "localhost:50052"),
        ("gpu-3.lab.example.", "gpu-3.lab.example.:50052"),
    ],
)
def test_workers_are_dialled_where_they_say(hostname: str, address: str) -> None:
    registration = workers.registration_of(sample(hostname=hostname), owner=None, address="gateway.1")
    assert workers.dial_address_of(registration) == address
    assert registration.address == "gateway.1"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"node_id": ""}, "node_id"),
        ({"node_id": "n\0"}, "node_id"),
        ({"hostname": ""}, "hostname"),
        ({"hostname": "unix:/run/x"}, "hostname"),
        ({"hostname": "a b"}, "hostname"),
        ({"hostname": "-a"}, "hostname"),
        ({"hostname": "fe80::1%" + "a" * 16}, "hostname"),
        ({"hostname": "fe80::1%eth0\n"}, "hostname"),
        ({"hostname": "fe80::1%\0"}, "hostname"),
        ({"hostname": "a." * 127 + "a"}, "hostname"),
        ({"port": 0}, "port"),
        ({"port": 65_536}, "port"),
        ({"cpu_cores": -1}, "cpu_cores"),
        ({"cpu_cores": 0, "cpu_score": 0}, "cpu_cores"),
        ({"cpu_score": -5}, "cpu_score"),
        ({"gpu_score": -5}, "gpu_score"),
        ({"memory_gb": -1}, "memory_gb"),
        ({"memory_gb": 2**31 - 1}, "memory_gb"),
        ({"gpu_memory_gb": -1}, "gpu_memory_gb"),
        ({"location": "x" * 257}, "location"),
        ({"docker_status": "\0"}, "docker_status"),
    ],
)
def test_what_no_worker_can_be_is_refused_by_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        workers.registration_of(sample(**fields), owner=None)
    assert caught.value.field == field


def test_lists_show_a_worker_as_it_registered_but_for_its_heartbeat(world: World) -> None:
    shown = workers.node_info(attached(world))
    wanted = pool.WorkerNodeInfo.FromString(sample(last_heartbeat=T0.timestamp()).SerializeToString())
    assert shown == wanted


def test_an_operators_labels_do_not_change_what_is_shown(world: World) -> None:
    view = attached(world)
    relabelled = cmd.LabelNode(node_id=view.registration.id, labels={"hivemind/cpu-score": "odd"})
    world.handle(relabelled)
    again = world.cluster.answer(GetNode(node_id=view.registration.id), world.now)
    assert isinstance(again, NodeView)
    assert workers.node_info(again).cpu_score == 1000


def test_other_nodes_are_listed_where_that_is_wanted(world: World) -> None:
    worker = attached(world)
    other = a_node(2, capacity=a_capacity(cores=8, memory_gib=32, gpus=2), hostname="gpu-2")
    world.attach(other)
    found = world.cluster.answer(GetNode(node_id=other.id), world.now)
    assert isinstance(found, NodeView)
    listed = workers.node_list([worker, found], world.now, others=True).nodes
    assert [node.node_id for node in listed] == ["worker-001", other.id]
    assert (listed[1].cpu_cores, listed[1].cpu_score, listed[1].memory_gb) == (8, 800, 32)
    assert (listed[1].gpu_name, listed[1].gpu_memory_gb, listed[1].trust_level) == ("NVIDIA H200", 160, 100)
    assert len(workers.node_list([worker, found], world.now, others=False).nodes) == 1


def test_a_silent_worker_is_offline_after_30_s_and_not_listed(world: World) -> None:
    view = attached(world)
    assert workers.health_answer(view, T0 + timedelta(seconds=30)).status == "healthy"
    late = T0 + timedelta(seconds=31)
    assert workers.health_answer(view, late).status == "offline"
    assert not workers.node_list([view], late, others=True).nodes
    world.later(31.0)
    lost = world.cluster.answer(GetNode(node_id=view.registration.id), world.now)
    assert isinstance(lost, NodeView)
    assert lost.health is Health.LOST
    assert workers.health_answer(lost, T0).status == "offline"
    assert workers.health_answer(None, T0).status == "not_found"


def test_a_reading_is_shares_of_what_there_is() -> None:
    registration = workers.registration_of(sample(), owner=None)
    request = pool.RunningStatusRequest(cpu_usage=75, memory_usage=50, gpu_usage=250, gpu_memory_usage=25)
    reading = workers.reading_of(request, registration, T0)
    assert (reading.cpu_utilization, reading.memory_used_bytes) == (0.75, 8 * GIB)
    assert (reading.gpus[0].utilization, reading.gpus[0].memory_used_bytes) == (1.0, 2 * GIB)


@pytest.mark.parametrize("field", ["cpu_usage", "memory_usage", "gpu_usage", "gpu_memory_usage"])
def test_a_negative_reading_is_refused_by_field(field: str) -> None:
    registration = workers.registration_of(sample(), owner=None)
    request = pool.RunningStatusRequest(**{field: -1})  # type: ignore[arg-type]  # one field by its name
    with pytest.raises(InvalidArgumentError) as caught:
        workers.reading_of(request, registration, T0)
    assert caught.value.field == field


def running(world: World, *, owner: AccountId | None) -> WorkloadView:
    world.handle(cmd.OpenAccount(account_id=ANA))
    world.handle(cmd.IssueCredits(id=EntryId("paid"), account_id=ANA, credits=1_000))
    attached(world, owner)
    request = pool.UploadTaskRequest(task_id="t", task_data=b"1", cpu_score=60)
    found = tasks.upload_of(request, user=ANA, registered=True, call_id="c", now=T0, house_rate=0, unpacked_bytes=GIB)
    world.submit(found.spec)
    world.report(world.workload(found.spec.id), Phase.RUNNING)
    return shown(world)


def shown(world: World) -> WorkloadView:
    found = world.cluster.answer(GetWorkload(workload_id=tasks.workload_id_of("t")), world.now)
    assert isinstance(found, WorkloadView)
    return found


def test_a_reward_grows_with_the_time_that_a_task_runs(world: World) -> None:
    view = running(world, owner=AccountId("bo"))
    node = workers.node_id_of("worker-001")
    rewards = [workers.reward_of(view, node, T0 + timedelta(seconds=s)) for s in (0, 1, 30, 60, 90)]
    assert rewards == [0, 1, 30, 60, 90]
    assert workers.reward_of(view, workers.node_id_of("another"), T0 + timedelta(seconds=60)) == 0


def test_each_begun_minute_is_paid_to_the_owner(world: World) -> None:
    node_id = running(world, owner=AccountId("bo")).node_id
    assert node_id is not None
    for _ in range(13):
        world.later(5.0)
        world.handle(cmd.ReportTelemetry(node_id=node_id, epoch=1))
    assert world.cluster.state.books.accounts[AccountId("bo")].available == 60
    meter = shown(world).meter
    assert meter is not None
    assert meter.paid + meter.held <= 120


def test_there_is_no_reward_for_a_node_that_nobody_owns(world: World) -> None:
    view = running(world, owner=None)
    assert workers.reward_of(view, workers.node_id_of("worker-001"), T0 + timedelta(minutes=5)) == 0


def test_a_task_whose_worker_is_lost_is_tried_elsewhere(world: World) -> None:
    running(world, owner=None)
    world.attach(a_node(2))
    world.later(31.0)
    world.handle(cmd.Schedule())
    assert shown(world).node_id != workers.node_id_of("worker-001")
    assert tasks.status_of(shown(world)) is tasks.Status.PENDING


def test_a_worker_tells_the_end_of_the_attempt_that_it_was_given(world: World) -> None:
    view = running(world, owner=None)
    work = cmd.Running(workload_id=view.spec.id, attempt=1)
    node = workers.node_id_of("worker-001")
    world.handle(workers.end_of(work, node, 1, succeeded=False))
    assert tasks.status_of(shown(world)) is tasks.Status.FAILED
