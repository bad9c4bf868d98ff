"""Databases as fixtures: what is promised of one is tested on each."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.postgres_server import PostgresServer, server_programs


def _absent() -> str | None:
    """Returns why there is no PostgreSQL here, None when there is."""
    if server_programs() is None:
        return "needs PostgreSQL: install the package postgresql"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            return "PostgreSQL refuses to run as root, and there is no user postgres"
    return None


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running server; tests may stop it if they start it again."""
    reason = _absent()
    if reason is not None:
        pytest.skip(reason)
    programs = server_programs()
    assert programs is not None
    server = PostgresServer(programs)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'state' / 'arcray.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes fresh databases of one kind; a test that asks for it runs once for each kind."""
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.new_database
    numbers = count(1)
    return lambda: f"sqlite:///{tmp_path / 'state' / f'{next(numbers)}.db'}"


@pytest.fixture
def database_url(new_database: Callable[[], str]) -> str:
    """A fresh database of each kind."""
    return new_database()
