"""The key of the tokens: of the settings, or made once, whole and for nobody else's eyes."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from arcray.core.errors import InvalidArgumentError
from arcray.facades.hivemind.token_key import token_key
from arcray.facades.hivemind.tokens import KEY_BYTES
from arcray.hivemind_settings import HivemindSettings

NONE = HivemindSettings()


def test_a_key_of_the_settings_is_taken_and_none_is_made(tmp_path: Path) -> None:
    assert token_key(HivemindSettings(token_key="x" * 40), tmp_path) == b"x" * 40
    assert list(tmp_path.iterdir()) == []


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        HivemindSettings(token_key="short")


def test_a_key_is_made_once_and_stays(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    first = token_key(NONE, directory)
    assert len(first) == KEY_BYTES
    assert token_key(NONE, directory) == first
    assert token_key(NONE, tmp_path / "other") != first


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    token_key(NONE, tmp_path)
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_gateways_that_start_at_once_have_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: token_key(NONE, tmp_path), range(32)))
    assert len(keys) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_damaged_key_is_refused_and_not_replaced(tmp_path: Path) -> None:
    token_key(NONE, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"short")
    with pytest.raises(InvalidArgumentError, match=r"hivemind\.token_key: .* is damaged"):
        token_key(NONE, tmp_path)
    assert file.read_bytes() == b"short"


def test_a_state_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(InvalidArgumentError, match=r"hivemind\.token_key: .* cannot be used"):
        token_key(NONE, tmp_path / "state")
