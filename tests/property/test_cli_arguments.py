"""Whatever is typed, a command answers with one of its exit codes and a line, never with a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import httpx
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arcray.cli.context import Context
from arcray.cli.exit_codes import EXIT_CODES
from arcray.cli.main import arcray
from arcray.client import Client

CODES: Final = {0, 1, *EXIT_CODES.values()}
HUGE: Final = "9" * 5000
DEEP: Final = "[" * 3000

ODD: Final = [
    "", " ", "-", "--", "=", ":", "a=", "=a", "a-", "a:b:c:d", "..", "../../x", "/", "~nobody-here/x", "/dev/null",
    "/proc/self/mem", "\udcff", "a\udcff", "A=\udcff", "\udcff=a", "a:\udcff:ro", "a\n\x1b[2J", "é" * 300, "x" * 70_000,
    f"/{'x' * 5000}", "-1", "0", "1", "1.5", "1e306", "1e308", "1e999", "-0.0", "nan", "inf", "9" * 19, "9" * 400, HUGE,
    f"g:{HUGE}", "g:٣:pack", "g:0", "g:999999", "{}", "[]", "null", "NaN", '{"a": NaN}', '{"a": 1e999}',
    '{"a": "\\ud800"}', f'{{"a": {HUGE}}}', DEEP, f'{{"a": {DEEP}', "a=NaN", "a=1e999", 'a="\\ud800"', f"a={HUGE}",
    f"a={DEEP}", f"{'a.' * 2000}b=1", "a.b=1", "http://[", "http://", "http://a:99999", "http://\udcff", "ftp://x",
    f"http://{'x' * 300}", "json", "table", "onnx", "python", "openai", "spread",
]  # fmt: skip


LETTERS: Final = st.characters(exclude_characters="\0", exclude_categories=["Cs"])  # all that a shell can hand over


def leaves(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*words, name))
        if not command.invoke_without_command:
            return
    if words != ("up",):  # what it accepts it starts
        yield words, command


COMMANDS: Final = dict(leaves(arcray))


def refusing(_request: httpx.Request) -> httpx.Response:
    return httpx.Response(404, json={"code": "NOT_FOUND", "detail": "no such thing"})


def listing(request: httpx.Request) -> httpx.Response:
    """Has the result of a program, so that fetching begins."""
    if request.url.path.endswith("/results"):
        return httpx.Response(200, json={"results": [{"path": "a/b", "sizeBytes": 1}]})
    return httpx.Response(200, content=b"x")


def typed(words: list[str], answer: httpx.MockTransport) -> Result:
    def connect(url: str, api_key: str | None) -> Client:
        return Client(url, api_key, transport=answer, sleep=lambda _seconds: None)

    return CliRunner().invoke(arcray, words, obj=Context(connect=connect))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to work in, with a home of nobody's."""
    (tmp_path / "home").mkdir()
    (tmp_path / "file.py").write_text("print(1)\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def a_value(kind: click.ParamType[Any]) -> str:
    """Returns what a parameter takes without complaint."""
    match kind:
        case click.Choice():
            return str(kind.choices[0])
        case click.types.IntParamType() | click.types.FloatParamType():
            return "1"
        case click.Path():
            return "file.py"
        case _:
            return "x"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_argument_brings_a_traceback(here: Path, words: tuple[str, ...], data: st.DataObject) -> None:
    command = COMMANDS[words]
    odd = st.one_of(st.sampled_from(ODD), st.text(LETTERS, max_size=8))
    options = [one for one in command.params if isinstance(one, click.Option)]
    line: list[str] = []
    for option in (one for one in options if one.required):
        line += [option.opts[0], a_value(option.type)]
    for option in data.draw(st.lists(st.sampled_from(options), max_size=2, unique_by=lambda one: one.opts[0])):
        line += [option.opts[0]] if option.is_flag else [option.opts[0], data.draw(odd)]
    arguments = [
        data.draw(odd) if data.draw(st.integers(0, 3)) == 0 else a_value(one.type)
        for one in command.params
        if isinstance(one, click.Argument) and (one.required or data.draw(st.booleans()))
    ]
    answer = listing if words == ("results",) else refusing
    result = typed([*words, *line, "--", *arguments], httpx.MockTransport(answer))
    assert result.exception is None or isinstance(result.exception, SystemExit), (words, line, arguments)
    assert result.exit_code in CODES
    assert result.exit_code in {0, 1} or result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("submit", "program", "file.py", "--cpu", "1e306"),
        ("reserve", "--cpu", "1e306"),
        ("submit", "program", "file.py", "--gang", f"x:{HUGE}"),
        ("submit", "program", "file.py", "--env", "A=\udcff"),
        ("submit", "program", "file.py", "--name", "\udcff"),
        ("submit", "program", "file.py", "--memory-mb", "9" * 4299),
        ("dead-letters", "replay", "w1", "--set", "a=NaN"),
        ("dead-letters", "replay", "w1", "--set", 'a="\\ud800"'),
        ("dead-letters", "replay", "w1", "--set", f"a={DEEP}"),
        ("simulate", "--submit", DEEP),
        ("nodes", "show", "\udcff"),
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_an_argument_that_nothing_can_be_is_named(here: Path, words: tuple[str, ...]) -> None:
    result = typed(list(words), httpx.MockTransport(refusing))
    assert (result.exit_code, type(result.exception)) == (2, SystemExit)
    option = next((word.removeprefix("--") for word in words if word.startswith("--")), "node_id")
    assert option.lower() in result.stderr.lower()
