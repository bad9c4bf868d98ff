"""A HiveMind task of somebody without an account stays off machines whose owners are paid, and runs all the same."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, Final

import pytest

from examples.hivemind.pool import Pool
from tests.matrix.stage import Stage

pytestmark = pytest.mark.cluster

CALLED: Final = """
import os, pathlib, signal
print("waits", flush=True)
def called(*_):
    raise InterruptedError
try:
    signal.signal(signal.SIGUSR1, called)
    signal.pause()
except InterruptedError:
    print("called", os.environ["TASK_ID"])
pathlib.Path(os.environ["ARCRAY_RESULT_DIR"], "boot.txt").write_text(open("/proc/sys/kernel/random/boot_id").read())
"""
BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


def test_a_task_of_a_stranger_runs_on_a_node_of_the_pools_own(stage: Stage) -> None:
    ray, worker = stage.machines["ray"], stage.machines["hivemind"]
    with Pool(f"127.0.0.1:{stage.cluster.settings.gateway.grpc_port}") as pool, stage.only(ray, worker):

        def ask(method: str, **fields: Any) -> Any:
            return pool.call("MasterNodeService", method, **fields)

        ask("UploadTask", task_id="to-ray", task_data=CALLED.encode(), user_id="stranger")
        (work,) = [each for each in stage.client.workloads() if each.name == "to-ray"]

        def waits() -> bool:
            polled = ask("PollTaskStatus", task_id="to-ray")
            return (polled.status, list(polled.output)) == ("RUNNING", ["waits"])

        stage.cluster.until(waits, "it is told to wait")
        stage.call_program(ray)
        done = stage.client.wait(work.id, timeout_s=30)
        assert (done.phase, done.node_id, done.attempt) == ("succeeded", ray.node_id, 1), done.message
        assert stage.client.logs(work.id) == "waits\ncalled to-ray\n"
        assert stage.client.result(work.id, "boot.txt") == BOOT.read_bytes()
        polled = ask("PollTaskStatus", task_id="to-ray")
        assert (polled.status, list(polled.output)) == ("COMPLETED", ["waits", "called to-ray"])
        assert "waits\ncalled to-ray\n" in ask("GetTaskLogs", task_id="to-ray").logs
        with zipfile.ZipFile(io.BytesIO(ask("GetTaskResult", task_id="to-ray").result_data)) as bundle:
            assert {name: bundle.read(name) for name in bundle.namelist()} == {"boot.txt": BOOT.read_bytes()}
        (task,) = [each for each in ask("GetAllTasks").tasks if each.task_id == "to-ray"]
        assigned = stage.client.node(ray.node_id).raw["externalId"]
        assert (task.status, task.assigned_node, task.user_id) == ("COMPLETED", assigned, "stranger")
