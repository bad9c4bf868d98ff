"""The rule of tests/conftest.py, run on small suites of its own. In process."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFTEST = (Path(__file__).parents[2] / "conftest.py").read_text(encoding="utf-8")
SKIPPED = "import pytest\n@pytest.mark.skip(reason='no engine')\ndef test_engine(): ...\n"


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST)
    pytester.makeini("[pytest]\nmarkers = gpu\n")
    return pytester


def run(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *, ci: str) -> pytest.RunResult:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # each inner run would import them anew, 0.5 s
    return suite.runpytest_inprocess("-p", "no:cacheprovider")


def test_skip_fails_in_ci(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.makepyfile(SKIPPED)
    result = run(suite, monkeypatch, ci="true")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*skipped with CI=true*no engine*"])


def test_skip_is_a_skip_elsewhere(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.makepyfile(SKIPPED)
    run(suite, monkeypatch, ci="").assert_outcomes(skipped=1)


def test_skip_inside_a_test_or_fixture_fails_in_ci(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.makepyfile(
        """
        import pytest

        @pytest.fixture
        def engine():
            pytest.skip("no engine")

        def test_with_fixture(engine): ...

        def test_late():
            pytest.skip("late")
        """
    )
    run(suite, monkeypatch, ci="true").assert_outcomes(errors=1, failed=1)


def test_skipped_module_fails_in_ci(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.makepyfile("import pytest\npytest.skip('no library', allow_module_level=True)\n")
    result = run(suite, monkeypatch, ci="true")
    assert result.ret != pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*skipped with CI=true*no library*"])


def test_missing_gpu_may_skip_in_ci(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.makepyfile("import pytest\n@pytest.mark.gpu\ndef test_gpu(): pytest.skip('no GPU')\n")
    result = run(suite, monkeypatch, ci="true")
    result.assert_outcomes(skipped=1)
    assert result.ret == pytest.ExitCode.OK


def test_expected_failure_is_no_skip(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite.makepyfile("import pytest\n@pytest.mark.xfail\ndef test_known(): assert False\n")
    run(suite, monkeypatch, ci="true").assert_outcomes(xfailed=1)


def test_time_of_each_folder_is_told(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("unit", "cluster"):
        (suite.mkdir(folder) / f"test_{folder}.py").write_text("def test_a(): ...\ndef test_b(): ...\n")
    result = run(suite, monkeypatch, ci="true")
    result.stdout.fnmatch_lines(["*time by folder*", "*2 tests*", "*2 tests*", "*4 passed*"])
