"""``arcray agent``: which options belong to which protocol."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from arcray.cli.agents import agent
from arcray.core.errors import InvalidArgumentError


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--protocol hivemind", "pool: is needed for --protocol hivemind"),
        ("--protocol hivemind --pool h:1", "listen: is needed for --protocol hivemind"),
        ("--protocol claw", "gateway: is needed for --protocol claw"),
        ("--protocol pool", "gateway: is needed for --protocol pool"),
        ("--protocol pool --gateway ws://h/ws --encoding json", "encoding: is no option of --protocol pool"),
        ("--protocol claw --gateway ws://h/ --user ana", "user: is no option of --protocol claw"),
        ("--protocol hivemind --pool h:1 --listen h:2 --name x", "name: is no option of --protocol hivemind"),
    ],
)
def test_an_option_that_is_missing_or_of_another_protocol_is_refused_by_name(words: str, complaint: str) -> None:
    refused = CliRunner().invoke(agent, words.split())
    assert isinstance(refused.exception, InvalidArgumentError)
    assert str(refused.exception) == complaint


@pytest.mark.parametrize("protocol", ["claw", "pool"])
def test_a_gateway_that_is_no_url_is_refused_by_name(protocol: str, tmp_path: Path) -> None:
    words = ["--protocol", protocol, "--gateway", "http://h:8080", "--state-dir", str(tmp_path)]
    refused = CliRunner().invoke(agent, words)
    assert isinstance(refused.exception, InvalidArgumentError)
    assert str(refused.exception).startswith("gateway: must be ws://HOST:PORT/")


def test_encodings_are_two() -> None:
    refused = CliRunner().invoke(agent, ["--protocol", "claw", "--gateway", "ws://h/", "--encoding", "xml"])
    assert refused.exit_code == 2
    assert "'json', 'bincode'" in refused.output
