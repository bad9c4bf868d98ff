"""The plain model: what the durable facts say, in a few dictionaries, and what must be true of them.

It is a second, independent statement of the promises, written to be read: no index, no queue, no cache, and no line of
``core.state``. Each noun brings its part. The rows on disk, the memory of the scheduler and every answer are compared
with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from arcray.core.events import Event
from arcray.core.ids import WorkloadId
from arcray.core.keys import ApiKey
from arcray.core.ledger import Account
from arcray.core.model import Model
from arcray.core.node import Node
from arcray.core.policy import ClusterPolicy
from arcray.core.reservation import Reservation
from arcray.core.state import ClusterState
from arcray.core.workload import Workload
from arcray.testing.simulation.nouns.accounts import BookFacts
from arcray.testing.simulation.nouns.charges import ChargeFacts
from arcray.testing.simulation.nouns.gangs import GangFacts
from arcray.testing.simulation.nouns.keys import KeyFacts
from arcray.testing.simulation.nouns.models import ModelFacts
from arcray.testing.simulation.nouns.nodes import NodeFacts
from arcray.testing.simulation.nouns.preemptions import PreemptionFacts
from arcray.testing.simulation.nouns.quotas import QuotaFacts
from arcray.testing.simulation.nouns.reservations import ReservationFacts
from arcray.testing.simulation.nouns.workloads import WorkloadFacts
from arcray.testing.simulation.promise import must
from arcray.testing.simulation.rows import RowReader

__all__ = ["PlainModel"]


class PlainModel:
    """All facts.

    Args:
        policy: the numbers that the rules use; what follows from them is worked out here.
    """

    def __init__(self, policy: ClusterPolicy) -> None:
        self.nodes = NodeFacts()
        self.models = ModelFacts()
        self.quotas = QuotaFacts()
        self.books = BookFacts()
        self.keys = KeyFacts(self.books)
        self.reservations = ReservationFacts(self.nodes)
        self.workloads = WorkloadFacts(self.nodes, self.quotas, self.reservations)
        self._preemptions = PreemptionFacts(self.nodes, self.workloads)
        self.gangs = GangFacts(self.workloads)
        self._charges = ChargeFacts(policy, self.nodes, self.workloads, self.books)
        self._takes: dict[type, list[Callable[[Any], None]]] = {}
        for noun in (
            self.nodes,
            self.models,
            self.quotas,
            self.books,
            self.keys,
            self.reservations,
            self._charges,
            self.workloads,
            self._preemptions,
            self.gangs,
        ):
            for kind, take in noun.takes.items():
                self._takes.setdefault(kind, []).append(take)

    def take(self, events: Iterable[Event]) -> None:
        """Takes the facts of one transaction.

        Raises:
            PromiseBrokenError: they cannot be true.
        """
        for event in events:
            if type(event) not in self._takes:
                raise AssertionError(f"no noun of the simulation takes {type(event).__name__}")
            for take in self._takes[type(event)]:
                take(event)
        self.workloads.check()
        self.reservations.check()
        self._preemptions.check()
        self.gangs.check()
        self.books.check()
        self._charges.check()

    def compare_rows(self, rows: RowReader) -> None:
        """Checks that all rows are what the facts say.

        Raises:
            PromiseBrokenError: a row is missing, is one too many, or says something else.
        """
        workloads = rows.all(Workload)
        self._compare(rows.all(Node), rows.all(Model), workloads, "the rows")
        self.keys.compare(rows.all(ApiKey), "the rows")
        self.compare_books(rows)
        reservations = rows.all(Reservation)
        self.reservations.compare(reservations, "the rows")
        kept = {reservation.id for reservation in reservations}
        must(kept == set(self.reservations.known), "rows of reservations are missing")
        found = {workload.spec.id for workload in workloads}
        must(set(self.workloads.known) <= found, f"no rows of {_names(set(self.workloads.known) - found)}")

    def compare_books(self, rows: RowReader) -> None:
        """Checks that the rows of accounts and of postings are what the facts say.

        Raises:
            PromiseBrokenError: they are not.
        """
        self.books.compare(rows.all(Account), "the rows")
        self.books.compare_sums(rows.sums())

    def compare_memory(self, state: ClusterState) -> None:
        """Checks that a memory all of which is on disk is what the facts say. Old ends may have left it.

        Raises:
            PromiseBrokenError: it is not.
        """
        durable = [
            workload for workload in state.workloads.values() if workload.phase.terminal or not workload.spec.waiting
        ]
        self._compare(state.nodes.values(), state.models.values(), durable, "memory")
        self.books.compare(state.books.accounts.values(), "memory")
        self.keys.compare(state.keys.keys.values(), "memory")
        self.reservations.compare(state.reservations.all(), "memory")
        held = {key for key, facts in self.reservations.known.items() if facts["state"] == "active"}
        must(held <= {reservation.id for reservation in state.reservations.all()}, "memory has forgotten reservations")
        must(state.quotas == self.quotas.known, "other quotas are in memory than were given")
        forgotten = set(self.workloads.live()) - set(state.workloads)
        must(not forgotten, f"memory has forgotten {_names(forgotten)}")

    def _compare(
        self, nodes: Iterable[Node], models: Iterable[Model], workloads: Iterable[Workload], where: str
    ) -> None:
        for workload in workloads:
            must(workload.spec.id in self.workloads.known, f"{workload.spec.id} is in {where}, and was never accepted")
            self.workloads.compare(workload, where)
        for node in nodes:
            self.nodes.compare(node, where)
        must({node.id for node in nodes} == set(self.nodes.known), f"other nodes are in {where} than attached")
        registered = {model.id: model for model in models}
        must(registered == self.models.known, f"other models are in {where} than are registered")


def _names(ids: set[WorkloadId]) -> str:
    return ", ".join(sorted(ids))
