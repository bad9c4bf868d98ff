"""What labels ask of a node."""

from __future__ import annotations

import pytest

from arcray import claw_proto as claw
from arcray.facades.claw.wishes import HEARTBEAT, LOG_LEVEL, MAX_WORKLOADS, METRICS, SHUTDOWN, Wishes, wishes_of


def test_labels_without_a_wish_leave_a_node_alone() -> None:
    assert wishes_of({"rack": "7", HEARTBEAT: None}, silence_s=60.0) == Wishes()


def test_every_field_of_a_configuration_has_a_label() -> None:
    labels: dict[str, str | None] = {HEARTBEAT: "5", METRICS: "7", MAX_WORKLOADS: "0", LOG_LEVEL: "debug"}
    assert wishes_of(labels, silence_s=60.0).config == claw.NodeConfig(
        heartbeat_interval_secs=5, metrics_interval_secs=7, max_concurrent_workloads=0, log_level="debug"
    )


@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "4294967296", "9" * 40, "٣", "soon"])
def test_an_interval_that_is_none_is_passed_over(value: str) -> None:
    assert wishes_of({HEARTBEAT: value}, silence_s=60.0) == Wishes()


def test_a_node_is_not_asked_to_be_silent_for_longer_than_its_lease_allows() -> None:
    assert wishes_of({HEARTBEAT: "59"}, silence_s=60.0).config == claw.NodeConfig(heartbeat_interval_secs=59)
    assert wishes_of({HEARTBEAT: "60"}, silence_s=60.0) == Wishes()


@pytest.mark.parametrize(
    ("value", "leaves", "graceful"), [("graceful", True, True), ("now", True, False), ("maybe", False, False)]
)
def test_a_node_may_be_told_to_leave(value: str, leaves: bool, graceful: bool) -> None:
    wishes = wishes_of({SHUTDOWN: value}, silence_s=60.0)
    assert (wishes.leaves, wishes.graceful) == (leaves, graceful)
