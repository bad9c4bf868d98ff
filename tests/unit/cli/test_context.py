"""What every command knows."""

from __future__ import annotations

import json
import os
from pathlib import Path

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
        return Client(url, api_key)


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


def test_status_tells_of_a_directory_from_which_none_runs(tmp_path: Path) -> None:
    context = Context(state_dir=tmp_path, connect=Connected())
    result = CliRunner().invoke(arcray, ["status", "--output", "json"], obj=context)
    assert result.exit_code == 3
    said = json.loads(result.stdout)
    assert (said["ready"], said["pid"], said["state_dir"], said["url"]) == (False, None, str(tmp_path), None)
    with daemon.claim(tmp_path):
        result = CliRunner().invoke(arcray, ["status", "--output", "json"], obj=context)
    assert (result.exit_code, json.loads(result.stdout)["pid"]) == (3, os.getpid())
