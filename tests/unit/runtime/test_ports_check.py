from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from arcray.config import GatewaySettings
from arcray.core.errors import ConflictError, InvalidArgumentError
from arcray.runtime.ports_check import claim_ports


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
            claim_ports(GatewaySettings.model_validate(ports))
        assert refused.value.field == f"gateway.{field}"


def test_a_port_that_its_holder_would_share_is_refused_all_the_same() -> None:
    with held(shared=True) as taken, pytest.raises(ConflictError):
        claim_ports(GatewaySettings(http_ports=(taken,), grpc_port=None, serve_port=free()))


def test_free_ports_are_claimed_stay_free_to_bind_and_are_given_up() -> None:
    settings = GatewaySettings(http_ports=(free(), free()), grpc_port=free(), serve_port=free())
    with claim_ports(settings), socket.socket() as listener:
        listener.bind(("127.0.0.1", settings.http_ports[1]))
    claim_ports(settings).close()


def test_a_port_belongs_to_one_arcray_even_before_it_listens() -> None:
    port = free()
    first = GatewaySettings(http_ports=(port,), grpc_port=free(), serve_port=free())
    second = GatewaySettings(http_ports=(free(),), grpc_port=free(), serve_port=port)
    with claim_ports(first), pytest.raises(ConflictError, match=f"port {port} belongs to another arcray") as refused:
        claim_ports(second)
    assert refused.value.field == "gateway.serve_port"
    claim_ports(second).close()  # a refused start has let go of what it had claimed


def test_what_a_killed_start_had_claimed_is_free() -> None:
    port = free()
    script = f"""
import os, signal
from arcray.config import GatewaySettings
from arcray.runtime.ports_check import claim_ports
claims = claim_ports(GatewaySettings(http_ports=({port},), grpc_port=None, serve_port={free()}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    died = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert died.returncode == -signal.SIGKILL
    claim_ports(GatewaySettings(http_ports=(port,), grpc_port=None, serve_port=free())).close()


def test_one_port_named_twice_is_refused() -> None:
    port = free()
    with pytest.raises(InvalidArgumentError, match="twice"):
        claim_ports(GatewaySettings(http_ports=(port,), grpc_port=port, serve_port=free()))


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="cannot bind"):
        claim_ports(GatewaySettings(host="192.0.2.77", http_ports=(free(),)))
