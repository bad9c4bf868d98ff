"""A program that gives credits to others over HiveMind, all of its transfers at once. Run as a module.

It knows the contract alone: its client was compiled for that and lies on its path as ``node_pool``. One line of
standard input says what to do, a second one when. Each line of standard output tells of one transfer, as soon as that
is known: its number, and what its sender was told.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio


async def main() -> None:
    """Transfers, and tells."""
    told = json.loads(sys.stdin.readline())
    stubs: Any = importlib.import_module("node_pool.nodepool_pb2_grpc")
    messages: Any = importlib.import_module("node_pool.nodepool_pb2")
    async with grpc.aio.insecure_channel(told["address"]) as channel:
        await channel.channel_ready()
        users = stubs.UserServiceStub(channel)
        _say("ready")
        await asyncio.to_thread(sys.stdin.readline)

        async def transfer(number: int, wish: Mapping[str, Any]) -> None:
            request = messages.TransferRequest(
                token=wish["token"], receiver_username=wish["receiver"], amount=wish["amount"]
            )
            try:
                answer = await users.Transfer(request, timeout=wish["patience_s"])
            except grpc.aio.AioRpcError as error:
                _say(number, "status", error.code().name)
            else:
                _say(number, "done" if answer.success else "refused", answer.message)

        await asyncio.gather(*(transfer(number, wish) for number, wish in enumerate(told["wishes"])))


def _say(*words: object) -> None:
    os.write(sys.stdout.fileno(), json.dumps(words).encode() + b"\n")


if __name__ == "__main__":
    asyncio.run(main())
