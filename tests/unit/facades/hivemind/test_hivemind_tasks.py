"""Tasks to workloads and back, through the rules: what is asked, what it costs, how far it is."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from arcray.core.blobkeys import inline
from arcray.core.claim import Cause, Eviction
from arcray.core.errors import AlreadyExistsError, ConflictError, InvalidArgumentError, NotFoundError
from arcray.core.ids import AccountId
from arcray.core.labels import LabelOperator, LabelTerm
from arcray.core.quantity import CPU_MILLI, GIB
from arcray.core.queries import GetWorkload, ListWorkloads, WorkloadPage
from arcray.core.resources import Demand
from arcray.core.tariff import Tariff
from arcray.core.workload import Phase, Program, WorkloadView
from arcray.facades.hivemind import tasks
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.refusals import ErrorCode, Subject, answer
from arcray.facades.hivemind.tasks import Status
from arcray.testing.builders import T0, a_node, a_workload
from arcray.testing.world import World

SAMPLE = pool.UploadTaskRequest(task_id="task-001", task_data=b"print('Hello, HiveMind!')", user_id="user123")


def upload(request: pool.UploadTaskRequest = SAMPLE, **fields: Any) -> tasks.Upload:
    given: dict[str, Any] = {
        "user": None, "registered": False, "call_id": "call-1", "now": T0, "house_rate": 0, "unpacked_bytes": GIB,
    }  # fmt: skip
    return tasks.upload_of(request, **(given | fields))


def asking(**fields: Any) -> pool.UploadTaskRequest:
    request = pool.UploadTaskRequest()
    request.CopyFrom(SAMPLE)
    for name, value in fields.items():
        setattr(request, name, value)
    return request


def view(world: World, task_id: str = "task-001") -> WorkloadView:
    found = world.cluster.answer(GetWorkload(workload_id=tasks.workload_id_of(task_id)), world.now)
    assert isinstance(found, WorkloadView)
    return found


# -- what is asked ---------------------------------------------------------------------------------------------------


def test_the_documents_task_is_a_program_of_whoever_it_names() -> None:
    found = upload()
    spec = found.spec
    assert (spec.origin.facade, spec.origin.account, spec.origin.external_id) == ("hivemind", "user123", "task-001")
    assert spec.payload == Program(blob=found.code_key, env=(("TASK_ID", "task-001"),))
    assert inline(found.code_key) == found.code == b"print('Hello, HiveMind!')"
    assert found.code == SAMPLE.task_data
    assert spec.demand == Demand(cpu_milli=CPU_MILLI)


def test_a_token_decides_whose_a_task_is() -> None:
    assert upload(user=AccountId("ana")).spec.origin.account == "ana"
    assert upload(asking(user_id="@odd"), user=AccountId("ana")).spec.origin.account == "ana"


def test_a_task_id_never_reaches_work_of_another_protocol() -> None:
    of_rest = a_workload(1).id
    assert tasks.workload_id_of(of_rest) != of_rest
    assert tasks.workload_id_of("task-001") == tasks.workload_id_of("task-001") != tasks.workload_id_of("task-002")


@pytest.mark.parametrize(
    ("fields", "demand"),
    [
        ({"cpu_score": 10}, Demand(cpu_milli=100)),
        ({"cpu_score": 1000, "memory_gb": 4}, Demand(cpu_milli=10_000, memory_bytes=4 * GIB)),
        ({"gpu_memory_gb": 8}, Demand(cpu_milli=1000, gpus=1, gpu_memory_bytes=8 * GIB)),
        ({"gpu_score": 1}, Demand(cpu_milli=1000, gpus=1)),
        ({"gpu_name": "RTX 4090"}, Demand(cpu_milli=1000, gpus=1)),
        ({"gpu_name": "Any"}, Demand(cpu_milli=1000)),
        ({"location": "Asia/Taipei"}, Demand(cpu_milli=1000)),
    ],
)
def test_units_end_here(fields: dict[str, Any], demand: Demand) -> None:
    assert upload(asking(**fields)).spec.demand == demand


def test_a_named_gpu_is_a_label() -> None:
    assert upload(asking(gpu_name="NVIDIA RTX 4090")).spec.selector == (("hivemind/gpu", "nvidia-rtx-4090"),)
    assert upload(asking(gpu_name="any")).spec.selector == ()


def test_what_a_task_costs_is_the_sum_of_what_it_asks_for_each_begun_minute() -> None:
    asked = asking(cpu_score=10, gpu_score=20, memory_gb=4, gpu_memory_gb=8)
    assert upload(asked, house_rate=3).spec.tariff == Tariff(minute=3, owned_minute=42, step_s=60)
    assert upload().spec.tariff == Tariff(minute=0, owned_minute=1, step_s=60)
    most = asking(**dict.fromkeys(("cpu_score", "gpu_score"), 2**31 - 1))
    assert upload(most).spec.tariff == Tariff(owned_minute=2**32 - 2, step_s=60)


def test_who_has_no_account_stays_off_nodes_whose_owners_are_paid() -> None:
    assert upload().spec.selector_terms == (LabelTerm(key="hivemind/owned", operator=LabelOperator.ABSENT),)
    assert upload(registered=True).spec.selector_terms == ()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"task_id": ""}, "task_id"),
        ({"task_id": "t" * 129}, "task_id"),
        ({"task_id": "t\0"}, "task_id"),
        ({"task_id": "t\n"}, "task_id"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": "@issuer"}, "user_id"),
        ({"task_data": b""}, "task_data"),
        ({"cpu_score": -1}, "cpu_score"),
        ({"gpu_score": -(2**31)}, "gpu_score"),
        ({"memory_gb": -1}, "memory_gb"),
        ({"gpu_memory_gb": 2**31 - 1}, "gpu_memory_gb"),
        ({"gpu_name": "\0"}, "gpu_name"),
        ({"gpu_name": "…"}, "gpu_name"),
        ({"location": "x" * 257}, "location"),
    ],
)
def test_what_cannot_be_is_refused_by_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        upload(asking(**fields))
    assert caught.value.field == field


# -- through the rules -----------------------------------------------------------------------------------------------


def test_the_documents_task_runs_for_nothing_and_is_there_once(world: World) -> None:
    world.attach(a_node())
    world.submit(upload().spec)
    assert world.submit(upload().spec).events == ()  # the call's own repetition
    with pytest.raises(AlreadyExistsError):
        world.submit(upload(call_id="call-2").spec)
    with pytest.raises(AlreadyExistsError):
        world.submit(upload(user=AccountId("ana"), call_id="call-3").spec)
    world.report(world.workload(view(world).spec.id), Phase.RUNNING)
    world.later(3600.0)
    meter = view(world).meter
    assert meter is not None
    assert (meter.paid, meter.held) == (0, 0)


def test_a_status_follows_its_workload(world: World) -> None:
    world.submit(upload().spec)
    assert tasks.status_of(view(world)) is Status.PENDING
    world.attach(a_node())
    world.run_round()
    assert (view(world).phase, tasks.status_of(view(world))) == (Phase.PLACED, Status.PENDING)
    with pytest.raises(ConflictError, match="is PENDING; there is no result yet"):
        tasks.check_has_result(view(world))
    world.report(world.workload(view(world).spec.id), Phase.RUNNING)
    assert tasks.status_of(view(world)) is Status.RUNNING
    world.stop(view(world).spec.id)
    assert (view(world).phase, tasks.status_of(view(world))) == (Phase.STOPPING, Status.STOPPED)


def replaced(world: World, phase: Phase, **fields: Any) -> WorkloadView:
    world.submit(upload().spec)
    return replace(view(world), phase=phase, **fields)


@pytest.mark.parametrize(
    ("phase", "status", "code"),
    [
        (Phase.PULLING, Status.PENDING, ErrorCode.SUCCESS),
        (Phase.STARTING, Status.PENDING, ErrorCode.SUCCESS),
        (Phase.SUCCEEDED, Status.COMPLETED, ErrorCode.SUCCESS),
        (Phase.FAILED, Status.FAILED, ErrorCode.TASK_FAILED),
        (Phase.REJECTED, Status.FAILED, ErrorCode.TASK_FAILED),
        (Phase.STOPPED, Status.STOPPED, ErrorCode.TASK_CANCELLED),
    ],
)
def test_every_phase_has_a_word(world: World, phase: Phase, status: Status, code: ErrorCode) -> None:
    shown = replaced(world, phase)
    assert (tasks.status_of(shown), tasks.end_code(shown)) == (status, code)


def test_what_the_cluster_ends_for_its_own_reasons_runs_on_for_its_owner(world: World) -> None:
    eviction = Eviction(cause=Cause.PREEMPTED, reason="for other work")
    assert tasks.status_of(replaced(world, Phase.STOPPING, eviction=eviction)) is Status.RUNNING


def test_lists_and_polls_show_a_task_as_the_document_does(world: World) -> None:
    world.attach(a_node())
    world.submit(upload().spec)
    world.later(2.0)
    world.report(world.workload(view(world).spec.id), Phase.RUNNING)
    shown = tasks.task_status(view(world), "worker-001")
    begun = (T0 + timedelta(seconds=2)).timestamp()
    assert shown == pool.TaskStatus(
        task_id="task-001",
        status="RUNNING",
        assigned_node="worker-001",
        created_at=T0.timestamp(),
        started_at=begun,
        user_id="user123",
    )
    polled = tasks.poll_answer(view(world), b"Hello\nHive", waits_for="a node")
    assert polled == pool.PollTaskStatusResponse(success=True, status="RUNNING", output=["Hello", "Hive"])


def test_a_pending_task_says_what_it_waits_for(world: World) -> None:
    world.submit(upload().spec)
    assert tasks.poll_answer(view(world), b"", waits_for="no node is there").message == "no node is there"


def test_a_task_that_is_not_there_is_not_found() -> None:
    unknown = NotFoundError("no workload", field="id")
    assert answer(pool.PollTaskStatusResponse, unknown, Subject.TASK) == pool.PollTaskStatusResponse(
        success=False, message="task_id: no workload", status="NOT_FOUND"
    )
    odd = answer(pool.PollTaskStatusResponse, InvalidArgumentError("is odd", field="task_id"), Subject.TASK)
    assert odd == pool.PollTaskStatusResponse(success=False, message="task_id: is odd")


def test_a_list_is_of_tasks_alone(world: World) -> None:
    world.submit(a_workload(1))
    world.submit(upload().spec)
    page = world.cluster.answer(ListWorkloads(facade=tasks.FACADE), world.now)
    assert isinstance(page, WorkloadPage)
    assert [each.spec.origin.external_id for each in page.workloads] == ["task-001"]


def test_work_of_other_protocols_is_no_task(world: World) -> None:
    world.submit(a_workload(1))
    found = world.cluster.answer(GetWorkload(workload_id=a_workload(1).id), world.now)
    assert isinstance(found, WorkloadView)
    with pytest.raises(NotFoundError):
        tasks.check_is_task(found)
    world.submit(upload().spec)
    tasks.check_is_task(view(world))
