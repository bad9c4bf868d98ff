"""Who may do what where keys are wanted."""

from __future__ import annotations

from typing import Any, Final

import pytest
from websockets.exceptions import InvalidStatus

from arcray.config import AuthSettings
from arcray.core import commands as cmd
from arcray.core.ids import AccountId
from arcray.core.keys import Scope
from arcray.core.node import Health
from arcray.facades.pool.nodes import node_id_of
from arcray.pool_settings import PoolProgram, PoolSettings
from arcray.testing.builders import a_key
from arcray.testing.simulated_node import Script, SimulatedNode
from tests.conformance.conftest import Serve
from tests.conformance.pool.pool_rig import a_client, has, nodes_of, until
from tests.conformance.pool.test_pool_lending import active

KEYS: Final = AuthSettings(mode="keys", keys={"root": "k-root"}, scopes={"root": Scope.ADMIN})
PROGRAM: Final = PoolProgram(entry_point="arcray.facades.pool.demonstration:process_data")
SETTINGS: Final = PoolSettings(show_cluster_nodes=False, programs={"p": PROGRAM})
SUBMIT, THEIRS, READ, NODE, ROOT = "secret-1", "secret-2", "secret-3", "secret-4", "k-root"


def served_by(serve: Serve, *nodes: SimulatedNode) -> Any:
    return serve(facades=("pool",), nodes=list(nodes), listen=True, auth=KEYS, pool=SETTINGS)


async def issue(served: Any) -> None:
    for account in ("ana", "bo"):
        await served.cluster.ask(cmd.OpenAccount(account_id=AccountId(account)))
    bo = AccountId("bo")
    for key in (
        a_key(1, scope=Scope.SUBMIT),
        a_key(2, scope=Scope.SUBMIT, account=bo),
        a_key(3, scope=Scope.READ),
        a_key(4, scope=Scope.NODE, node_id=node_id_of("W")),
    ):
        await served.cluster.ask(cmd.IssueKey(key=key))


def by(key: str) -> dict[str, Any]:
    return {"additional_headers": {"Authorization": f"Bearer {key}"}}


@pytest.mark.parametrize("key", ["wrong", READ])
async def test_others_are_refused_before_the_socket_opens(serve: Serve, key: str) -> None:
    async with served_by(serve) as served:
        await issue(served)
        with pytest.raises(InvalidStatus) as raised:
            async with a_client(served, **by(key)):
                pass
    assert raised.value.response.status_code == (401 if key == "wrong" else 403)


async def test_lists_want_a_key_that_reads(serve: Serve) -> None:
    async with served_by(serve) as served:
        await issue(served)
        statuses = [
            (await served.client.get("/api/devices", headers={"Authorization": f"Bearer {key}"})).status_code
            for key in (READ, SUBMIT, NODE)
        ]
    assert statuses == [200, 200, 403]


async def test_only_a_machine_or_an_operator_lends_itself_for_the_work_of_others(serve: Serve) -> None:
    async with served_by(serve) as served:
        await issue(served)
        found = {}
        for key, name in ((SUBMIT, "A"), (NODE, "W"), (ROOT, "R")):
            async with a_client(served, **by(key)) as client:
                await client.register(name, capabilities=["task"])
                found[name] = (await nodes_of(served))[name].registration.capabilities.programs
    assert found == {"A": False, "W": True, "R": True}


async def test_a_machines_key_is_for_that_machine_and_submits_nothing(serve: Serve) -> None:
    node = SimulatedNode(script=lambda _: Script(log=b"done"))
    async with served_by(serve, node) as served:
        await issue(served)
        async with a_client(served, **by(NODE)) as machine:
            await machine.register("W")
            assert (await machine.request("W"))["fulfilled"] is False
            await machine.say("task_submit", task={"id": "t", "data": {"command": "p"}})
            assert (await machine.hear("task_result"))["result"]["success"] is False
        async with a_client(served, **by(NODE)) as other:
            await other.say("register", deviceId="X")
            assert (await other.closed())[0] == 1008
        async with a_client(served, **by(SUBMIT)) as client:
            await client.say("task_submit", task={"id": "t", "data": {"command": "p"}})
            assert (await client.hear("task_result"))["result"] == {"success": True, "result": "done"}


async def test_a_machine_that_claims_anothers_id_takes_nothing_from_it(serve: Serve) -> None:
    """Both have keys of the same account."""
    async with served_by(serve) as served:
        await issue(served)
        await served.cluster.ask(cmd.IssueKey(key=a_key(5, scope=Scope.NODE, node_id=node_id_of("X"))))
        async with a_client(served, **by(NODE)) as machine, a_client(served, **by("secret-5")) as impostor:
            await machine.register("W", capabilities=["task"])
            await impostor.say("register", deviceId="W", deviceName="mine")
            assert (await impostor.closed())[0] == 1008
            assert await machine.update("W", cpuUsage=7)
            (device,) = (await served.client.get("/api/devices", headers=by(ROOT)["additional_headers"])).json()[
                "devices"
            ]
            assert (device["name"], device["resources"]["cpuUsage"]) == ("Wname", 7)
            await machine.say("heartbeat", deviceId="W")
            assert (await nodes_of(served))["W"].health is Health.HEALTHY


async def test_accounts_neither_take_over_nor_release_what_is_anothers(serve: Serve) -> None:
    async with served_by(serve) as served:
        await issue(served)
        async with a_client(served, **by(SUBMIT)) as ana, a_client(served, **by(THEIRS)) as bo:
            await ana.register("A")
            await ana.update("A", **has())
            allocation = await bo.request("B", cpu=80)
            await ana.say("resource_release", allocationId=allocation["id"])
            assert (await ana.request("C", cpu=80))["fulfilled"] is False
            await bo.say("register", deviceId="A")
            assert (await bo.closed())[0] == 1008
            assert [device["id"] for device in await ana.register("A")] == ["A"]


async def test_what_an_account_holds_ends_with_its_own_socket(serve: Serve) -> None:
    """Whatever device it names as the requester, and whoever else wants it released."""
    async with served_by(serve) as served:
        await issue(served)
        async with a_client(served, **by(SUBMIT)) as ana, a_client(served, **by(SUBMIT)) as lender:
            await ana.register("A")
            await lender.register("L")
            await lender.update("L", **has())
            async with a_client(served, **by(THEIRS)) as bo:
                allocations = [await bo.request(name, cpu=10) for name in ("A", "B")]
                assert [each["fulfilled"] for each in allocations] == [True, True]
                for each in allocations:
                    await ana.say("resource_release", allocationId=each["id"])
                await ana.quiet("A")
                await lender.register("A")  # another socket answers for it from now on

            async def released() -> bool:
                return await active(served) == 0

            await until(served, released)
