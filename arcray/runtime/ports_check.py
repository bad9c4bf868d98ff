"""Refuses a port that someone else holds, before anything is started, and claims it against other starts.

The listeners bind with SO_REUSEPORT, so that replicas can share a port, and would share it with a stranger's process of
the same user as well. Binding once without that option tells. It does not tell of another arcray that is starting, and
whose replica binds seconds later; so each port is claimed by a name in Linux's abstract socket namespace: it has one
holder, is seen by exactly those who share the machine's ports, and ends with its process, however that ends.
"""

from __future__ import annotations

import errno
import socket
import sys
from contextlib import ExitStack

from arcray.config import GatewaySettings
from arcray.core.errors import ConflictError, InvalidArgumentError

__all__ = ["claim_ports"]


def claim_ports(settings: GatewaySettings) -> ExitStack:
    """Claims every port of the gateway, each of which must be free here; closing what it returns gives them up.

    Raises:
        ConflictError: a port is taken, or claimed by another arcray; names it and the setting.
        InvalidArgumentError: the address is not one of this machine, or one port is named twice.
    """
    wanted = [(port, "gateway.http_ports") for port in settings.http_ports]
    if settings.grpc_port is not None:
        wanted.append((settings.grpc_port, "gateway.grpc_port"))
    wanted.append((settings.serve_port, "gateway.serve_port"))
    seen: set[int] = set()
    with ExitStack() as claims:
        for port, field in wanted:
            if port in seen:
                raise InvalidArgumentError(f"port {port} is named twice", field=field)
            seen.add(port)
            if sys.platform == "linux":
                claims.enter_context(_claim(port, field))
            _check(settings.host, port, field)
        return claims.pop_all()


def _claim(port: int, field: str) -> socket.socket:
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(f"\0arcray-port-{port}")
    except OSError as error:
        claim.close()
        raise ConflictError(
            f"port {port} belongs to another arcray of this machine; end it or choose another", field=field
        ) from error
    return claim


def _check(host: str, port: int, field: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ports of connections that just ended are free
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConflictError(
                    f"port {port} at {host} is held by another process; free it or choose another", field=field
                ) from error
            raise InvalidArgumentError(f"cannot bind {host}:{port}: {error.strerror}", field=field) from error
