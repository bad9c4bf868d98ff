"""What every command knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from arcray.cli.context import Context
from arcray.core.errors import InvalidArgumentError


def test_the_state_directory_is_the_one_that_the_settings_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ana")
    assert Context().directory == Path("/home/ana/.arcray")
    assert Context(state_dir=Path("~/a")).directory == Path("/home/ana/a")
    assert Context(state_dir=Path("b")).directory == Path.cwd() / "b"
    with pytest.raises(InvalidArgumentError) as refused:
        _ = Context(state_dir=Path("~nobody-of-that-name")).directory
    assert refused.value.field == "state_dir"
