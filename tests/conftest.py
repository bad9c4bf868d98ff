"""What holds for every test.

With ``CI=true`` a test that is skipped has failed: continuous integration installs the real components, so a skip
there means that something was not tested. Only a physical GPU may be missing (``@pytest.mark.gpu``).

A test of chance has an argument ``seed`` and says by ``@pytest.mark.rounds(few, many)`` how often it runs: a few times,
many times with ``ARCRAY_CHAOS=1``. Seeds are drawn anew each time and stand in the test's id; ``ARCRAY_SEED=<seed>``
runs that one alone. What tests say by ``looked_at`` is summed up at the end.

With ``-n`` several processes share the tests as ``tests/lanes.py`` says.
"""

from __future__ import annotations

import gc
import os
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable
from pathlib import Path

import pytest

from tests.lanes import LANE, Lanes, drawn
from tests.rounds import CHAOS, LookedAt

pytest_plugins = [
    "tests.cluster_fixtures",
    "tests.database_fixtures",
    "tests.engine_fixtures",
    "tests.node_fixtures",
    "tests.program_bench",
]

_SKIPS_FAIL = os.environ.get("CI", "").lower() == "true"
_SEED = os.environ.get("ARCRAY_SEED", "")
_LOOKED_AT = "looked at: "


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Draws the seeds of a test of chance."""
    rounds = metafunc.definition.get_closest_marker("rounds")
    if rounds is None:
        return
    few, many = rounds.args
    seeds = [int(_SEED)] if _SEED else drawn(metafunc.definition.nodeid, many if CHAOS else few)
    metafunc.parametrize("seed", seeds, ids=[f"seed={seed}" for seed in seeds])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Lanes:
    """Says who runs what."""
    config.option.loadscopereorder = False
    return Lanes(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the lane first, because it takes longest, and sees to it that it is whole.

    Raises:
        UsageError: a test uses the cluster or the engine and lies elsewhere.
    """
    items.sort(key=lambda item: not item.nodeid.startswith(LANE))
    for item in items:
        sharing = [mark for mark in ("cluster", "docker") if item.get_closest_marker(mark)]
        if sharing and not item.nodeid.startswith((*LANE, "tests/bench/")):
            raise pytest.UsageError(
                f"{item.nodeid} is marked {sharing[0]} and so belongs into one of {', '.join(LANE)}"
            )


@pytest.fixture
def looked_at(request: pytest.FixtureRequest) -> LookedAt:
    """Takes how much a test looked at; see ``LookedAt``."""

    def add(**figures: int) -> None:
        request.node.user_properties += [(f"{_LOOKED_AT}{what}", figure) for what, figure in figures.items()]

    return add


def pytest_collection_finish() -> None:
    """Has the garbage collector pass over all that was imported: it is a million objects, looked at some 20 times."""
    gc.collect()
    gc.freeze()


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"skipped with CI=true, where the component must be there. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns the skip of one test into a failure."""
    report = yield
    if _SKIPS_FAIL and item.get_closest_marker("gpu") is None:
        _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turns the skip of a whole module into a failure."""
    report = yield
    if _SKIPS_FAIL:
        _fail_if_skipped(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints how a failed test of chance is run again, how much was looked at, and how long each folder took."""
    for report in terminalreporter.stats.get("failed", []):
        test, _, seed = report.nodeid.partition("[seed=")
        if seed:
            terminalreporter.line(f"again: ARCRAY_SEED={seed.rstrip(']')} python -m pytest '{test}'")
    told = [each for reports in terminalreporter.stats.values() for each in reports]
    reports = [report for report in told if isinstance(report, pytest.TestReport)]
    _print_figures(terminalreporter, reports)
    _print_seconds(terminalreporter, reports, Path(__file__).parent.relative_to(config.rootpath).as_posix())


def _print_figures(terminal: pytest.TerminalReporter, reports: Iterable[pytest.TestReport]) -> None:
    figures: Counter[str] = Counter()
    for report in reports:
        for name, value in report.user_properties if report.when == "call" else ():
            if name.startswith(_LOOKED_AT):
                figures[name.removeprefix(_LOOKED_AT)] += int(str(value))
    if figures:
        terminal.section("looked at")
        for what, figure in sorted(figures.items()):
            terminal.line(f"{figure:12,d}  {what.replace('_', ' ')}")


def _print_seconds(terminal: pytest.TerminalReporter, reports: Iterable[pytest.TestReport], root: str) -> None:
    seconds: defaultdict[str, float] = defaultdict(float)
    tests: defaultdict[str, set[str]] = defaultdict(set)
    for report in reports:
        folder = report.nodeid.removeprefix(f"{root}/").split("/")[0]
        seconds[folder] += report.duration
        tests[folder].add(report.nodeid)
    if len(seconds) > 1:
        terminal.section("time by folder")
        for folder, taken in sorted(seconds.items(), key=lambda entry: -entry[1]):
            terminal.line(f"{taken:7.1f} s  {len(tests[folder]):5d} tests  {folder}")
