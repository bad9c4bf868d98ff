"""Users over the wire: registration, login, tokens, balances and transfers."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import timedelta
from typing import Any, Final

import grpc
import jwt
import pytest

from arcray.core.ids import AccountId
from arcray.core.queries import ClusterStats, GetStats
from arcray.facades.hivemind.tokens import Tokens
from arcray.testing.clock import FakeClock
from tests.hivemind_server import SERVICES, hivemind

KEY: Final = "k" * 32  # of the server; see hivemind_server
REGISTER: Final = "UserService/Register"
LOGIN: Final = "UserService/Login"
BALANCE: Final = "UserService/GetBalance"
TRANSFER: Final = "UserService/Transfer"
OPEN: Final = frozenset({REGISTER, LOGIN})
INT64: Final = 2**63 - 1

SERVED: Final = [f"{name}/{method}" for name, service in SERVICES.items() for method in service.methods_by_name]


def forged(**header: Any) -> str:
    """A token without a signature, of a header of one's own."""
    parts = ({"typ": "JWT", **header}, {"user_id": "ana", "iat": 0, "exp": 10**11})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


WRONG: Final = {
    "garbage": "bad",
    "alg none": forged(alg="none"),
    "no algorithm": forged(),
    "other key": jwt.encode({"user_id": "ana", "iat": 0, "exp": 10**11}, "o" * 32, algorithm="HS256"),
    "other algorithm": jwt.encode({"user_id": "ana", "iat": 0, "exp": 10**11}, "k" * 64, algorithm="HS512"),
    "expired": jwt.encode({"user_id": "ana", "iat": 0, "exp": 1}, KEY, algorithm="HS256"),
    "for ever": jwt.encode({"user_id": "ana", "iat": 0}, KEY, algorithm="HS256"),
    "nobody's": jwt.encode({"iat": 0, "exp": 10**11}, KEY, algorithm="HS256"),
}


# -- registration and login --------------------------------------------------------------------------------------------


async def test_who_registers_logs_in_and_has_the_initial_balance() -> None:
    async with hivemind(initial_balance=70) as pool:
        token = await pool.user("testuser", "password123")
        header, claims = jwt.get_unverified_header(token), jwt.decode(token, KEY, algorithms=["HS256"])
        assert token.count(".") == 2
        assert header["alg"] == "HS256"
        assert claims["exp"] - claims["iat"] == 86_400
        found = await pool.call(BALANCE, username="testuser", token=token)
        assert (found.success, found.balance) == (True, 70)
        assert (await pool.call(BALANCE, token=token)).balance == 70


@pytest.mark.parametrize(
    ("username", "password", "field"),
    [("", "p", "username"), ("ana", "", "password"), (" ana", "p", "username"), ("a" * 300, "p", "username")],
)
async def test_nobody_registers_without_a_name_and_a_password(username: str, password: str, field: str) -> None:
    async with hivemind() as pool:
        found = await pool.answer(REGISTER, username=username, password=password)
        assert not found.message.success
        assert found.message.message.startswith(f"{field}: ")


async def test_a_name_is_taken_once_also_by_many_at_once() -> None:
    async with hivemind() as pool:
        found = await asyncio.gather(*(pool.answer(REGISTER, username="ana", password=f"p{n}") for n in range(4)))
        assert sorted(each.message.success for each in found) == [False, False, False, True]
        assert {each.code for each in found} == {0, 1003}


@pytest.mark.parametrize("name", ["local", "operator"])
async def test_names_that_mean_something_here_are_taken(name: str) -> None:
    async with hivemind() as pool:
        assert not (await pool.call(REGISTER, username=name, password="p")).success


async def test_a_wrong_login_does_not_tell_who_is_a_user() -> None:
    async with hivemind() as pool:
        await pool.user("ana")
        wrong = await pool.answer(LOGIN, username="ana", password="wrong")
        unknown = await pool.answer(LOGIN, username="nobody", password="wrong")
        assert wrong == unknown
        assert (wrong.message.success, wrong.message.token, wrong.code) == (False, "", 1002)


async def test_where_keys_are_asked_for_nobody_registers_and_every_call_wants_a_token() -> None:
    async with hivemind(auth={"mode": "keys"}) as pool:
        found = await pool.answer(REGISTER, username="ana", password="p")
        assert (found.message.success, found.core_code) == (False, "PERMISSION_DENIED")
        assert found.message.message == "registration is closed here; the operator opens it"
        assert (await pool.answer("NodeManagerService/GetNodeList")).status is grpc.StatusCode.UNAUTHENTICATED


async def test_where_keys_are_asked_for_an_operator_may_open_registration() -> None:
    async with hivemind(auth={"mode": "keys"}, open_registration=True) as pool:
        token = await pool.user("ana")
        assert (await pool.call("NodeManagerService/GetNodeList", token=token)) is not None


# -- doors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [True, False])
async def test_metadata_that_is_wrong_opens_no_method(strict: bool) -> None:
    async with hivemind(strict=strict) as pool:
        right = await pool.user("ana")
        shown = [f"Bearer {token}" for token in WRONG.values()] + [f"Basic {right}", right, "Bearer"]
        for method in SERVED:
            for authorization in shown:
                found = await pool.send(method, b"", authorization)
                assert found.status is grpc.StatusCode.UNAUTHENTICATED, (method, authorization)
                assert (found.code, found.core_code) == (1004, "UNAUTHENTICATED")


