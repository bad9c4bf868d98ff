"""How the HiveMind agent logs in, against a served pool."""

from __future__ import annotations

import asyncio

import pytest

from arcray.agents.hivemind_caller import Credentials, PoolCaller
from arcray.core.errors import PermissionDeniedError, UnavailableError
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.refusals import ErrorCode
from tests.hivemind_server import hivemind
from tests.ports import free_ports

STATUS = "NodeManagerService.ReportStatus"
REQUEST = pool.ReportStatusRequest(node_id="ana", status="Idle")


async def test_a_user_whom_nobody_knows_is_registered_and_then_logged_in() -> None:
    async with hivemind(strict=True, nodes=[]) as served:
        caller = PoolCaller(f"127.0.0.1:{served.port}", Credentials("ana", "right"))
        told = await caller.tell(STATUS, REQUEST)
        assert (told.success, told.code) == (False, ErrorCode.NODE_NOT_FOUND)
        await caller.close()
        again = PoolCaller(f"127.0.0.1:{served.port}", Credentials("ana", "wrong"))
        with pytest.raises(PermissionDeniedError, match="does not log ana in"):
            await again.tell(STATUS, REQUEST)
        await again.close()


async def test_a_user_who_may_not_register_hears_so() -> None:
    async with hivemind(strict=True, nodes=[], open_registration=False) as served:
        caller = PoolCaller(f"127.0.0.1:{served.port}", Credentials("ana", "right"))
        with pytest.raises(PermissionDeniedError, match="nor register them: registration is closed here"):
            await caller.tell(STATUS, REQUEST)
        await caller.close()


async def test_who_comes_while_many_log_in_may_try_again() -> None:
    async with hivemind(strict=True, nodes=[], max_hashing=1) as served:
        await served.user("ana", "right")
        callers = [PoolCaller(f"127.0.0.1:{served.port}", Credentials("ana", "right")) for _ in range(80)]
        told = await asyncio.gather(*(caller.tell(STATUS, REQUEST) for caller in callers), return_exceptions=True)
        for caller in callers:
            await caller.close()
    refused = [answer for answer in told if isinstance(answer, BaseException)]
    assert refused
    assert {type(error) for error in refused} == {UnavailableError}


async def test_a_token_that_is_worth_nothing_any_more_is_replaced() -> None:
    (port,) = free_ports(1)
    caller = PoolCaller(f"127.0.0.1:{port}", Credentials("ana", "right"))
    async with hivemind(strict=True, nodes=[], port=port):
        await caller.tell(STATUS, REQUEST)
    with pytest.raises(UnavailableError):
        await caller.tell(STATUS, REQUEST)
    async with hivemind(strict=True, nodes=[], port=port, token_key="o" * 32):

        async def heard() -> bool:
            try:
                return (await caller.tell(STATUS, REQUEST)).code is ErrorCode.NODE_NOT_FOUND
            except UnavailableError:  # the channel waits before it dials again
                return False

        async with asyncio.timeout(10.0):
            while not await heard():
                pass
    await caller.close()


async def test_nobody_in_particular_is_let_in_where_no_token_is_asked_for() -> None:
    async with hivemind(strict=False, nodes=[]) as served:
        caller = PoolCaller(f"127.0.0.1:{served.port}", None)
        assert (await caller.tell(STATUS, REQUEST)).code is ErrorCode.NODE_NOT_FOUND
        await caller.close()
    async with hivemind(strict=True, nodes=[]) as served:
        caller = PoolCaller(f"127.0.0.1:{served.port}", None)
        with pytest.raises(PermissionDeniedError):
            await caller.tell(STATUS, REQUEST)
        await caller.close()
