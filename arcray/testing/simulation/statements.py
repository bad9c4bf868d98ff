"""Statements: what a reply or an answer says must be on disk when it leaves the scheduler, and no older than before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from arcray.core import commands as cmd
from arcray.core import queries as q
from arcray.core.errors import ArcrayError, Code
from arcray.core.ids import WorkloadId
from arcray.core.ledger import ISSUER, AccountView
from arcray.core.reservation import Reservation
from arcray.core.workload import Inference, WorkloadView
from arcray.testing.simulation.model import PlainModel
from arcray.testing.simulation.promise import must

__all__ = ["Asked", "check_answer", "check_reply"]

_ENDED: Final = frozenset({"succeeded", "failed", "stopped", "rejected"})
_FINAL: Final = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED})

Asked = Mapping[WorkloadId, tuple[str, int]]
"""Phase and attempt of every workload, as they were on disk when a query was asked."""


def check_reply(model: PlainModel, command: cmd.Command, reply: object, *, awaited: frozenset[WorkloadId]) -> None:
    """Checks what the reply to a command states.

    Args:
        awaited: requests whose senders wait, of which nothing is on disk before they end.

    Raises:
        PromiseBrokenError: it is not so.
    """
    known = model.workloads.known
    work: dict[str, Any] | None
    match command, reply:
        case cmd.SubmitWorkload(), cmd.Submitted():
            _check_submitted(model, command, reply)
        case cmd.SubmitWorkload(), WorkloadView():
            _check_view(model, reply, {})
            must(reply.phase.terminal, f"{reply.spec.id} is answered while {reply.phase}")
        case cmd.StopWorkload(), _:
            work = known.get(command.workload_id)
            must(
                work is not None and (work["stop_requested"] or work["phase"] in _ENDED),
                f"the stop of {command.workload_id} is acknowledged before it is on disk",
            )
        case cmd.AttachNode(), cmd.Attached():
            node = model.nodes.known.get(reply.node_id)
            must(node is not None and node["epoch"] >= reply.epoch, f"{reply} is answered before it is on disk")
        case cmd.RegisterModel(), _:
            must(command.model.id in model.models.ever, f"{command.model.id} is acknowledged before it is on disk")
        case cmd.ReportEnd(), _ if command.workload_id not in awaited:
            work = known.get(command.workload_id)
            must(
                work is not None
                and (work["attempt"] > command.attempt or work["phase"] in _ENDED or work["phase"] == "pending"),
                f"the end of {command.workload_id} is acknowledged before it is on disk",
            )
        case cmd.Reserve(), Reservation():
            model.reservations.check_granted(command, reply)
        case cmd.ReleaseReservation(), _:
            facts = model.reservations.known.get(command.reservation_id)
            must(
                facts is not None and facts["state"] != "active",
                f"{command.reservation_id} is said to be given back before it is on disk",
            )
        case _:
            _check_ledger_reply(model, command, reply)


def check_answer(model: PlainModel, query: q.Query, answer: object, asked: Asked) -> None:
    """Checks what the answer to a query states.

    Raises:
        PromiseBrokenError: it is not so.
    """
    match answer:
        case WorkloadView():
            _check_view(model, answer, asked)
        case q.WorkloadPage():
            for view in answer.workloads:
                _check_view(model, view, asked)
            known = model.workloads.known
            listed = sum(not isinstance(known[key]["spec"].payload, Inference) for key in asked)
            must(answer.total is not None and answer.total >= listed, "a list leaves out what is on disk")
        case Reservation() | q.ReservationPage():
            for reservation in (answer,) if isinstance(answer, Reservation) else answer.reservations:
                _check_reservation(model, reservation)
        case AccountView():
            _check_account(model, answer)
        case ArcrayError() if answer.code is Code.NOT_FOUND:
            if isinstance(query, q.GetWorkload):
                must(query.workload_id not in asked, f"{query.workload_id} was accepted and cannot be found")
        case ArcrayError():
            must(answer.code in _FINAL, f"{type(query).__name__} is answered with {answer!r}")
        case _:
            pass


def _check_submitted(model: PlainModel, command: cmd.SubmitWorkload, reply: cmd.Submitted) -> None:
    known = model.workloads.known
    must(reply.workload_id in known, f"{reply.workload_id} is acknowledged before it is on disk")
    work = known[reply.workload_id]
    must(work["spec"].origin.account == command.spec.origin.account, "a submission is answered with another's")
    must(
        not reply.created or reply.workload_id == command.spec.id,
        f"{command.spec.id} is created as another",
    )
    if reply.phase.terminal:
        must(work["phase"] == reply.phase, f"{reply.workload_id} is said to be {reply.phase}")


def _check_ledger_reply(model: PlainModel, command: cmd.Command, reply: object) -> None:
    match command, reply:
        case cmd.OpenAccount() | cmd.OpenLogin() | cmd.SetSpendingLimit(), _:
            known = command.account_id in model.books.known
            must(known, f"account {command.account_id} is acknowledged before it is on disk")
        case cmd.IssueCredits() | cmd.TransferCredits(), cmd.Posted():
            model.books.check_posted(command, reply)
        case cmd.IssueKey(), _:
            must(command.key.id in model.keys.ever, f"key {command.key.id} is acknowledged before it is on disk")
        case _:
            pass


def _check_account(model: PlainModel, shown: AccountView) -> None:
    must(shown.id in model.books.known, f"account {shown.id} is shown before it is on disk")
    must(
        shown.id == ISSUER or shown.available + shown.overdraft >= 0,
        f"{shown.id} is shown with {shown.available}, {-shown.overdraft} is the least",
    )


def _check_reservation(model: PlainModel, shown: Reservation) -> None:
    facts = model.reservations.known.get(shown.id)
    must(facts is not None, f"reservation {shown.id} is shown before it is on disk")
    ended = facts is not None and facts["state"] == shown.state
    must(shown.state == "active" or ended, f"reservation {shown.id} is shown as {shown.state} before it is on disk")


def _check_view(model: PlainModel, view: WorkloadView, asked: Asked) -> None:
    key = view.spec.id
    work = model.workloads.known.get(key)
    if view.spec.waiting and not view.phase.terminal:
        return
    must(work is not None, f"{key} is shown before it is on disk")
    facts: dict[str, Any] = work or {}
    if view.phase.terminal:
        must(facts["phase"] == view.phase, f"{key} is shown as {view.phase}, and is {facts['phase']}")
        payload = view.spec.payload
        if isinstance(payload, Inference) and view.result is not None and view.result.output is not None:
            must(view.result.output == payload.input, f"{key} is answered with the output of {view.result.output!r}")
    must(view.attempt <= facts["attempt"], f"{key} is shown at an attempt that is not on disk")
    if key in asked:
        phase, attempt = asked[key]
        must(view.attempt >= attempt, f"{key} is shown as it was before")
        must(phase not in _ENDED or view.phase == phase, f"{key} had ended as {phase} and is shown as {view.phase}")
