"""What cells of the matrix share: one machine that takes work, and the proof from outside that it does it."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from arcray.client import Client
from arcray.node.container import LABEL_NODE, LABEL_WORKLOAD
from examples.matrix.cordons import only
from tests.matrix.kinds import Machine

if TYPE_CHECKING:
    import docker

    from tests.embedded_cluster import Cluster

__all__ = ["MODEL", "PROGRAM", "PROGRAMS", "SCRIPT", "Stage", "reasons"]

PROGRAMS: Final = Path(__file__).parent / "programs"
"""Where the module of a pool's program lies."""

PROGRAM: Final = (PROGRAMS / "matrix_program.py").read_text(encoding="utf-8")
"""A program that ends when its process is called."""

SCRIPT: Final = "trap 'echo called; exit 0' USR1; while true; do sleep 0.1; done"
"""The same of a container's shell."""

MODEL: Final = "matrix-echo"
"""A model that is loaded where models can be."""

_BIT: Final = 1 << (signal.SIGUSR1 - 1)
_ELSEWHERE: Final = frozenset({"attached", "schedulable"})  # filters of all nodes but the one that is looked at


class Stage:
    """The cluster, and its machines by kind."""

    def __init__(self, cluster: Cluster, client: Client, machines: Mapping[str, Machine]) -> None:
        self.cluster = cluster
        self.client = client
        self.machines = machines

    def only(self, *machines: Machine) -> AbstractContextManager[None]:
        """Has no other machine take new work: most protocols cannot say where theirs is to run."""
        return only(self.client, *(machine.node_id for machine in machines))

    def call_program(self, machine: Machine) -> None:
        """Ends the one program below a machine's process that waits to be called."""

        def waiting() -> psutil.Process | None:
            below = psutil.Process(machine.pid).children(recursive=True)
            found = [each for each in below if _listens(each.pid)]
            return found[0] if len(found) == 1 else None

        self.cluster.until(waiting, f"a program waits on {machine.kind}").send_signal(signal.SIGUSR1)

    def call_container(self, machine: Machine, work_id: str, engine: docker.DockerClient) -> None:
        """Ends a container of a machine's, by the engine, once it listens."""
        labels = [f"{LABEL_WORKLOAD}={work_id}", f"{LABEL_NODE}={machine.engine_id}"]

        def listening() -> Any:
            found = engine.containers.list(filters={"label": labels})
            pids = [each.attrs["State"]["Pid"] for each in found]
            return found[0] if pids and _listens(pids[0]) else None

        self.cluster.until(listening, f"a container waits on {machine.kind}").kill("SIGUSR1")

    def explained(self, work_id: str) -> dict[str, str]:
        """Why the machine that takes work does not take this: the filter and its words."""

        def waits() -> list[Any] | None:
            return self.client.explain(work_id)["refusals"] or None

        refusals = self.cluster.until(waits, f"{work_id} is refused")
        return reasons(refusals)


def reasons(refusals: Sequence[Any]) -> dict[str, str]:
    """What keeps work off the one machine that takes any."""
    own = [each for each in refusals if each["filter"] not in _ELSEWHERE]
    assert [each["nodes"] for each in own] == [1], refusals
    return {each["filter"]: each["reason"] for each in own}


def _listens(pid: int) -> bool:
    """Whether a process has a handler for the signal, as the kernel has it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return bool(int(status.partition("SigCgt:")[2].split(maxsplit=1)[0], 16) & _BIT)
