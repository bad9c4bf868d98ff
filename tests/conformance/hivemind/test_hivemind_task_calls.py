"""Tasks over the wire: handed in, polled, fetched, listed and stopped."""

from __future__ import annotations

import asyncio
import io
import zipfile
from pathlib import Path
from typing import Any, Final

import pytest

from arcray.core.blobkeys import INLINE_BYTES, foreign_log_key, inline, log_key, owner_of, result_key
from arcray.core.commands import OpenAccount, SubmitWorkload
from arcray.core.ids import AccountId, WorkloadId
from arcray.core.orders import StartWorkload
from arcray.core.ports import BlobStore
from arcray.core.queries import GetWorkload
from arcray.core.workload import Phase, Program, Result, WorkloadView
from arcray.facades.hivemind.tasks import workload_id_of
from arcray.facades.hivemind.uploads import TASK_BYTES
from arcray.testing.builders import a_capacity, a_workload
from arcray.testing.simulated_node import Script, SimulatedNode
from tests.hivemind_server import HiveMind, hivemind

STORED = b" " * INLINE_BYTES  # behind a program, it is no key of its own
UPLOAD: Final = "MasterNodeService/UploadTask"
POLL: Final = "MasterNodeService/PollTaskStatus"
RESULT: Final = "MasterNodeService/GetTaskResult"
LOGS: Final = "MasterNodeService/GetTaskLogs"
LIST: Final = "MasterNodeService/GetAllTasks"
STOP: Final = "MasterNodeService/StopTask"

SAMPLE: Final[dict[str, Any]] = {"task_id": "task-001", "task_data": b"print('Hello, HiveMind!')", "user_id": "user123"}


def a_node(script: Script | None = None, **fields: Any) -> SimulatedNode:
    return SimulatedNode(script=lambda _: script or Script(), **fields)


def staying() -> SimulatedNode:
    """A node on which work runs until it is told to end."""
    return a_node(Script(end=None))


async def code_of(pool: HiveMind, task_id: str) -> bytes:
    """The program that would run for a task."""
    view = await pool.cluster.plane.query(GetWorkload(workload_id=workload_id_of(task_id)))
    assert isinstance(view, WorkloadView)
    assert isinstance(view.spec.payload, Program)
    own = inline(view.spec.payload.blob)
    return await pool.cluster.plane.blobs.get(view.spec.payload.blob) if own is None else own


def stored_programs(state_dir: Path) -> list[Path]:
    return sorted((state_dir / "blobs" / "programs").iterdir())


# -- what the document shows -------------------------------------------------------------------------------------------


async def test_the_documents_task_is_accepted_runs_and_tells_what_it_wrote() -> None:
    async with hivemind(nodes=[a_node(Script(log=b"Hello, HiveMind!\n"))]) as pool:
        accepted = await pool.call(UPLOAD, **SAMPLE)
        assert (accepted.success, accepted.message) == (True, "accepted task-001")
        first = await pool.call(POLL, task_id="task-001")
        assert first.status in {"PENDING", "RUNNING", "COMPLETED"}
        ended = await pool.ended("task-001")
        assert (ended.success, ended.status, list(ended.output)) == (True, "COMPLETED", ["Hello, HiveMind!"])
        assert await code_of(pool, "task-001") == SAMPLE["task_data"]


async def test_a_task_id_is_taken_once() -> None:
    async with hivemind(nodes=[]) as pool:
        await pool.call(UPLOAD, **SAMPLE)
        again = await pool.answer(UPLOAD, **(SAMPLE | {"task_data": b"print(2)"}))
        assert (again.message.success, again.code, again.core_code) == (False, 9999, "ALREADY_EXISTS")
        assert again.message.message == "task_id: is taken: there is a task of that id"
        assert await code_of(pool, "task-001") == SAMPLE["task_data"]


async def test_an_unknown_task_is_not_found() -> None:
    async with hivemind() as pool:
        found = await pool.answer(POLL, task_id="nobody's")
        answer = found.message
        assert (answer.success, answer.status, list(answer.output)) == (False, "NOT_FOUND", [])
        assert answer.message == "task_id: no such task"
        assert found.code == 3001
        for method in (RESULT, LOGS, STOP):
            other = await pool.answer(method, task_id="nobody's")
            assert (other.message.success, other.code) == (False, 3001)


# -- two at once -------------------------------------------------------------------------------------------------------


async def test_of_short_uploads_of_one_id_at_once_one_counts() -> None:
    async with hivemind(nodes=[]) as pool:
        programs = [f"print({number})".encode() for number in range(20)]
        answers = await asyncio.gather(
            *(pool.call(UPLOAD, **(SAMPLE | {"task_data": program})) for program in programs)
        )
        (winner,) = [number for number, answer in enumerate(answers) if answer.success]
        assert await code_of(pool, "task-001") == programs[winner]


