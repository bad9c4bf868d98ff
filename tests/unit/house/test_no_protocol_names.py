"""No protocol is named where decisions are: core, control and drivers serve one as they serve another.

What counts is what the code can act on: names of modules, identifiers, and strings that are values. Prose may name a
protocol: a docstring or a comment that cites the document a number comes from is worth more than its silence.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import arcray.facades

PACKAGE: Final = Path(__file__).parents[3] / "arcray"
NEUTRAL: Final = ("core", "control", "drivers")
FACADES: Final = frozenset(path.parent.name for path in PACKAGE.glob("facades/*/facade.py"))

# Names that are words of everybody: alone as a value each is the protocol, else only as it is written out.
COMMON: Final = {"pool": "resource[ _-]?pool", "rest": "rest[ _-]?(api|facade)"}
RARE: Final = "|".join(sorted(FACADES - COMMON.keys()))
NAMED: Final = re.compile("|".join((RARE, *COMMON.values())), re.IGNORECASE)
ALONE: Final = re.compile("|".join(COMMON), re.IGNORECASE)
# To parse every module would take half a second; most have nothing that looks like a name.
SUSPECT: Final = re.compile(f"{NAMED.pattern}|[\"'](?:{ALONE.pattern})[\"']", re.IGNORECASE)


def is_named(word: str, *, value: bool = False) -> bool:
    """Whether an identifier, or a value, says which protocol it is about."""
    return NAMED.search(word) is not None or (value and ALONE.fullmatch(word) is not None)


def names_in(source: str) -> Iterator[str]:
    """Yields the identifiers and values of a module that name a protocol."""
    if SUSPECT.search(source) is None:
        return
    tree = ast.parse(source)
    prose = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        for _, held in ast.iter_fields(node):
            for word in held if isinstance(held, list) else [held]:
                if not isinstance(word, str) or node in prose:
                    continue
                if is_named(word, value=isinstance(node, ast.Constant)):
                    yield word


def test_core_control_and_drivers_name_no_protocol() -> None:
    modules = [path for layer in NEUTRAL for path in (PACKAGE / layer).rglob("*.py")]
    found = {
        str(path.relative_to(PACKAGE)): [*names_in(path.read_text(encoding="utf-8")), *filter(is_named, [path.stem])]
        for path in modules
    }
    assert len(modules) > 100
    assert {path: names for path, names in found.items() if names} == {}


def test_every_protocol_is_looked_for() -> None:
    assert set(COMMON) <= FACADES
    assert all(is_named(name, value=True) for name in FACADES)
    assert Path(arcray.facades.__path__[0]) == PACKAGE / "facades"


@pytest.mark.parametrize(
    "planted",
    [
        'CLAW_FRAMES = "frames"',
        'FRAMES = "claw_frames"',
        "class HiveMindWorker: pass",
        "def on_arcnet_request(): pass",
        "def place(hivemind): pass",
        "place(claw=1)",
        "from arcray.facades.claw import nodes",
        "import arcnet",
        "from ours import name as arcnet_name",
        'if origin.facade == "pool": pass',
        "match facade:\n    case 'rest': pass",
        "x.resource_pool = 1",
        'raise Error("no Resource Pool device")',
        'f"a {kind} of HiveMind"',
        "global claw",
    ],
)
def test_a_planted_name_is_found(planted: str) -> None:
    assert list(names_in(planted))


@pytest.mark.parametrize(
    "innocent",
    [
        '"""As ArcNet has it."""',
        'def f():\n    """Source: claw-proto, section 2."""',
        'X = 1\n"""A number of the HiveMind document."""',
        "# the Resource Pool excepted",
        'raise Error("the pool has no nodes")',
        "pool.restart(poolclass=rest)",
        'say("the rest of the pool")',
    ],
)
def test_prose_and_words_of_everybody_are_none(innocent: str) -> None:
    assert list(names_in(innocent)) == []
