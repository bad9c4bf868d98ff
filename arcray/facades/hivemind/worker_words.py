"""Whom to believe: which work a worker speaks of, and whether it may.

A word about work is believed only while that work is placed on the worker that speaks, under the id that this worker
knows this attempt by: what comes late of an earlier one is about nothing. Some messages name no worker; then it is the
one that has the work. A token that is shown has to be of the user who owns or registered the worker. Who shows none,
where none is asked for, speaks for any worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from arcray.core.errors import ConflictError, InvalidArgumentError, NotFoundError, PermissionDeniedError
from arcray.core.ids import AccountId
from arcray.core.node import NodeRegistration, NodeView
from arcray.core.ports import ControlPlane
from arcray.core.queries import FindLogin, GetNode, GetWorkload
from arcray.core.workload import WorkloadView
from arcray.facades.hivemind.callers import Caller
from arcray.facades.hivemind.calls import Call
from arcray.facades.hivemind.orders import task_id_of, workload_of
from arcray.facades.hivemind.own_words import is_of_attempt
from arcray.facades.hivemind.tasks import FACADE, status_of
from arcray.facades.hivemind.users import user_id
from arcray.facades.hivemind.workers import node_id_of, speakers_of, was_registered_by_a_user

__all__ = ["Placed", "WorkerWords"]

_TRAILING: Final = timedelta(seconds=60)  # what it wrote last may come after its end


@dataclass(frozen=True, slots=True)
class Placed:
    """Work on the worker that speaks of it."""

    work: WorkloadView
    node: NodeView

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.work.phase.terminal

    def check_live(self) -> None:
        """Refuses what comes after the end.

        Raises:
            ConflictError: it has ended.
        """
        if self.ended:
            raise ConflictError(f"is {status_of(self.work).value} already", field="task_id")

    def check_writes(self, now: datetime) -> None:
        """Refuses what is written long after the end.

        Raises:
            ConflictError: it has ended, and not just now.
        """
        if self.work.finished_at is not None and now - self.work.finished_at > _TRAILING:
            self.check_live()


class WorkerWords:
    """Finds what workers speak of."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def about(self, task_id: str, call: Call, node_id: str = "") -> Placed:
        """Returns the work that a worker speaks of.

        Args:
            call: says who speaks, and if it is a worker of arcray's, of which attempt.
            node_id: the worker, where the message names it.

        Raises:
            InvalidArgumentError: nothing can be called that; names the field.
            NotFoundError: no such work is on that worker.
            PermissionDeniedError: the token is of a user who does not speak for it.
        """
        nothing = NotFoundError("no such task on that worker", field="task_id")
        named = node_id_of(node_id) if node_id else None
        try:
            work: WorkloadView = await self._plane.query(GetWorkload(workload_id=workload_of(task_id)))
        except NotFoundError as error:
            raise nothing from error
        elsewhere = work.node_id is None or (named is not None and work.node_id != named)
        if elsewhere or task_id_of(work, work.attempt) != task_id or not is_of_attempt(call.words, work):
            raise nothing
        assert work.node_id is not None
        try:
            node: NodeView = await self._plane.query(GetNode(node_id=work.node_id))
        except NotFoundError as error:
            raise nothing from error
        if node.registration.facade != FACADE:
            raise nothing
        check_speaks(call.caller, node.registration)
        return Placed(work, node)

    async def worker(self, node_id: str, caller: Caller) -> NodeView:
        """Returns the worker that speaks of itself.

        Raises:
            InvalidArgumentError: no worker can be called that.
            NotFoundError: it has to register.
            PermissionDeniedError: the token is of a user who does not speak for it.
        """
        view = await self.known(node_id)
        if view is None:
            raise NotFoundError("no such node; it has to register", field="node_id")
        check_speaks(caller, view.registration)
        return view

    async def known(self, node_id: str) -> NodeView | None:
        """Returns a worker, None where nobody knows it."""
        try:
            view: NodeView = await self._plane.query(GetNode(node_id=node_id_of(node_id)))
        except NotFoundError:
            return None
        return view if view.registration.facade == FACADE else None

    async def owner_of(self, node_id: str, caller: Caller) -> AccountId | None:
        """Returns the user whose name a worker bears, who is paid for what it does; None where it is no user's.

        Who bears the name may register it, whoever did before.

        Raises:
            PermissionDeniedError: the token is another user's; or another user registered it before.
        """
        owner = await self._named_as(node_id)
        if caller.user is not None and caller.user == owner:
            return owner
        known = await self.known(node_id)
        if known is not None:
            check_speaks(caller, known.registration)
            # Who shows no token may, as in the examples, where no user has registered it by one before.
            if caller.user is None and was_registered_by_a_user(known.registration):
                raise PermissionDeniedError("is a user's worker; it registers with their token", field="node_id")
        if caller.user is not None and owner is not None:
            raise PermissionDeniedError("is another user's name", field="node_id")
        return owner

    async def _named_as(self, node_id: str) -> AccountId | None:
        try:
            owner = user_id(node_id, "node_id")
            await self._plane.query(FindLogin(account_id=owner))
        except (InvalidArgumentError, NotFoundError):
            return None
        return owner


def check_speaks(caller: Caller, registration: NodeRegistration) -> None:
    """Refuses the word of another user than those who speak for a worker.

    Raises:
        PermissionDeniedError: the token is such a user's.
    """
    speakers = speakers_of(registration)
    if caller.user is not None and speakers and caller.user not in speakers:
        raise PermissionDeniedError("is another user's worker", field="node_id")