async def test_in_strict_mode_every_method_but_register_and_login_wants_a_token() -> None:
    async with hivemind(strict=True) as pool:
        token = await pool.user("ana")
        for method in SERVED:
            nobody = await pool.send(method, b"")
            refused = nobody.status is grpc.StatusCode.UNAUTHENTICATED
            assert refused == (method not in OPEN), method
            known = await pool.send(method, b"", f"Bearer {token}")
            assert known.status is not grpc.StatusCode.UNAUTHENTICATED, method


async def test_every_method_of_the_contract_is_served() -> None:
    async with hivemind() as pool:
        assert len(SERVED) == 27
        for method in SERVED:
            assert (await pool.send(method, b"")).status is not grpc.StatusCode.UNIMPLEMENTED, method


async def test_a_token_is_worth_nothing_after_24_hours() -> None:
    clock = FakeClock()
    async with hivemind(clock=clock) as pool:
        token = Tokens(KEY.encode()).issue(AccountId("ana"), clock.now())
        clock.jump(timedelta(hours=24).total_seconds() - 1)
        assert (await pool.send("NodeManagerService/GetNodeList", b"", f"Bearer {token}")).message is not None
        clock.jump(1)
        found = await pool.send("NodeManagerService/GetNodeList", b"", f"Bearer {token}")
        assert (found.status, found.details) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "authorization: has expired; log in again",
        )


# -- balances and transfers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", *WRONG.values()], ids=["none", *WRONG])
async def test_a_balance_is_not_told_for_a_token_that_is_wrong(token: str) -> None:
    async with hivemind() as pool:
        await pool.user("ana")
        read = await pool.answer(BALANCE, message_token=token, username="ana")
        assert (read.message.success, read.message.balance, read.code) == (False, 0, 1004)
        assert "token" in read.message.message


async def test_a_balance_is_not_told_to_another() -> None:
    async with hivemind() as pool:
        ana, _ = await pool.user("ana"), await pool.user("bo")
        found = await pool.answer(BALANCE, message_token=ana, username="bo")
        assert (found.message.success, found.message.balance, found.core_code) == (False, 0, "PERMISSION_DENIED")


async def test_a_token_of_another_than_the_metadatas_is_refused() -> None:
    async with hivemind() as pool:
        ana, bo = await pool.user("ana"), await pool.user("bo")
        found = await pool.answer(BALANCE, token=ana, message_token=bo)
        assert (found.message.success, found.code) == (False, 1004)


async def test_a_transfer_moves_credits() -> None:
    async with hivemind() as pool:
        ana, bo = await pool.user("ana"), await pool.user("bo")
        assert (await pool.call(TRANSFER, token=ana, receiver_username="bo", amount=30)).success
        assert (await pool.balance(ana), await pool.balance(bo)) == (70, 130)


@pytest.mark.parametrize(
    ("receiver", "amount", "field", "code"),
    [
        ("bo", 0, "amount", 9999),
        ("bo", -1, "amount", 9999),
        ("bo", -INT64 - 1, "amount", 9999),
        ("bo", INT64, "amount", 9999),
        ("bo", 101, "amount", 2003),
        ("ana", 1, "receiver_username", 9999),
        ("nobody", 1, "receiver_username", 1001),
        ("", 1, "receiver_username", 9999),
    ],
)
async def test_a_transfer_that_is_wrong_moves_nothing(receiver: str, amount: int, field: str, code: int) -> None:
    async with hivemind() as pool:
        ana, bo = await pool.user("ana"), await pool.user("bo")
        found = await pool.answer(TRANSFER, token=ana, receiver_username=receiver, amount=amount)
        assert not found.message.success
        assert found.message.message.startswith(f"{field}: "), found.message.message
        assert found.code == code
        assert (await pool.balance(ana), await pool.balance(bo)) == (100, 100)


async def test_a_thousand_transfers_at_once_keep_the_sum() -> None:
    """Some are refused, because their sender has nothing left; what was acknowledged was moved, and nothing else."""
    async with hivemind() as pool:
        names = [f"user-{number}" for number in range(5)]
        tokens = {name: await pool.user(name) for name in names}
        moves = [(names[n % 5], names[(n * 7 + n // 5 + 1) % 5], n % 40 + 1) for n in range(1_000)]
        moves = [(source, target, amount) for source, target, amount in moves if source != target]
        answers = await asyncio.gather(
            *(
                pool.call(TRANSFER, token=tokens[source], receiver_username=target, amount=amount)
                for source, target, amount in moves
            )
        )
        expected = dict.fromkeys(names, 100)
        for (source, target, amount), answer in zip(moves, answers, strict=True):
            if answer.success:
                expected[source] -= amount
                expected[target] += amount
        assert {name: await pool.balance(token) for name, token in tokens.items()} == expected
        assert sum(expected.values()) == 500
        assert {answer.success for answer in answers} == {True, False}
        stats = await pool.cluster.plane.query(GetStats())
        assert isinstance(stats, ClusterStats)
        assert stats.imbalance == 0
