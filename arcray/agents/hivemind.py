"""``arcray agent --protocol hivemind``: this machine as a worker of a HiveMind pool, by the code that Ray nodes run."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

from arcray import state_directory
from arcray.agents.hivemind_caller import Credentials, PoolCaller
from arcray.agents.hivemind_pool import HivemindPool
from arcray.agents.hivemind_tasks import LiveTasks
from arcray.agents.hivemind_worker import HivemindWorker, Network
from arcray.agents.pool_plane import PoolPlane
from arcray.config import Settings
from arcray.control.blobs import FsspecBlobs
from arcray.core.blobkeys import OWNED
from arcray.core.errors import ArcrayError, InvalidArgumentError, UnavailableError
from arcray.core.node import NodeRegistration
from arcray.core.orders import Order
from arcray.facades.hivemind.tasks import FACADE
from arcray.facades.hivemind.workers import LEASE
from arcray.logs import without_credentials
from arcray.node.agent import NodeAgent
from arcray.node.identity import hostname, machine_node_id
from arcray.wire.system import RandomIds, SystemClock

__all__ = ["Joining", "run"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """How a machine joins.

    Args:
        pool: ``host:port``.
        listen: ``host:port`` where the pool reaches this machine; port 0 lets the system choose.
        credentials: of the user who is paid; None joins as nobody's machine.
        node_id: its name there; "" is its user's, or its own.
        advertise: the host that the pool dials; "" is that of ``listen``, or of the way to the pool.
        allow_from: networks that may hand tasks to it; empty is the addresses of the pool.
    """

    pool: str
    listen: str
    credentials: Credentials | None = None
    node_id: str = ""
    advertise: str = ""
    allow_from: tuple[Network, ...] = ()


async def run(settings: Settings, joining: Joining) -> None:
    """Works for the pool until SIGTERM or SIGINT, then leaves it.

    Raises:
        InvalidArgumentError: an address is none.
        UnavailableError: nothing can listen there.
        PermissionDeniedError: the pool does not take this machine, or its user.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    pool_host, pool_port = host_and_port(joining.pool, "pool")
    host, port = host_and_port(joining.listen, "listen")
    resolved = await _resolved(pool_host)
    clock, ids = SystemClock(), RandomIds()
    place = settings.state_dir / FACADE
    state_directory.make(settings.state_dir)
    blobs = FsspecBlobs(place, max_blob_bytes=settings.blobs.max_blob_bytes)
    tasks = LiveTasks(clock)
    caller = PoolCaller(joining.pool, joining.credentials)
    node_id = await asyncio.to_thread(machine_node_id, settings.state_dir, ids, role=FACADE)
    registered: list[NodeRegistration] = []
    agents: list[NodeAgent] = []

    async def take(orders: Sequence[Order]) -> None:
        if not agents or not registered:
            raise UnavailableError("this machine is starting")
        await agents[0].deliver(agents[0].epoch, orders)

    worker = HivemindWorker(
        tasks,
        blobs,
        take=take,
        registration=lambda: registered[0],
        unpacked_bytes=settings.node.programs.max_archive_bytes,
        allow_from=joining.allow_from or tuple(ip_network(address) for address in resolved),
    )
    bound = await worker.listen(host, port)
    user = joining.credentials.user if joining.credentials else ""
    pool = HivemindPool(
        caller.tell,
        clock,
        tasks,
        blobs,
        node_id=joining.node_id or user or f"{hostname()}-{node_id[:8]}",
        host=joining.advertise or _reachable(host, resolved[0], pool_port),
        port=bound,
        location=settings.node.location.geozone or "",
        disowned=worker.end,
    )
    agent = NodeAgent(node_id=node_id, plane=PoolPlane(pool, blobs, OWNED), settings=settings, clock=clock, ids=ids)
    telling = asyncio.create_task(pool.run(), name="pool")
    try:
        registration = await agent.registration(driver="agent", facade=FACADE, address="", lease=LEASE)
        registered.append(replace(registration, external_id=node_id))
        agents.append(agent)
        await _until(stop, agent, telling, registered[0])
    except* ArcrayError as errors:  # as one, for whoever tells it in a line
        raise _first(errors) from None
    finally:
        await worker.end_all()
        await worker.close()
        await agent.stop()
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        await pool.leave()
        await caller.close()


def _first(errors: BaseExceptionGroup[ArcrayError]) -> ArcrayError:
    first = errors.exceptions[0]
    return first if isinstance(first, ArcrayError) else _first(first)


async def _until(
    stop: asyncio.Event, agent: NodeAgent, telling: asyncio.Task[None], registration: NodeRegistration
) -> None:
    """Works until asked to end, or something fails."""
    stopping = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(agent.start(registration))
    try:
        await asyncio.wait({stopping, starting, telling}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            _log.info("works for the pool", extra={"node_id": agent.node_id})
            ended = asyncio.create_task(agent.ended())
            await asyncio.wait({stopping, ended, telling}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                ended.result()
            ended.cancel()
        if telling.done():
            telling.result()
    finally:
        stopping.cancel()
        starting.cancel()
        await asyncio.gather(stopping, starting, return_exceptions=True)


def host_and_port(text: str, field: str) -> tuple[str, int]:
    """Returns the parts of ``host:port``; an IPv6 address stands in brackets.

    Raises:
        InvalidArgumentError: it is none; names ``field``.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not colon or not host or "@" in host or not port.isdecimal() or int(port) > 65_535:
        raise InvalidArgumentError(f"must be HOST:PORT, got {without_credentials(text)!r}", field=field)
    return host, int(port)


async def _resolved(host: str) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UnavailableError(f"nobody knows the host {host}", field="pool") from error
    return sorted({str(address[0]).partition("%")[0] for *_, address in found})


def _reachable(listen: str, pool: str, port: int) -> str:
    """Returns where the pool finds this machine: the address it listens at, or that of the way to the pool."""
    try:
        if not ip_address(listen).is_unspecified:
            return listen
    except ValueError:
        return listen
    family = socket.AF_INET6 if ":" in pool else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as way:
        way.connect((pool, port))  # sends nothing
        return str(way.getsockname()[0])
