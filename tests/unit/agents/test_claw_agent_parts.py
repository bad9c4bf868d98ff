"""Parts of the claw agent that need no gateway."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from arcray.agents.claw import node_name, port_is_free
from arcray.agents.claw_pool import Records, set_log_level
from arcray.core.errors import InvalidArgumentError


def test_names_are_what_nodes_may_be_called() -> None:
    assert node_name("gpu_1-A") == "gpu_1-A"
    own = node_name("")
    assert node_name(own) == own
    for name in ("a b", "é", "x" * 65, "a.b"):
        with pytest.raises(InvalidArgumentError, match="name: must have 1 to 64"):
            node_name(name)


def test_a_port_that_somebody_listens_at_is_not_free() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert not port_is_free(server.getsockname()[1])
    assert port_is_free(server_port())


def server_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


def test_records_are_their_owners_alone_and_are_removed(tmp_path: Path) -> None:
    records = Records(tmp_path / "workloads")
    assert records.read() == []
    records.write("a", b"1")
    records.write("b", b"2")
    records.write("a", b"3")
    records.write("b", None)
    records.write("b", None)
    assert records.read() == [b"3"]
    assert (tmp_path / "workloads" / "a.json").stat().st_mode & 0o077 == 0


@pytest.fixture
def level() -> Iterator[logging.Logger]:
    logger = logging.getLogger("arcray")
    before = logger.level
    yield logger
    logger.setLevel(before)


def test_a_level_is_called_as_rust_or_python_call_it(level: logging.Logger) -> None:
    for name, expected in (("trace", logging.DEBUG), ("WARN", logging.WARNING), ("off", logging.CRITICAL)):
        set_log_level(name)
        assert level.level == expected
    set_log_level("whatever")
    assert level.level == logging.CRITICAL