async def test_of_uploads_of_one_id_at_once_one_counts_and_its_program_stays(tmp_path: Path) -> None:
    async with hivemind(nodes=[], state_dir=tmp_path) as pool:
        programs = [f"print({number})".encode() + STORED for number in range(20)]
        answers = await asyncio.gather(
            *(pool.call(UPLOAD, **(SAMPLE | {"task_data": program})) for program in programs)
        )
        (winner,) = [number for number, answer in enumerate(answers) if answer.success]
        assert await code_of(pool, "task-001") == programs[winner]
        (kept,) = stored_programs(tmp_path)
        assert owner_of(kept.name) == workload_id_of("task-001")


class Slow:
    """A blob store whose second write of a program waits until it is let go."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self.reached, self.go = asyncio.Event(), asyncio.Event()
        self.programs: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)

    async def put(self, key: str, data: bytes) -> None:
        self.programs.append(key)
        if len(self.programs) == 1:
            self.reached.set()
            await self.go.wait()
        await self._blobs.put(key, data)


async def test_who_comes_second_takes_nothing_from_the_first(tmp_path: Path) -> None:
    """The first to ask writes its program after the other one was accepted, and then is refused."""
    async with hivemind(nodes=[], state_dir=tmp_path) as pool:
        plane: Any = pool.cluster.plane
        slow = plane._blobs = Slow(plane.blobs)
        first = SAMPLE["task_data"] + STORED
        late = asyncio.create_task(pool.call(UPLOAD, **(SAMPLE | {"task_data": b"late" + STORED})))
        await slow.reached.wait()
        assert (await pool.call(UPLOAD, **(SAMPLE | {"task_data": first}))).success
        slow.go.set()
        assert not (await late).success
        assert len(set(slow.programs)) == 2
        assert await code_of(pool, "task-001") == first
        assert len(stored_programs(tmp_path)) == 1


# -- what may be handed in ---------------------------------------------------------------------------------------------


def zipped(**files: str) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as bundle:
        for name, text in files.items():
            bundle.writestr(name.replace("__", "."), text)
    return written.getvalue()


async def test_an_archive_is_kept_as_it_came() -> None:
    async with hivemind(nodes=[]) as pool:
        archive = zipped(main__py="print(1)", data__txt="x")
        await pool.call(UPLOAD, **(SAMPLE | {"task_data": archive}))
        assert await code_of(pool, "task-001") == archive


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"task_data": b""}, "task_data"),
        ({"task_data": b"\xff\xfe"}, "task_data"),
        ({"task_data": b"PK\3\4 broken"}, "task_data"),
        ({"task_data": zipped(data__txt="x")}, "task_data"),
        ({"task_data": zipped(**{"../main__py": "x"})}, "task_data"),
        ({"task_id": ""}, "task_id"),
        ({"task_id": "a\0b"}, "task_id"),
        ({"user_id": ""}, "user_id"),
        ({"cpu_score": -1}, "cpu_score"),
        ({"gpu_memory_gb": 2**31 - 1}, "gpu_memory_gb"),
        ({"location": "x" * 1000}, "location"),
    ],
)
async def test_a_task_that_is_wrong_is_refused_by_the_name_of_its_field(fields: dict[str, Any], field: str) -> None:
    async with hivemind(nodes=[]) as pool:
        found = await pool.answer(UPLOAD, **(SAMPLE | fields))
        assert not found.message.success
        assert found.message.message.startswith(f"{field}: "), found.message.message


async def test_a_task_of_exactly_100_mib_is_taken_and_one_byte_more_is_refused_by_an_answer() -> None:
    """Sends 200 MiB over loopback, which takes a second."""
    largest = b"#" * TASK_BYTES
    async with hivemind(nodes=[]) as pool:
        assert (await pool.call(UPLOAD, task_id="largest", task_data=largest, user_id="u")).success
        found = await pool.answer(UPLOAD, task_id="larger", task_data=largest + b"#", user_id="u")
        assert (found.message.success, found.core_code, found.code) == (False, "RESOURCE_EXHAUSTED", 2003)
        assert found.message.message == "task_data: has 104857601 bytes, at most 104857600 (100MB)"


# -- results -----------------------------------------------------------------------------------------------------------


async def returning(pool: HiveMind, task_id: str, files: dict[str, bytes], phase: Phase = Phase.SUCCEEDED) -> None:
    """Has the one node end a task that runs on it with these files."""
    workload_id = workload_id_of(task_id)
    for path, data in files.items():
        await pool.cluster.plane.blobs.put(result_key(workload_id, path), data)
    (node,) = pool.cluster.nodes
    keys = tuple(sorted(result_key(workload_id, path) for path in files))
    node.finish(workload_id, phase, message="as told", result=Result(exit_code=0, blobs=keys))
    await pool.cluster.finished(workload_id)


async def test_a_task_that_has_not_ended_has_no_result() -> None:
    async with hivemind(nodes=[]) as pool:
        await pool.call(UPLOAD, **SAMPLE)
        found = await pool.answer(RESULT, task_id="task-001")
        assert (found.message.success, found.message.result_data, found.core_code) == (False, b"", "CONFLICT")
        assert found.message.message == "task_id: is PENDING; there is no result yet"


async def test_a_result_is_a_zip_of_the_files_and_is_given_out_again() -> None:
    async with hivemind(nodes=[staying()]) as pool:
        await pool.call(UPLOAD, **SAMPLE)
        await pool.cluster.nodes[0].delivered(1)
        await returning(pool, "task-001", {"a.csv": b"1,2", "deep/b.txt": b"b"})
        first = await pool.call(RESULT, task_id="task-001")
        assert first.success
        with zipfile.ZipFile(io.BytesIO(first.result_data)) as bundle:
            assert {name: bundle.read(name) for name in bundle.namelist()} == {"a.csv": b"1,2", "deep/b.txt": b"b"}
        assert await pool.call(RESULT, task_id="task-001") == first


async def test_the_result_of_a_task_that_failed_comes_with_the_documents_code() -> None:
    async with hivemind(nodes=[staying()]) as pool:
        await pool.call(UPLOAD, **SAMPLE)
        await pool.cluster.nodes[0].delivered(1)
        await returning(pool, "task-001", {"why.txt": b"x"}, Phase.FAILED)
        found = await pool.answer(RESULT, task_id="task-001")
        assert (found.message.success, found.message.message, found.code) == (True, "as told", 3002)
        assert (await pool.answer(POLL, task_id="task-001")).code == 3002


async def test_a_result_above_100_mib_is_refused_clearly() -> None:
    """Writes 100 MiB to disk."""
    async with hivemind(nodes=[staying()]) as pool:
        await pool.call(UPLOAD, **SAMPLE)
        await pool.cluster.nodes[0].delivered(1)
        await returning(pool, "task-001", {"a.bin": bytes(TASK_BYTES), "b.bin": b"1"})
        found = await pool.answer(RESULT, task_id="task-001")
        assert (found.message.success, found.core_code, found.code) == (False, "RESOURCE_EXHAUSTED", 2003)
        assert found.message.message.startswith("task_id: has more than 104857600 bytes of results")


# -- output and logs ---------------------------------------------------------------------------------------------------


async def test_a_poll_shows_the_end_of_a_long_output() -> None:
    lines = b"".join(b"%06d\n" % number for number in range(100_000))
    async with hivemind(nodes=[a_node(Script(log=lines))]) as pool:
        await pool.call(UPLOAD, **SAMPLE)
        output = list((await pool.ended("task-001")).output)
        assert output[-1] == "099999"
        assert 1_000 < len(output) < 2_000


async def test_output_grows_while_a_task_runs() -> None:
    async with hivemind(nodes=[staying()]) as pool:
        await pool.call(UPLOAD, **SAMPLE)
        await pool.cluster.nodes[0].delivered(1)
        for number in range(3):
            await pool.cluster.plane.blobs.append(log_key(workload_id_of("task-001")), b"%d\n" % number)
            polled = await pool.call(POLL, task_id="task-001")
            assert list(polled.output) == [str(each) for each in range(number + 1)]


async def test_logs_are_what_workers_logged_and_then_what_the_task_wrote() -> None:
    async with hivemind(nodes=[a_node(Script(log=b"out\n"))]) as pool:
        await pool.call(UPLOAD, **SAMPLE)
        await pool.ended("task-001")
        assert (await pool.call(LOGS, task_id="task-001")).logs == "--- Task Output ---\nout\n"
        await pool.cluster.plane.blobs.append(foreign_log_key(workload_id_of("task-001")), b"[t] [w] began\n")
        found = await pool.call(LOGS, task_id="task-001")
        assert (found.success, found.logs) == (True, "[t] [w] began\n--- Task Output ---\nout\n")


# -- waiting -----------------------------------------------------------------------------------------------------------


async def test_a_poll_says_why_a_task_waits() -> None:
    async with hivemind(nodes=[a_node(capacity=a_capacity(cores=4))]) as pool:
        await pool.call(UPLOAD, **(SAMPLE | {"cpu_score": 1_000}))
        found = await pool.call(POLL, task_id="task-001")
        assert (found.success, found.status) == (True, "PENDING")
        assert "cpu" in found.message.lower(), found.message


# -- stopping ----------------------------------------------------------------------------------------------------------


async def test_a_task_that_waits_is_stopped_at_once_and_only_once() -> None:
    async with hivemind(nodes=[]) as pool:
        await pool.call(UPLOAD, **SAMPLE)
        assert (await pool.call(STOP, task_id="task-001")).success
        polled = await pool.answer(POLL, task_id="task-001")
        assert (polled.message.status, polled.code) == ("STOPPED", 3003)
        again = await pool.answer(STOP, task_id="task-001")
        assert (again.message.success, again.core_code) == (False, "CONFLICT")
        assert again.message.message == "task_id: is STOPPED already"


async def test_a_task_that_runs_is_stopped_from_the_moment_that_its_owner_asks() -> None:
    node = staying()
    async with hivemind(nodes=[node]) as pool:
        await pool.call(UPLOAD, **SAMPLE)
        await node.delivered(1)
        node.deaf = True
        assert (await pool.call(STOP, task_id="task-001")).success
        assert (await pool.call(POLL, task_id="task-001")).status == "STOPPED"
        assert (await pool.call(STOP, task_id="task-001")).success


# -- whose it is -------------------------------------------------------------------------------------------------------


async def test_one_users_task_is_not_there_for_another() -> None:
    async with hivemind(nodes=[]) as pool:
        ana, bo = await pool.user("ana"), await pool.user("bo")
        await pool.call(UPLOAD, token=ana, **SAMPLE)
        for method in (POLL, RESULT, LOGS, STOP):
            found = await pool.answer(method, token=bo, task_id="task-001")
            assert (found.message.success, found.code) == (False, 3001), method
            assert found.message.message == "task_id: no such task"
        for method in (RESULT, LOGS, STOP):  # by the token in the message
            read = await pool.answer(method, message_token=bo, task_id="task-001")
            assert (read.message.success, read.code) == (False, 3001), method
        listed = await pool.call(LIST, token=bo)
        assert list(listed.tasks) == []
        (mine,) = (await pool.call(LIST, token=ana)).tasks
        assert (mine.task_id, mine.user_id, mine.status) == ("task-001", "ana", "PENDING")
        assert (await pool.call(STOP, token=ana, task_id="task-001")).success


async def test_work_of_another_protocol_is_no_task_whatever_its_id() -> None:
    async with hivemind(nodes=[]) as pool:
        spec = a_workload(1)
        await pool.cluster.ask(SubmitWorkload(spec=spec))
        for method in (POLL, RESULT, LOGS, STOP):
            assert (await pool.answer(method, task_id=spec.id)).code == 3001
        assert list((await pool.call(LIST)).tasks) == []


async def test_a_list_has_the_newest_hundred_and_names_their_nodes() -> None:
    node = staying()
    async with hivemind(nodes=[node]) as pool:
        for number in range(105):
            await pool.call(UPLOAD, **(SAMPLE | {"task_id": f"task-{number}"}))
        await node.delivered(1)
        tasks = list((await pool.call(LIST)).tasks)
        assert [task.task_id for task in tasks] == [f"task-{number}" for number in range(104, 4, -1)]
        assert {task.assigned_node for task in tasks} <= {"", "sim-1"}
        running = [task for task in tasks if task.status == "RUNNING"]
        assert all(task.assigned_node == "sim-1" and task.started_at >= task.created_at > 0 for task in running)
        assert all(task.completed_at == 0 for task in tasks)


async def test_tasks_of_who_has_no_account_stay_off_nodes_whose_owners_are_paid() -> None:
    owned = SimulatedNode("owned", labels={"hivemind/owned": "true"}, owner=AccountId("bo"))
    async with hivemind(nodes=[owned]) as pool:
        ana = await pool.user("ana")
        await pool.cluster.ask(OpenAccount(account_id=AccountId("bo")))
        await pool.call(UPLOAD, **SAMPLE)
        await pool.call(UPLOAD, token=ana, task_id="task-002", task_data=b"print(2)")
        assert (await pool.ended("task-002", token=ana)).status == "COMPLETED"
        assert (await pool.call(POLL, task_id="task-001")).status == "PENDING"
        assert {order.workload_id for order in owned.orders if isinstance(order, StartWorkload)} == {
            WorkloadId(workload_id_of("task-002"))
        }
