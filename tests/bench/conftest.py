"""What benches share, and the end of ``make bench``: one table of every figure, whichever bench measured it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from arcray.runtime.actors import tune_interpreter
from tests.bench.report import RECORDED, table


@pytest.fixture
def tuned() -> Iterator[None]:
    """Python set up as in the scheduler's process; both sides of a comparison run under it."""
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    tune_interpreter()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(interval)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints the table; a figure that is short of its budget says so there too."""
    if RECORDED:
        terminalreporter.section("figures")
        for line in table(RECORDED).splitlines():
            terminalreporter.line(line)
