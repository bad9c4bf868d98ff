"""``arcray agent --protocol pool``: this machine as a Resource Pool device, by the code that Ray nodes run."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from arcray import state_directory
from arcray.agents.device_pool import DevicePool
from arcray.agents.device_session import DeviceSession
from arcray.agents.link import Link, Peer, websocket_url
from arcray.agents.pool_plane import PoolPlane
from arcray.config import Settings
from arcray.control.blobs import FsspecBlobs
from arcray.core.blobkeys import OWNED
from arcray.core.errors import InvalidArgumentError, UnavailableError
from arcray.core.orders import Order
from arcray.facades.pool.nodes import FACADE, LEASE
from arcray.facades.pool.programs import Programs
from arcray.node.agent import NodeAgent
from arcray.node.identity import hostname, machine_node_id
from arcray.wire.system import RandomIds, SystemClock

__all__ = ["Joining", "run"]

_log = logging.getLogger(__name__)

_NAME_LIMIT: Final = 256
_PLATFORMS: Final = {"darwin": "macos", "win32": "windows"}
_REGISTER_S: Final = 30.0  # a server whose scheduler is away lists devices all the same, but later
_HEARD_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """How a machine joins.

    Args:
        gateway: ``ws://HOST:PORT/ws``.
        name: its name there; "" is its own.
        max_workloads: how many may run at a time.
        api_key: shown to the gateway; "" shows none.
    """

    gateway: str = field(repr=False)
    name: str = ""
    max_workloads: int = 100
    api_key: str = field(default="", repr=False)


async def run(settings: Settings, joining: Joining) -> None:
    """Works for the gateway until SIGTERM or SIGINT, or until the gateway says good-bye.

    Raises:
        InvalidArgumentError: the gateway is no URL, the name none that devices have, or a program of the settings
            cannot be had.
        UnauthenticatedError, PermissionDeniedError: the gateway does not let this machine in.
    """
    url, name = websocket_url(joining.gateway, "/ws"), device_name(joining.name)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    clock, ids, terms = SystemClock(), RandomIds(), settings.pool.device
    place = settings.state_dir / FACADE
    state_directory.make(settings.state_dir)
    blobs = FsspecBlobs(place, max_blob_bytes=settings.blobs.max_blob_bytes)
    node_id = await asyncio.to_thread(machine_node_id, settings.state_dir, ids, role=FACADE)
    session = DeviceSession(
        clock,
        ids,
        terms,
        device_id=node_id,
        name=name,
        platform=_PLATFORMS.get(sys.platform, sys.platform),
        max_tasks=joining.max_workloads,
        programs=Programs(settings.pool.programs),
    )
    agents: list[NodeAgent] = []

    async def take(orders: Sequence[Order]) -> None:
        if not agents:
            raise UnavailableError("this machine is starting")
        await agents[0].deliver(agents[0].epoch, orders)

    pool = DevicePool(session, blobs, take=take, output_bytes=terms.output_bytes)
    peer = Peer(url=url, api_key=joining.api_key, max_message_bytes=terms.max_message_bytes, register_s=_REGISTER_S)
    link = Link(peer, session, act=pool.act, clock=clock, ids=ids, lost=pool.lost)
    pool.wake = link.wake
    agent = NodeAgent(node_id=node_id, plane=PoolPlane(pool, blobs, OWNED), settings=settings, clock=clock, ids=ids)
    agents.append(agent)
    working: dict[str, asyncio.Task[Any]] = {}
    try:
        registration = await agent.registration(driver="agent", facade=FACADE, address="", name=name, lease=LEASE)
        can = registration.capabilities
        if not can.programs:
            _log.warning("this machine cannot run programs", extra={"containers": can.containers})
        await agent.start(registration)
        _log.info("works for the gateway", extra={"node_id": node_id, "gateway": peer.shown})
        for what, work in (("link", link.run()), ("node", agent.ended()), ("stop", stop.wait())):
            working[what] = asyncio.create_task(work, name=what)
        done, _ = await asyncio.wait(working.values(), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await pool.end_all(session.leave())
        if session.registered and "link" in working:
            await asyncio.wait({working["link"]}, timeout=_HEARD_S)  # it closes the connection, which is leaving
        for task in working.values():
            task.cancel()
        await asyncio.gather(*working.values(), return_exceptions=True)
        await agent.stop()


def device_name(name: str) -> str:
    """Returns a name that devices may have: 1 to 256 printable signs.

    Args:
        name: "" is this machine's own.

    Raises:
        InvalidArgumentError: it has other signs, or too many.
    """
    told = name or hostname()
    if len(told) > _NAME_LIMIT or not told.isprintable():
        raise InvalidArgumentError(f"must have 1 to {_NAME_LIMIT} printable signs, got {told!r}", field="name")
    return told
