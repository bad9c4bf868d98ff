"""What each revision of the database wrote, kept as it was: the rows that its successors must still read.

``python -m tests.revision_samples`` records the rows of the newest revision into
``tests/integration/database/revisions``. That is done once, with the revision itself, and never again: a file that was
recorded later than its revision would show what the code writes now. What is new in a revision is added to ``_history``
first.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

from arcray.control.batch import image
from arcray.control.journal import Journal
from arcray.control.migrations import revisions
from arcray.control.schema import METADATA
from arcray.core import commands as cmd
from arcray.core.events import Event
from arcray.core.ids import AccountId, EntryId, ReservationId
from arcray.core.labels import LabelOperator, LabelTerm
from arcray.core.ledger import SpendingLimit
from arcray.core.node import LeaseTerms
from arcray.core.policy import ClusterPolicy
from arcray.core.quantity import CPU_MILLI, GIB
from arcray.core.quota import Quota
from arcray.core.resources import Demand
from arcray.core.turn import Outcome
from arcray.core.workload import (
    Container,
    ModelServer,
    Phase,
    PortMapping,
    Priority,
    Program,
    RestartPolicy,
    RestartRule,
    Result,
    VolumeMount,
)
from arcray.testing.builders import a_capacity, a_key, a_model, a_node, a_workload, an_inference, node_id
from arcray.testing.world import World

__all__ = ["FOLDER", "Rows", "recorded"]

Rows: TypeAlias = dict[str, list[dict[str, Any]]]
"""Rows by table."""

FOLDER: Final = Path(__file__).parent / "integration" / "database" / "revisions"
_NUMBERED_BY_THE_DATABASE: Final = {"events": {"seq"}}


def recorded(revision: str) -> Rows:
    """Returns the rows that a revision wrote."""
    rows: Rows = json.loads((FOLDER / f"{revision}.json").read_text(encoding="utf-8"))
    return rows


class _History(World):
    """A cluster that keeps what happened."""

    def __init__(self) -> None:
        super().__init__(ClusterPolicy())
        self.events: list[Event] = []

    def handle(self, command: cmd.Command) -> Outcome:
        outcome = super().handle(command)
        self.events += [event for event in outcome.events if event.durable]
        return outcome


def _history() -> _History:
    """Has one of everything happen that leaves rows."""
    world = _History()
    handle = world.handle
    machine = a_node(1, labels={"rack": "7"}, capacity=a_capacity(cores=64, memory_gib=256, gpus=2))
    world.attach(machine)
    world.attach(a_node(2, lease=LeaseTerms(unhealthy_after_s=1.0, lost_after_s=2.0)))
    world.attach(a_node(3))
    handle(cmd.DetachNode(node_id=node_id(3), epoch=1, reason="ends its shift"))
    handle(cmd.SetNodeScheduling(node_id=node_id(2), cordoned=True))
    for name in ("echo", "gone"):
        handle(cmd.RegisterModel(model=a_model(name, source="digits:predict")))
    handle(cmd.RemoveModel(model_id=a_model("gone").id))
    world.load(machine.id)

    container = Container(
        image="registry.example/train:1", command=("python",), args=("-m", "train"), env=(("SEED", "7"),),
        ports=(PortMapping(container_port=80, host_port=8080),), volumes=(VolumeMount(source="/data", target="/in"),),
    )  # fmt: skip
    shared = Demand(cpu_milli=CPU_MILLI, memory_bytes=GIB, gpus=1, gpu_memory_bytes=16 * GIB)
    again = RestartPolicy(rule=RestartRule.ON_FAILURE, max_restarts=2)
    world.submit(a_workload(1, container, demand=shared, name="running", selector=(("rack", "7"),), restart=again))
    running = world.workload(a_workload(1).id)
    world.report(running, Phase.PULLING, message="12 of 40 layers")
    world.report(running, Phase.RUNNING, ports=(PortMapping(container_port=80, host_port=32768),))
    program = Program(blob="programs/2.zip", archive=True, entry_point="main.py", args=("7",), stdin_blob="stdin/2")
    world.submit(a_workload(2, program, request_id="key", request_digest="digest", priority=Priority.CRITICAL))
    result = Result(exit_code=0, duration_ms=12.5, blobs=("results/2/a.csv",), pid=4711)
    world.report(world.workload(a_workload(2).id), Phase.SUCCEEDED, result=result, message="done — ✓")
    world.submit(a_workload(3, restart=again, name="waits for its second attempt"))
    world.report(world.workload(a_workload(3).id), Phase.FAILED, message="exit code 3", result=Result(exit_code=3))
    world.submit(a_workload(4, ModelServer(model=a_model(source="digits:predict")), max_duration_s=3600.0))
    world.submit(a_workload(5, name="is stopping", node_id=machine.id))
    world.stop(a_workload(5).id)
    world.submit(a_workload(6, demand=Demand(gpus=8), name="waits for a place"))
    world.submit(a_workload(7, an_inference(input=b'{"x": 1}', geohash="u33d", longitude=13.4, latitude=52.5)))
    world.report(world.workload(a_workload(7).id), Phase.SUCCEEDED, result=Result(output=b'{"y": 2}'))
    world.submit(a_workload(8, an_inference(input=b"1"), waiting=True))
    world.report(world.workload(a_workload(8).id), Phase.SUCCEEDED, result=Result(output=b"2", duration_ms=3.5))
    world.submit(a_workload(9, an_inference(model_id="nowhere")))
    _have_money_move(handle)
    held = cmd.Reservable(demand=Demand(cpu_milli=CPU_MILLI), node_id=machine.id)
    reserve = cmd.Reserve(
        reservation_id=ReservationId("held"), account=AccountId("ana"), slices=(held, held), ttl_s=60.0
    )
    handle(reserve)
    handle(replace(reserve, reservation_id=ReservationId("given back")))
    handle(cmd.ReleaseReservation(reservation_id=ReservationId("given back")))
    _have_operators_work(world)
    world.later(5.0)
    return world


def _have_operators_work(world: _History) -> None:
    machine = a_node(4, labels={"rack": "8", "spare": "yes"}, capacity=a_capacity(cores=8, memory_gib=32, gpus=2))
    world.attach(machine)
    handle = world.handle
    handle(cmd.LabelNode(node_id=machine.id, labels={"rack": "9", "spare": None}))
    handle(cmd.SetNodeScheduling(node_id=machine.id, cordoned=True, gpus=frozenset({1})))
    again = RestartPolicy(rule=RestartRule.ALWAYS)
    for number, restart in ((10, again), (11, RestartPolicy())):
        world.submit(a_workload(number, restart=restart, selector=(("rack", "9"),), demand=Demand(cpu_milli=CPU_MILLI)))
        world.run_round()
        world.report(world.workload(a_workload(number).id), Phase.RUNNING)
    handle(cmd.DrainNode(node_id=machine.id, deadline_s=3600.0))
    term = LabelTerm(key="rack", operator=LabelOperator.IN, values=("8", "9"))
    world.submit(a_workload(12, selector_terms=(term,), name="waits for a rack"))
    ana, bo = AccountId("ana"), AccountId("bo")
    handle(cmd.SetQuota(account=ana, quota=Quota(gpus=2, pending=100)))
    handle(cmd.SetQuota(account=bo, quota=Quota(cpu_milli=500)))
    handle(cmd.SetQuota(account=bo, quota=None))
    for number in (13, 14, 15):
        world.submit(a_workload(number))
        world.run_round()
        world.report(world.workload(a_workload(number).id), Phase.FAILED, message="exit code 1")
    world.submit(a_workload(16, replay_of=a_workload(13).id))
    handle(cmd.DiscardWorkload(workload_id=a_workload(14).id))


def _have_money_move(handle: Callable[[cmd.Command], Outcome]) -> None:
    ana, bo, operator = AccountId("ana"), AccountId("bo"), AccountId("operator")
    handle(cmd.OpenAccount(account_id=ana, limit=SpendingLimit(credits=50, period_s=3600)))
    handle(cmd.OpenAccount(account_id=bo, overdraft=10))
    handle(cmd.IssueCredits(id=EntryId("issued"), account_id=ana, credits=100, asked_by=operator, request_id="paid"))
    handle(cmd.TransferCredits(id=EntryId("given"), source=ana, target=bo, credits=30, memo="thanks"))
    for number in (1, 2):
        handle(cmd.IssueKey(key=a_key(number)))
    handle(cmd.RevokeKey(key_id=a_key(2).id))


async def _rows() -> Rows:
    history = _history()
    with tempfile.TemporaryDirectory() as directory:
        journal = Journal(f"sqlite:///{directory}/arcray.db")
        await journal.open()
        await journal.append(image(history.events, history.cluster.state.before, history.cluster.state))
        rows: Rows = {}
        with journal._engine.connect() as connection:
            for table in METADATA.sorted_tables:
                left_out = _NUMBERED_BY_THE_DATABASE.get(table.name, set())
                found = connection.execute(sa.select(table)).mappings()
                rows[table.name] = [{k: v for k, v in row.items() if k not in left_out} for row in found]
        await journal.close()
    return rows


if __name__ == "__main__":
    newest = FOLDER / f"{revisions()[-1]}.json"
    assert not newest.exists(), f"{newest.name} has been recorded; rows that a revision wrote do not change"
    text = json.dumps(asyncio.run(_rows()), indent=1, ensure_ascii=False)
    newest.write_text(text + "\n", encoding="utf-8")
