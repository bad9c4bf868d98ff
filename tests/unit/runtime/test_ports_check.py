from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from arcray.config import GatewaySettings
from arcray.core.errors import ConflictError, InvalidArgumentError
from arcray.runtime.ports_check import check_ports


@contextmanager
def held(*, shared: bool = False) -> Iterator[int]:
    """A port of loopback that someone listens at."""
    with socket.socket() as holder:
        if shared:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield int(holder.getsockname()[1])


def free() -> int:
    with held() as port:
        return port


@pytest.mark.parametrize("field", ["http_ports", "grpc_port", "serve_port"])
def test_a_port_that_is_held_is_refused_by_number_and_setting(field: str) -> None:
    with held() as taken:
        ports = {"http_ports": (free(),), "grpc_port": free(), "serve_port": free()}
        ports[field] = (taken,) if field == "http_ports" else taken
        with pytest.raises(ConflictError, match=f"port {taken} at 127.0.0.1") as refused:
            check_ports(GatewaySettings.model_validate(ports))
        assert refused.value.field == f"gateway.{field}"


def test_a_port_that_its_holder_would_share_is_refused_all_the_same() -> None:
    with held(shared=True) as taken, pytest.raises(ConflictError):
        check_ports(GatewaySettings(http_ports=(taken,), grpc_port=None, serve_port=free()))


def test_free_ports_pass_and_stay_free() -> None:
    settings = GatewaySettings(http_ports=(free(), free()), grpc_port=free(), serve_port=free())
    check_ports(settings)
    check_ports(settings)


def test_one_port_named_twice_is_refused() -> None:
    port = free()
    with pytest.raises(InvalidArgumentError, match="twice"):
        check_ports(GatewaySettings(http_ports=(port,), grpc_port=port, serve_port=free()))


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="cannot bind"):
        check_ports(GatewaySettings(host="192.0.2.77", http_ports=(free(),)))
