"""One arcray for the tests of this folder, started and ended by the command line as a user would."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from examples.digits.own import OwnArcray

TRAP = """
import sys
with open({trapped!r}, "a") as file:
    file.write(f"{{__name__}} by {{sys.argv}}\\n")
raise ImportError("not the module that was meant")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """An arcray that was started among the files of a stranger.

    Args:
        trapped: which of these files were imported, and by whom.
    """

    url: str
    trapped: Path


@pytest.fixture(scope="package")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    directory = tmp_path_factory.mktemp("strange")
    trapped = tmp_path_factory.mktemp("trapped") / "imports.txt"
    for name in ("arcray", "click", "psutil", "pydantic", "ray"):
        (directory / f"{name}.py").write_text(TRAP.format(trapped=str(trapped)))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ARCRAY_NODE__MODELS__ALLOW", '["json:loads"]')
        own = OwnArcray()
        environment.chdir(directory)
        try:
            url = own.start()
        except BaseException:
            own.end()
            raise
    try:
        yield Started(url=url, trapped=trapped)
    finally:
        own.end()
    own.forget()


@pytest.fixture(scope="package")
def served(started: Started) -> str:
    return started.url
