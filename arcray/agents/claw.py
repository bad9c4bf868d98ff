"""``arcray agent --protocol claw``: this machine as a claw node, by the code that Ray nodes run."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from arcray import claw_proto, state_directory
from arcray.agents.claw_pool import ClawPool, Records
from arcray.agents.claw_session import ClawSession, Leave
from arcray.agents.link import Link, Peer, websocket_url
from arcray.agents.pool_plane import PoolPlane
from arcray.claw_proto.frames import MAX_MESSAGE_BYTES, Form
from arcray.config import Settings
from arcray.control.blobs import FsspecBlobs
from arcray.core.errors import InvalidArgumentError, UnavailableError
from arcray.core.orders import Order
from arcray.facades.claw.nodes import FACADE, LEASE
from arcray.node.agent import NodeAgent
from arcray.node.gpu import NvmlProbe
from arcray.node.identity import hostname, machine_node_id
from arcray.wire.system import RandomIds, SystemClock

__all__ = ["FORMS", "Joining", "run"]

_log = logging.getLogger(__name__)

FORMS: Final = {"json": Form.INTERNAL, "bincode": Form.BINARY}
"""Encodings by the names that people give them."""

_NAME_LIMIT: Final = 64
_NAME_SIGNS: Final = "-_"
_LEAVE_S: Final = 20.0
_HEARD_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """How a machine joins.

    Args:
        gateway: ``ws://HOST:PORT/claw``.
        encoding: one of ``FORMS``.
        name: its name there; "" is its own.
        max_workloads: how many may run at a time.
        api_key: shown to the gateway; "" shows none.
    """

    gateway: str = field(repr=False)
    encoding: str = "json"
    name: str = ""
    max_workloads: int = 100
    api_key: str = field(default="", repr=False)


async def run(settings: Settings, joining: Joining) -> None:
    """Works for the gateway until SIGTERM or SIGINT, or until the gateway has it leave.

    Raises:
        InvalidArgumentError: the gateway is no URL, or the name none that nodes have.
        UnauthenticatedError, PermissionDeniedError: the gateway does not let this machine in.
    """
    url, name = websocket_url(joining.gateway, "/claw"), node_name(joining.name)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    clock, ids = SystemClock(), RandomIds()
    place = settings.state_dir / FACADE
    state_directory.make(settings.state_dir)
    blobs = FsspecBlobs(place, max_blob_bytes=settings.blobs.max_blob_bytes)
    node_id = await asyncio.to_thread(machine_node_id, settings.state_dir, ids, role=FACADE)
    records = Records(place / "workloads")
    probe = NvmlProbe()
    session = ClawSession(
        clock,
        node_id=claw_proto.NodeId(node_id),
        name=name,
        form=FORMS[joining.encoding],
        max_workloads=joining.max_workloads,
        details=await asyncio.to_thread(probe.details),
        is_free=port_is_free,
    )
    session.restore(await asyncio.to_thread(records.read))
    agents: list[NodeAgent] = []

    async def take(orders: Sequence[Order]) -> None:
        if not agents:
            raise UnavailableError("this machine is starting")
        await agents[0].deliver(agents[0].epoch, orders)

    leaves: asyncio.Queue[Leave] = asyncio.Queue(maxsize=1)
    pool = ClawPool(session, clock, blobs, records, take=take, leave=lambda leave: _first_of(leaves, leave))
    peer = Peer(url=url, api_key=joining.api_key, max_message_bytes=MAX_MESSAGE_BYTES)
    link = Link(peer, session, act=pool.act, clock=clock, ids=ids)
    pool.wake, pool.reconnect = link.wake, link.reconnect
    agent = NodeAgent(
        node_id=node_id, plane=PoolPlane(pool, blobs), settings=settings, clock=clock, ids=ids, probe=probe
    )
    agents.append(agent)
    working: dict[str, asyncio.Task[Any]] = {}
    try:
        registration = await agent.registration(driver="agent", facade=FACADE, address="", name=name, lease=LEASE)
        await agent.start(registration)
        _log.info("works for the gateway", extra={"node_id": node_id, "gateway": peer.shown})
        for what, work in (("link", link.run()), ("logs", pool.run()), ("node", agent.ended()), ("stop", stop.wait())):
            working[what] = asyncio.create_task(work, name=what)
        await _until_over(working, leaves, pool, session)
    finally:
        await _end_all(pool, session, working.get("link"))
        for task in working.values():
            task.cancel()
        await asyncio.gather(*working.values(), return_exceptions=True)
        await agent.stop()


async def _until_over(
    working: Mapping[str, asyncio.Task[Any]], leaves: asyncio.Queue[Leave], pool: ClawPool, session: ClawSession
) -> None:
    """Returns once this machine was asked to end, by whomever; raises what ends it otherwise."""
    leaving = asyncio.create_task(leaves.get())
    try:
        await asyncio.wait({leaving, *working.values()}, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            leave = leaving.result()
            _log.info("the gateway has this machine leave", extra={"reason": leave.reason, "graceful": leave.graceful})
            await pool.order(session.leave(leave.reason, stop=not leave.graceful))
            timeout_s = None if leave.graceful else _LEAVE_S
            await asyncio.wait(working.values(), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
    for task in working.values():
        if task.done():
            task.result()


async def _end_all(pool: ClawPool, session: ClawSession, link: asyncio.Task[Any] | None) -> None:
    """Ends what runs, and has the gateway hear of it; waits for either a little."""
    await pool.order(session.leave("its agent was asked to end", stop=True))
    try:
        async with asyncio.timeout(_LEAVE_S):
            while session.running:
                await pool.ended()
    except TimeoutError:
        _log.warning("workloads left behind", extra={"workloads": session.running})
    if session.registered and link is not None:
        await asyncio.wait({link}, timeout=_HEARD_S)
    await pool.save()


def _first_of(leaves: asyncio.Queue[Leave], leave: Leave) -> None:
    if not leaves.full():
        leaves.put_nowait(leave)


def node_name(name: str) -> str:
    """Returns a name that nodes may have: 1 to 64 letters, digits, ``-`` and ``_``.

    Args:
        name: "" is this machine's own, whose other signs become ``-``.

    Raises:
        InvalidArgumentError: it has other signs, or too many.
    """
    if not name:
        own = "".join(sign if _is_plain(sign) else "-" for sign in hostname())
        return own[:_NAME_LIMIT]
    if len(name) > _NAME_LIMIT or not all(map(_is_plain, name)):
        raise InvalidArgumentError(
            f"must have 1 to {_NAME_LIMIT} letters, digits, '-' and '_', got {name!r}", field="name"
        )
    return name


def _is_plain(sign: str) -> bool:
    return sign.isascii() and (sign.isalnum() or sign in _NAME_SIGNS)


def port_is_free(port: int) -> bool:
    """Returns whether nobody listens at a port of this host, as far as this process may ask."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", port))
        except PermissionError:  # the engine may do what we may not
            return True
        except OSError:
            return False
    return True
