"""What every command knows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from arcray.cli import daemon
from arcray.cli.context import Context
from arcray.cli.main import arcray
from arcray.client import Client
from arcray.config import load
from arcray.core.errors import InvalidArgumentError, UnavailableError


def test_the_state_directory_is_the_one_that_the_settings_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ana")
    assert Context().directory == Path("/home/ana/.arcray")
    assert Context(state_dir=Path("~/a")).directory == Path("/home/ana/a")
    assert Context(state_dir=Path("b")).directory == Path.cwd() / "b"
    with pytest.raises(InvalidArgumentError) as refused:
        _ = Context(state_dir=Path("~nobody-of-that-name")).directory
    assert refused.value.field == "state_dir"


def test_an_empty_state_directory_of_the_environment_is_none_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ana")
    monkeypatch.setenv("ARCRAY_STATE_DIR", "")
    assert load().state_dir == Context().directory == Path("/home/ana/.arcray")
    assert "no arcray runs from /home/ana/.arcray\n" in CliRunner().invoke(arcray, ["down"], obj=Context()).stdout


class Connected:
    def __init__(self) -> None:
        self.urls: list[str] = []

    def __call__(self, url: str, api_key: str | None) -> Client:
        self.urls.append(url)
        return Client(url, api_key, transport=httpx.MockTransport(lambda _request: httpx.Response(404)))


def test_the_one_meant_is_named_or_serves_from_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    asked = Connected()
    Context(url="http://a", state_dir=tmp_path, connect=asked).client()
    Context(connect=asked).client()
    with daemon.claim(tmp_path) as claim:
        claim.ready("http://b")
        Context(state_dir=tmp_path, connect=asked).client()
    assert asked.urls == ["http://a", "http://127.0.0.1:8080", "http://b"]


def test_no_other_answers_for_the_one_of_a_directory(tmp_path: Path) -> None:
    context = Context(state_dir=tmp_path, connect=Connected())
    with pytest.raises(UnavailableError, match=f"no arcray runs from {tmp_path}.*--url"):
        context.client()
    with daemon.claim(tmp_path), pytest.raises(UnavailableError, match="is starting"):
        context.client()


@contextmanager
def serves(directory: Path, url: str) -> Iterator[None]:
    with daemon.claim(directory) as claim:
        claim.ready(url)
        yield


@pytest.mark.parametrize(
    ("typed", "environment", "meant"),
    [
        ("--url http://typed --state-dir {a}", {"ARCRAY_URL": "http://said"}, "http://typed"),
        ("--state-dir {a} --config {b}.yaml", {"ARCRAY_URL": "http://said"}, "http://a"),
        ("--config {b}.yaml", {"ARCRAY_URL": "http://said"}, "http://b"),
        ("", {"ARCRAY_URL": "http://said", "ARCRAY_STATE_DIR": "{a}", "ARCRAY_CONFIG": "{b}.yaml"}, "http://said"),
        ("", {"ARCRAY_STATE_DIR": "{a}", "ARCRAY_CONFIG": "{b}.yaml"}, "http://a"),
        ("--config {b}.yaml", {"ARCRAY_STATE_DIR": "{a}"}, "http://a"),
        ("", {"ARCRAY_CONFIG": "{b}.yaml"}, "http://b"),
        ("", {"ARCRAY_CONFIG": "{home}/ports.yaml"}, "http://127.0.0.1:18080"),
        ("", {}, "http://127.0.0.1:8080"),
    ],
)
def test_what_was_typed_names_the_arcray_before_what_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, environment: dict[str, str], meant: str
) -> None:
    places = {name: tmp_path / name for name in ("a", "b", "home")}
    places["home"].mkdir()
    (tmp_path / "b.yaml").write_text(f"state_dir: {places['b']}\n")
    (places["home"] / "ports.yaml").write_text("gateway: {http_ports: [18080]}\n")
    for name, value in {"HOME": "{home}", **environment}.items():
        monkeypatch.setenv(name, value.format(**places))
    asked = Connected()
    words = typed.format(**places).split()
    with serves(places["a"], "http://a"), serves(places["b"], "http://b"):
        CliRunner().invoke(arcray, [*words, "nodes"], obj=Context(connect=asked))
        CliRunner().invoke(arcray, ["nodes", *words], obj=Context(connect=asked))
    assert asked.urls == [meant, meant]


@pytest.mark.parametrize("typed", ["--state-dir {a}", "--config {a}.yaml"])
@pytest.mark.parametrize("environment", [{}, {"ARCRAY_URL": "http://said"}], ids=["alone", "beside"])
def test_no_other_answers_for_a_place_that_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, environment: dict[str, str]
) -> None:
    (tmp_path / "a.yaml").write_text(f"state_dir: {tmp_path / 'a'}\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    asked = Connected()
    words = typed.format(a=tmp_path / "a").split()
    refused = CliRunner().invoke(arcray, ["nodes", *words], obj=Context(connect=asked))
    assert (refused.exit_code, asked.urls) == (3, [])
    assert f"no arcray runs from {tmp_path / 'a'};" in refused.stderr


def test_settings_that_are_wrong_are_named_by_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCRAY_CONFIG", str(tmp_path / "absent.yaml"))
    refused = CliRunner().invoke(arcray, ["nodes"], obj=Context(connect=Connected()))
    assert refused.exit_code == 2
    assert refused.stderr.startswith("arcray: config: no settings file at")


def test_status_tells_of_a_directory_from_which_none_runs(tmp_path: Path) -> None:
    context = Context(state_dir=tmp_path, connect=Connected())
    result = CliRunner().invoke(arcray, ["status", "--output", "json"], obj=context)
    assert result.exit_code == 3
    said = json.loads(result.stdout)
    assert (said["ready"], said["pid"], said["state_dir"], said["url"]) == (False, None, str(tmp_path), None)
    with daemon.claim(tmp_path):
        result = CliRunner().invoke(arcray, ["status", "--output", "json"], obj=context)
    assert (result.exit_code, json.loads(result.stdout)["pid"]) == (3, os.getpid())
