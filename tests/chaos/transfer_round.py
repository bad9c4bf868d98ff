"""Transfers over HiveMind while the scheduler is killed: a client process, all of its transfers at once.

The protocol has no key by which a transfer could be sent again, so a client that got no answer does not know, and must
be able to count on this: it has happened once or not at all. Which transfers are in the books is told by who gave how
much to whom, which is another triple for each.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from typing import Any, Final, TypeAlias

from arcray.core.ids import AccountId
from arcray.core.ledger import EntryKind
from arcray.testing.faults import posted, stored_accounts
from arcray.testing.scheduler_process import Kill
from tests.chaos.kill_ledger import check_books
from tests.chaos.kill_round import Mortal
from tests.conformance.hivemind.worker_rig import Stub

__all__ = ["TransferRound"]

Triple: TypeAlias = tuple[AccountId, AccountId, int]
"""Who gives, who gets, how much."""

_ROOT: Final = Path(__file__).parents[2]
_USERS: Final = 6
_LARGEST: Final = 36  # of 30 pairs, which makes 1,080 transfers; an account that begins with 100 runs out now and then
_PATIENT_S: Final = 60.0
_IMPATIENT_S: Final = (0.005, 0.05, 0.2)
_UNKNOWN: Final = {"DEADLINE_EXCEEDED"}  # a client's own, who lost patience


@dataclass(slots=True, kw_only=True)
class _Wish:
    """One transfer.

    Args:
        patience_s: how long its client waits for the answer.
        told: done, refused or status; "" before the client has told.
        why: the answer's message, or the status.
    """

    triple: Triple
    patience_s: float
    told: str = ""
    why: str = ""


class TransferRound:
    """One round of transfers, and what is known of them.

    Args:
        address: where HiveMind is served.
        client: directory of the compiled client.
        number: of transfers, 1,080 at the most.
    """

    def __init__(self, dice: random.Random, address: str, client: Path, number: int) -> None:
        self._dice = dice
        self._address = address
        self._client = client
        name = f"round-{dice.getrandbits(32):08x}"
        self._users = [AccountId(f"{name}-{user}") for user in range(_USERS)]
        triples = [(*pair, credits) for pair, credits in product(permutations(self._users, 2), range(1, _LARGEST + 1))]
        self._wishes = [
            _Wish(triple=triple, patience_s=dice.choice(_IMPATIENT_S) if dice.random() < 0.1 else _PATIENT_S)
            for triple in dice.sample(triples, number)
        ]
        self._tokens: dict[AccountId, str] = {}
        self._before: Mapping[AccountId, int] = {}
        self._after: Mapping[AccountId, int] = {}
        self._outlived = 0

    @property
    def figures(self) -> dict[str, int]:
        """How much was looked at, for the summary of a run."""
        told = Counter(wish.told for wish in self._wishes)
        return {
            "transfers_over_grpc": len(self._wishes),
            "transfers_over_grpc_acknowledged": told["done"],
            "transfers_over_grpc_without_answer": told["status"],
            "transfers_over_grpc_across_a_death": self._outlived,
        }

    async def open(self) -> None:
        """Registers the users and logs them in."""
        async with _calling(self._address) as call:
            for user in self._users:
                shown = {"username": user, "password": "correct horse"}
                registered = await call("UserService.Register", **shown)
                assert registered.success, registered.message
                self._tokens[user] = (await call("UserService.Login", **shown)).token
            self._before = await self._balances(call)

    async def run(self, scheduler: Mortal, kills: Sequence[Kill]) -> None:
        """Transfers while the scheduler lives and dies, and until it serves for good."""
        async with self._process() as process, asyncio.TaskGroup() as group:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            group.create_task(scheduler.live(kills))
            group.create_task(self._listen(process, scheduler))
        async with _calling(self._address) as call:
            self._after = await self._balances(call)

    def check(self, database: Path) -> None:
        """Asserts that no credit was made, lost or moved twice, and that what was acknowledged is in the books."""
        entries, accounts = posted(database), stored_accounts(database)
        check_books(entries, accounts)
        moved = Counter(
            (source.account, target.account, target.credits)
            for entry in entries
            if entry.kind is EntryKind.TRANSFER
            for source, target in [sorted(entry.postings, key=lambda posting: posting.credits)]
            if source.account in self._users
        )
        assert set(moved) <= {wish.triple for wish in self._wishes}
        for wish in self._wishes:
            times = moved[wish.triple]
            assert times <= 1, f"moved {times} times: {wish}"
            match wish.told:
                case "done":
                    assert times == 1, f"acknowledged and lost: {wish}"
                case "refused":
                    assert "credits" in wish.why, wish
                    assert times == 0, f"refused and done: {wish}"
                case _:
                    assert wish.told == "status", wish
                    assert wish.why in _UNKNOWN, wish
                    assert wish.patience_s < _PATIENT_S, f"never answered: {wish}"
        assert sum(self._after.values()) == sum(self._before.values())
        expected = Counter(self._before)
        for source, target, credits in moved.elements():
            expected[source] -= credits
            expected[target] += credits
        assert self._after == expected
        assert self._after == {user: accounts[user].available for user in self._users}

    async def _balances(self, call: Stub) -> Mapping[AccountId, int]:
        found = {}
        for user in self._users:
            answer = await call("UserService.GetBalance", token=self._tokens[user])
            assert answer.success, answer.message
            found[user] = answer.balance
        return found

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.transfer_client"),
            cwd=_ROOT,
            env=os.environ | {"PYTHONPATH": f"{self._client}{os.pathsep}{_ROOT}"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdin is not None
            process.stdin.write(
                json.dumps({"address": self._address, "wishes": self._told_to_client()}).encode() + b"\n"
            )
            assert process.stdout is not None
            assert json.loads(await process.stdout.readline()) == ["ready"]
            yield process
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _told_to_client(self) -> list[dict[str, Any]]:
        return [
            {"token": self._tokens[source], "receiver": target, "amount": credits, "patience_s": wish.patience_s}
            for wish in self._wishes
            for source, target, credits in [wish.triple]
        ]

    async def _listen(self, process: asyncio.subprocess.Process, scheduler: Mortal) -> None:
        assert process.stdout is not None
        before = scheduler.deaths
        async for line in process.stdout:
            number, told, why = json.loads(line)
            assert not self._wishes[number].told
            self._wishes[number].told, self._wishes[number].why = told, why
            self._outlived += scheduler.deaths > before


@asynccontextmanager
async def _calling(address: str) -> AsyncIterator[Stub]:
    call = Stub(address)
    try:
        yield call
    finally:
        await call.close()
