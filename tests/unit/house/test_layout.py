"""What every package and every document of the tree keeps to."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "arcray"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if not path.name.endswith(("_pb2.py", "_pb2_grpc.py")))
PACKAGES = sorted(path for path in PACKAGE.iterdir() if (path / "__init__.py").exists())
MAX_README_LINES = 60
MAX_MODULE_LINES = 500


class Outline(NamedTuple):
    """What these tests ask of a module."""

    documented: bool
    has_public_names: bool
    says_what_is_public: bool


@cache  # both tests look at all modules, and to parse them takes a third of a second
def outline(path: Path) -> Outline:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return Outline(
        documented=bool(ast.get_docstring(tree)),
        has_public_names=any(isinstance(node, kinds) and not node.name.startswith("_") for node in tree.body),
        says_what_is_public=exported(tree) is not None,
    )


def exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            names = ast.literal_eval(node.value)
            assert isinstance(names, list)
            return names
    return None


def test_modules_say_what_is_public() -> None:
    def silent(path: Path) -> bool:
        return outline(path).has_public_names and not outline(path).says_what_is_public

    def loaded_by_convention(path: Path) -> bool:
        # Alembic finds the names of a migration by itself; a script that is only run has none that matter.
        return "migrations" in path.parts or 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")

    assert [path for path in MODULES if silent(path) and not loaded_by_convention(path)] == []


def test_modules_begin_with_what_they_decide() -> None:
    assert [path for path in MODULES if not outline(path).documented] == []


def test_modules_stay_small() -> None:
    assert [path for path in MODULES if path.read_text(encoding="utf-8").count("\n") > MAX_MODULE_LINES] == []


def test_every_package_has_a_short_readme() -> None:
    def short(readme: Path) -> bool:
        return readme.exists() and readme.read_text(encoding="utf-8").count("\n") <= MAX_README_LINES

    assert [package.name for package in PACKAGES if not short(package / "README.md")] == []


def test_readme_is_one_screen_and_names_real_targets() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_README_LINES
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", text)) <= targets


@pytest.mark.parametrize("document", ["README.md", "arcray/ARCHITECTURE.md"])
def test_documents_name_files_that_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = re.findall(r"`((?:arcray|examples|notebooks|protos|serve_configs|tests|scripts)/[\w./*-]+)`", text)
    assert named
    assert [name for name in named if not list(ROOT.glob(name.rstrip("/")))] == []


def test_constraints_pin_by_version_alone() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
