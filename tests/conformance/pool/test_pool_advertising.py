"""The pool is found by mDNS where it is told of, and not where it is not."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

import pytest
from pydantic import ValidationError

from arcray.facades.pool.advertising import advertise
from arcray.pool_settings import AdvertisementSettings, PoolSettings

zeroconf: Any = pytest.importorskip("zeroconf")
zeroconf_asyncio: Any = pytest.importorskip("zeroconf.asyncio")

LOOPBACK = "127.0.0.1"
NAME = "Resource Pooling Network._resourcepool._tcp.local."


async def found(patience_s: float) -> Any:
    """Returns what a client of the network finds; None where it finds nothing in time."""
    network = zeroconf_asyncio.AsyncZeroconf(interfaces=[LOOPBACK])
    try:
        info = zeroconf_asyncio.AsyncServiceInfo("_resourcepool._tcp.local.", NAME)
        return info if await info.async_request(network.zeroconf, patience_s * 1000) else None
    finally:
        await network.async_close()


async def test_the_pool_is_found_for_as_long_as_it_is_told_of() -> None:
    """Has to ask the network, which takes a second or two."""
    telling = asyncio.create_task(advertise(AdvertisementSettings(enabled=True, port=3000), LOOPBACK))
    try:
        info = await found(10.0)
    finally:
        telling.cancel()
        with suppress(asyncio.CancelledError):
            await telling
    if info is None and telling.done() and not telling.cancelled():
        pytest.skip("there is no multicast here")
    assert info is not None
    assert info.name == NAME
    assert info.port == 3000
    assert info.addresses == [socket.inet_aton(LOOPBACK)]
    assert info.decoded_properties["version"] == "1.0.0"
    assert await found(0.5) is None


def test_nothing_is_told_unless_that_is_wished() -> None:
    assert not PoolSettings().advertise.enabled


@pytest.mark.parametrize("wrong", [{"address": "nowhere"}, {"address": "::1"}, {"name": "\u00e9" * 32}, {"name": ""}])
def test_what_cannot_be_told_of_is_refused_by_name(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        AdvertisementSettings.model_validate({"enabled": True, **wrong})
