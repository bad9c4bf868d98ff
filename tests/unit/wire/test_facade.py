"""Protocols are found by folder name or by entry point, and what is no protocol is refused at start."""

from __future__ import annotations

from pathlib import Path

import pytest

from arcray.core.errors import InvalidArgumentError
from arcray.wire.facade import load_facades

SIXTH = """
from enum import StrEnum

from arcray.core.node import LeaseTerms
from arcray.wire.facade import Facade, FacadeEndpoints


class Queue(StrEnum):
    PENDING = "pending"


FACADE = Facade(
    name="sixth",
    summary="a protocol that ships elsewhere",
    lease=LeaseTerms(unhealthy_after_s=1.0, lost_after_s=2.0),
    open=lambda context: FacadeEndpoints(),
)
GREEDY = Facade(
    name="greedy",
    summary="a protocol with a queue of another's name",
    lease=LeaseTerms(unhealthy_after_s=1.0, lost_after_s=2.0),
    open=lambda context: FacadeEndpoints(),
    queues=frozenset(Queue),
)
NOT_ONE = object()
"""


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with entry points, as pip installs one."""
    (tmp_path / "sixth_protocol.py").write_text(SIXTH)
    information = tmp_path / "sixth_protocol-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: sixth-protocol\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[arcray.facades]\n"
        "sixth = sixth_protocol:FACADE\n"
        "other = sixth_protocol:FACADE\n"
        "nothing = sixth_protocol:NOT_ONE\n"
        "greedy = sixth_protocol:GREEDY\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def test_built_in_protocols_are_found_by_folder_in_the_order_asked() -> None:
    assert [facade.name for facade in load_facades(["rest", "arcnet"])] == ["rest", "arcnet"]
    (arcnet,) = load_facades(["arcnet"])
    assert (arcnet.lease.unhealthy_after_s, arcnet.lease.lost_after_s) == (30.0, 300.0)


def test_protocol_that_ships_elsewhere_is_found_by_its_entry_point(shipped: None) -> None:
    assert [facade.name for facade in load_facades(["rest", "sixth"])] == ["rest", "sixth"]


@pytest.mark.parametrize("name", ["nowhere", "", "arcnet.rest", "../arcnet", "..arcnet"])
def test_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="no protocol") as refusal:
        load_facades([name])
    assert refusal.value.field == "facades"


@pytest.mark.parametrize("name", ["other", "nothing"])
def test_what_is_no_protocol_of_that_name_is_refused(shipped: None, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="does not lead to a Facade"):
        load_facades([name])


def test_name_that_comes_twice_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="twice"):
        load_facades(["rest", "rest"])


def test_queue_of_a_name_that_is_taken_is_refused(shipped: None) -> None:
    with pytest.raises(InvalidArgumentError, match="'greedy' has a queue 'pending', as arcray itself does") as refusal:
        load_facades(["rest", "greedy"])
    assert refusal.value.field == "facades"
