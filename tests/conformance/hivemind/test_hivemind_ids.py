"""A task id is taken for as long as its task is kept, whoever asks, also once memory has let go of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from arcray.core import commands as cmd
from arcray.core.errors import AlreadyExistsError
from arcray.core.ids import AccountId
from arcray.core.policy import ClusterPolicy
from arcray.core.quantity import GIB
from arcray.core.queries import GetWorkload
from arcray.core.workload import WorkloadView
from arcray.facades.hivemind import tasks
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.testing.builders import T0
from arcray.testing.plane import in_process_plane

REQUEST = pool.UploadTaskRequest(task_id="task-001", task_data=b"print(1)")


async def test_a_task_that_memory_has_let_go_of_is_not_written_over(tmp_path: Path) -> None:
    async with in_process_plane(policy=ClusterPolicy(keep_finished=0), state_dir=tmp_path) as cluster:
        for number, user in enumerate(("ana", "ana", "bo")):
            upload = tasks.upload_of(
                REQUEST,
                user=AccountId(user),
                registered=True,
                call_id=f"call-{number}",
                now=T0 + timedelta(days=number),
                house_rate=0,
                unpacked_bytes=GIB,
            )
            submit = cmd.SubmitWorkload(spec=upload.spec)
            if number == 0:
                await cluster.ask(submit)
                await cluster.finished(upload.spec.id)
            else:
                with pytest.raises(AlreadyExistsError):
                    await cluster.ask(submit)
        kept = await cluster.plane.query(GetWorkload(workload_id=tasks.workload_id_of("task-001")))
        assert isinstance(kept, WorkloadView)
        assert (kept.spec.origin.account, tasks.status_of(kept)) == ("ana", tasks.Status.COMPLETED)
