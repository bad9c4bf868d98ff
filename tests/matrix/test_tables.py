"""The tables of the matrix are complete: a protocol that submits has a row, one by which machines join a column."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest

from arcray.cli.agents import agent
from arcray.config import Settings
from tests.matrix.kinds import KINDS
from tests.matrix.ways import WAYS

PACKAGE: Final = Path(__file__).parents[2] / "arcray"
FACADES: Final = sorted(path.parent.name for path in PACKAGE.glob("facades/*/facade.py"))
SUBMITS: Final = frozenset({"SubmitWorkload", "submit_work"})
JOINS: Final = frozenset({"AttachNode"})


def imported(directory: Path) -> Iterator[str]:
    """Yields what the modules of a directory import by name."""
    for path in directory.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                yield from (alias.name for alias in node.names)


@pytest.fixture(scope="module")
def names() -> dict[str, frozenset[str]]:
    """What each facade imports; takes a quarter of a second."""
    return {name: frozenset(imported(PACKAGE / "facades" / name)) for name in FACADES}


def test_every_protocol_that_submits_work_has_a_row(names: dict[str, frozenset[str]]) -> None:
    assert {name for name in FACADES if names[name] & SUBMITS} == {way.facade for way in WAYS}


def test_every_protocol_by_which_machines_join_has_a_column(names: dict[str, frozenset[str]]) -> None:
    joins = {name for name in FACADES if names[name] & JOINS}
    assert joins | {"ray"} == KINDS.keys()
    (protocol,) = [each for each in agent.params if each.name == "protocol"]
    assert isinstance(protocol.type, click.Choice)
    assert set(protocol.type.choices) == {name for name, kind in KINDS.items() if kind.joining is not None}


def test_every_driver_has_a_kind_of_node() -> None:
    drivers = {
        path.stem for path in PACKAGE.glob("drivers/*.py") if "async def deliver(self, node_id" in path.read_text()
    }
    assert drivers - {"local"} == {kind.driver for kind in KINDS.values()}  # local is for nodes in a test's own process


def test_every_protocol_is_served_unless_settings_say_otherwise() -> None:
    assert set(Settings().facades) == set(FACADES)
