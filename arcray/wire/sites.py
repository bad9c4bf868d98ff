"""Which web pages an open arcray serves: its own, and those of sites that the settings name.

Open mode trusts whoever reaches a loopback address, and so does every page that a person visits: it can post there (a
post can be a program), open a WebSocket, and, under a name of its own that it points at that address, read as well. So
the name that was asked for must be one that cannot be pointed anywhere, an address or ``localhost``, and the page that
asks must come from there. Programs are free: they send no ``Origin``, and ask for where they connect.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from arcray.core.errors import PermissionDeniedError
from arcray.wire.headers import header

__all__ = ["OwnSites"]

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})  # a browser keeps the answer from pages of other sites
_REMEMBERED: Final = 256


class OwnSites:
    """Tells requests of strangers' pages from others, in open mode.

    Args:
        sites: further names, each with its port unless that is the scheme's own, for example ``pool.lan:8080``.
        any_host: whether it may be asked for by any name, because it serves other machines, which call it as they like.
    """

    def __init__(self, sites: Iterable[str] = (), *, any_host: bool = False) -> None:
        self._sites = frozenset(site.lower() for site in sites)
        self._any_host = any_host
        self._known: set[str] = {""}  # ways in which it was rightly asked for; HTTP/1.0 has none

    def check(self, connection: HTTPConnection) -> None:
        """Passes an HTTP request or a WebSocket that no page of another site can have caused.

        Raises:
            PermissionDeniedError: names the header that is wrong.
        """
        host = header(connection, b"host")
        if host not in self._known:
            self._check_host(host)
        scope = connection.scope
        if scope["type"] == "http" and scope["method"] in _READING:
            return
        origin = header(connection, b"origin")  # browsers send it with every post and WebSocket, programs rarely do
        asking = origin.partition("://")[2]  # as it is: an origin has nothing behind its site, and may be no URL at all
        if origin and asking != host and asking.lower() not in self._sites:
            raise PermissionDeniedError(
                "open mode takes nothing from web pages of other sites; auth.sites names those that may", field="Origin"
            )

    def _check_host(self, host: str) -> None:
        if not (self._any_host or host.lower() in self._sites or _is_fixed(host)):
            raise PermissionDeniedError(
                f"open mode is not asked for as {host!r}; use its address or localhost, or name it in auth.sites",
                field="Host",
            )
        if len(self._known) < _REMEMBERED:
            self._known.add(host)


def _is_fixed(host: str) -> bool:
    """Returns whether nobody can point this name at another address."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
