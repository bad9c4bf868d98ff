"""Where tasks are handed in, looked up and stopped, whichever method asks. What their files hold is read elsewhere.

A task id is the workload's id, and another call may hand in the same one at the same time. So what a call stores has a
key of its own, and only the scheduler says whose task it is: whoever comes second has written nothing of the first's.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final

from arcray.core.blobkeys import INLINE_BYTES
from arcray.core.commands import StopWorkload, Submitted
from arcray.core.errors import AlreadyExistsError, ConflictError, IdempotencyMismatchError, NotFoundError
from arcray.core.ids import AccountId
from arcray.core.ports import Clock, ControlPlane, Ids
from arcray.core.queries import GetAccount, GetWorkload
from arcray.core.workload import WorkloadView
from arcray.facades.hivemind.callers import Caller
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.tasks import Upload, check_is_task, status_of, upload_of, workload_id_of
from arcray.facades.hivemind.users import user_id
from arcray.wire.asking import ask
from arcray.wire.submitting import submit_work

__all__ = ["TaskDesk"]

_UNKNOWN_S: Final = 1.0  # so long a user who registers meanwhile has their tasks stay off nodes that want pay
_ACCOUNTS: Final = 4_096
_THREAD_BYTES: Final = 64 * 1024  # judging a larger archive holds up others


class TaskDesk:
    """Takes tasks in, finds and stops them.

    Args:
        house_rate: credits for each begun minute on the pool's own nodes.
        unpacked_bytes: most that an archive may unpack to.
    """

    def __init__(self, plane: ControlPlane, ids: Ids, clock: Clock, *, house_rate: int, unpacked_bytes: int) -> None:
        self._plane = plane
        self._clock = clock
        self._accounts: dict[
            AccountId, tuple[float, bool]
        ] = {}  # until when, and whether there is one; the newest last
        self._ids = ids
        self._house_rate = house_rate
        self._unpacked_bytes = unpacked_bytes

    async def submit(
        self,
        request: pool.UploadTaskRequest,
        *,
        user: AccountId | None,
        now: datetime,
        env: tuple[tuple[str, str], ...] = (),
    ) -> Submitted:
        """Accepts a task; it is on disk once this returns.

        Args:
            user: whose it is; None takes the request's word for it.
            env: variables besides the task's id.

        Raises:
            AlreadyExistsError: there is a task of that id.
            ArcrayError: it was refused; names the field.
        """
        account = user if user is not None else user_id(request.user_id, "user_id")
        workload_id = workload_id_of(request.task_id)
        is_small = len(request.task_data) <= INLINE_BYTES
        if not is_small and await self._is_there(GetWorkload(workload_id=workload_id)):
            raise _taken()  # before its code is stored
        registered = await self._has_account(account)
        call_id = self._ids.new()

        def judged() -> Upload:
            return upload_of(
                request,
                user=account,
                registered=registered,
                call_id=call_id,
                now=now,
                house_rate=self._house_rate,
                unpacked_bytes=self._unpacked_bytes,
                env=env,
            )

        upload = judged() if len(request.task_data) <= _THREAD_BYTES else await asyncio.to_thread(judged)
        try:
            return await submit_work(self._plane, upload.spec, {upload.code_key: upload.code})
        except (AlreadyExistsError, IdempotencyMismatchError) as error:
            raise _taken() from error

    async def find(self, task_id: str, caller: Caller) -> WorkloadView:
        """Returns a task that the caller may see.

        Raises:
            InvalidArgumentError: no task can be called that.
            NotFoundError: there is none, or it is another user's.
        """
        query = GetWorkload(workload_id=workload_id_of(task_id), account=caller.sees)
        try:
            view: WorkloadView = await self._plane.query(query)
        except NotFoundError as error:
            raise NotFoundError("no such task", field="task_id") from error
        check_is_task(view)
        return view

    async def stop(self, task_id: str, caller: Caller) -> None:
        """Asks for the end of a task; asking again while it ends changes nothing.

        Raises:
            InvalidArgumentError, NotFoundError: as ``find``.
            ConflictError: it has ended.
        """
        view = await self.find(task_id, caller)
        if view.phase.terminal:
            raise ConflictError(f"is {status_of(view).value} already", field="task_id")
        await ask(self._plane, StopWorkload(workload_id=view.spec.id, account=caller.sees))

    async def _has_account(self, account: AccountId) -> bool:
        """Returns whether a user has an account. One is never closed; that there is none is known for a second."""
        now_s = self._clock.monotonic()
        until_s, found = self._accounts.get(account, (now_s, False))
        if not found and until_s <= now_s:
            found = await self._is_there(GetAccount(account_id=account))
            self._accounts.pop(account, None)
            self._accounts[account] = (now_s + _UNKNOWN_S, found)
            while len(self._accounts) > _ACCOUNTS:
                del self._accounts[next(iter(self._accounts))]
        return found

    async def _is_there(self, query: GetWorkload | GetAccount) -> bool:
        try:
            await self._plane.query(query)
        except NotFoundError:
            return False
        return True


def _taken() -> AlreadyExistsError:
    return AlreadyExistsError("is taken: there is a task of that id", field="task_id")
