"""Refuses a port that someone else holds, before anything is started.

The listeners bind with SO_REUSEPORT, so that replicas can share a port, and would share it with a stranger's process of
the same user as well. Binding once without that option tells.
"""

from __future__ import annotations

import errno
import socket

from arcray.config import GatewaySettings
from arcray.core.errors import ConflictError, InvalidArgumentError

__all__ = ["check_ports"]


def check_ports(settings: GatewaySettings) -> None:
    """Returns when every port of the gateway is free here.

    Raises:
        ConflictError: a port is taken; names it and the setting.
        InvalidArgumentError: the address is not one of this machine, or one port is named twice.
    """
    wanted = [(port, "gateway.http_ports") for port in settings.http_ports]
    if settings.grpc_port is not None:
        wanted.append((settings.grpc_port, "gateway.grpc_port"))
    wanted.append((settings.serve_port, "gateway.serve_port"))
    seen: set[int] = set()
    for port, field in wanted:
        if port in seen:
            raise InvalidArgumentError(f"port {port} is named twice", field=field)
        seen.add(port)
        _check(settings.host, port, field)


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
