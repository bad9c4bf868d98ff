"""Machines that join one arcray by the protocols of others, started at once and shared by the parts of the main job."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from arcray.client import Client, NodeInfo
from examples.digits.promises import require
from examples.hivemind.machine import lending
from examples.hivemind.pool import Pool, User
from examples.machine import Start, agents

__all__ = ["Joined", "Worker", "joined"]

_NO_MODELS: Final = {"ARCRAY_NODE__MODELS__ENABLED": "false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A machine that a user lends by HiveMind.

    Args:
        pool: as users of HiveMind see it.
    """

    node: NodeInfo
    pool: Pool
    owner: User


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """The machines.

    Args:
        claw: a claw node.
        device: of the Resource Pool.
        worker: None where nobody said where HiveMind is served.
    """

    claw: NodeInfo
    device: NodeInfo
    worker: Worker | None


@contextmanager
def joined(client: Client, hivemind: str | None) -> Iterator[Joined]:
    """Has a machine join by each protocol, for the time of the block.

    Args:
        hivemind: where HiveMind is served, ``host:port``.

    Raises:
        UnavailableError: one does not join; says where its log is.
    """
    claw, device = (f"{kind}-{secrets.token_hex(3)}" for kind in ("claw", "device"))
    starts = [
        _start(client, claw, "--protocol", "claw", "--gateway", _socket(client, "claw"), "--encoding", "bincode"),
        _start(client, device, "--protocol", "pool", "--gateway", _socket(client, "ws")),
    ]
    with ExitStack() as stack:
        if hivemind is None:
            stack.enter_context(agents(*starts))
            worker = None
        else:
            pool = stack.enter_context(Pool(hivemind))
            owner = pool.user("ben")
            stack.enter_context(agents(*starts, lending(pool, owner)))
            worker = Worker(node=_called(client, owner.name), pool=pool, owner=owner)
        yield Joined(claw=_called(client, claw), device=_called(client, device), worker=worker)


def _start(client: Client, name: str, *words: str) -> Start:
    return Start(
        name=name,
        words=[*words, "--name", name],
        env=_NO_MODELS,
        has_joined=lambda: any(node.name == name for node in client.nodes()),
    )


def _socket(client: Client, path: str) -> str:
    return f"{client.url.replace('http', 'ws', 1).rstrip('/')}/{path}"


def _called(client: Client, name: str) -> NodeInfo:
    found = [node for node in client.nodes() if name in {node.name, node.raw["externalId"]}]
    require(len(found) == 1, f"{len(found)} machines are called {name}")
    return found[0]
