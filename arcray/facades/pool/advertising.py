"""Telling the local network of the pool, by mDNS, for as long as the process serves.

What goes wrong is logged and hinders nobody: a network without multicast is no reason not to serve.

Source: the protocol's first implementation, which looks for the service ``_resourcepool._tcp``.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from arcray.pool_settings import AdvertisementSettings

if TYPE_CHECKING:
    from zeroconf.asyncio import AsyncServiceInfo

__all__ = ["advertise"]

_log = logging.getLogger(__name__)

_VERSION: Final = "1.0.0"  # of the protocol
_OUTWARDS: Final = ("192.0.2.1", 9)  # an address that nobody has; nothing is sent there
_LOOPBACK: Final = "127.0.0.1"
_LEAVE_S: Final = 3.0


async def advertise(settings: AdvertisementSettings, host: str) -> None:
    """Tells of the pool until it is cancelled; says good-bye then.

    Args:
        host: that the gateway listens at.
    """
    from zeroconf import Error  # costs 60 ms, which only those pay who want it
    from zeroconf.asyncio import AsyncZeroconf

    address = settings.address or _address(host)
    try:
        info = _service(settings, address)
        network = AsyncZeroconf(interfaces=[address])
    except (OSError, Error) as error:
        _log.warning("pool is not advertised", extra={"address": address, "reason": str(error) or type(error).__name__})
        return
    try:
        told = await network.async_register_service(info, allow_name_change=True)
        await told
        _log.info("pool is advertised", extra={"service": info.name, "address": address, "port": settings.port})
        await asyncio.get_running_loop().create_future()  # until cancelled
    except (OSError, Error) as error:
        _log.warning("pool is not advertised", extra={"address": address, "reason": str(error) or type(error).__name__})
    finally:
        with suppress(TimeoutError):  # then it is missed by its terms
            async with asyncio.timeout(_LEAVE_S):
                await network.async_close()


def _service(settings: AdvertisementSettings, address: str) -> AsyncServiceInfo:
    from zeroconf.asyncio import AsyncServiceInfo

    return AsyncServiceInfo(
        settings.service,
        f"{settings.name}.{settings.service}",
        addresses=[socket.inet_aton(address)],
        port=settings.port,
        properties={"version": _VERSION, "platform": sys.platform},
    )


def _address(host: str) -> str:
    """Returns the IPv4 address by which others reach what listens there."""
    try:
        own = ipaddress.ip_address(host)
    except ValueError:
        own = None
    if own is not None and own.version == 4 and not own.is_unspecified:
        return host
    if host == "localhost":
        return _LOOPBACK
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_OUTWARDS)
        except OSError:
            return _LOOPBACK
        found: str = probe.getsockname()[0]
        return found
