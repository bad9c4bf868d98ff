"""The wheel as users get it, built of the last commit with this environment's setuptools: nothing is downloaded."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    directory = tmp_path_factory.mktemp("wheel")
    # Without a copy, setuptools would leave its build directory in the checkout.
    source = directory / "source"
    subprocess.run(["git", "clone", "--quiet", "--no-local", str(ROOT), str(source)], check=True, timeout=60)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(directory), str(source)]
    run = subprocess.run(build, capture_output=True, text=True, check=False, timeout=110)
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = directory.glob("*.whl")
    return zipfile.ZipFile(path)


def committed(folder: str, suffix: str = "") -> set[str]:
    run = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", "HEAD", "--", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return {name for name in run.stdout.split() if name.endswith(suffix)}


def test_wheel_has_every_module_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert {name for name in names if name.endswith(".py")} == committed("arcray", ".py")
    assert {name.split("/")[0] for name in names} == {"arcray"}


def test_wheel_has_its_data(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert "arcray/py.typed" in names
    assert committed("arcray", ".md") <= names
    migrations = committed("arcray/control/migrations")
    assert migrations
    assert migrations <= names


def test_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    said = message_from_string(wheel.read(metadata).decode())
    assert said["Name"] == "arcray"
    assert said["License-Expression"] == "Apache-2.0"
    assert "arcray pools GPU machines" in str(said.get_payload())
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "arcray = arcray.cli.main:main" in wheel.read(entry_points).decode()
