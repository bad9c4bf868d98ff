from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from arcray.control.rows import decode_event, decode_row, microseconds, node_row, workload_row
from arcray.core.errors import InternalError
from arcray.core.model import ModelSlots
from arcray.core.node import Health, Node, Telemetry
from arcray.core.workload import Phase, Result, Workload
from arcray.testing.builders import T0, a_model, a_node, a_workload, an_inference


def a_node_state(**fields: Any) -> Node:
    base = Node(registration=a_node(), epoch=3, health=Health.HEALTHY, joined_at=T0, last_seen=T0)
    return replace(base, **fields)


def test_a_node_is_stored_without_what_it_reports_again() -> None:
    node = a_node_state(
        telemetry=Telemetry(at=T0), models=(ModelSlots(model_id=a_model().id, slots=1),), health=Health.UNHEALTHY
    )
    row = node_row(node)
    stored = decode_row(Node, "n", str(row["body"]))
    assert (stored.telemetry, stored.models, stored.health, row["health"]) == (None, (), Health.HEALTHY, "healthy")


@pytest.mark.parametrize("health", [Health.LOST, Health.GONE])
def test_a_lost_node_is_stored_as_lost(health: Health) -> None:
    assert decode_row(Node, "n", str(node_row(a_node_state(health=health))["body"])).health is health


def answered(*, waiting: bool) -> Workload:
    spec = a_workload(payload=an_inference(), waiting=waiting)
    return Workload(spec=spec, result=Result(output=b'"secret"', pid=7))


def test_an_answer_whose_sender_waited_for_it_is_not_stored() -> None:
    body = str(workload_row(answered(waiting=True))["body"])
    assert "secret" not in body
    assert decode_row(Workload, "w", body).result == Result(pid=7)


def test_an_answer_that_is_fetched_later_is_stored() -> None:
    body = str(workload_row(answered(waiting=False))["body"])
    assert decode_row(Workload, "w", body).result == Result(output=b'"secret"', pid=7)


def test_columns_are_what_lists_filter_by() -> None:
    spec = a_workload(4, request_id="key")
    row = workload_row(Workload(spec=spec, phase=Phase.FAILED, finished_at=T0 + timedelta(microseconds=1)))
    assert (row["id"], row["kind"], row["phase"], row["account"]) == (spec.id, "container", "failed", "local")
    assert (row["request_id"], row["finished_at"]) == ("key", microseconds(T0) + 1)


def test_a_column_holds_no_character_that_a_database_refuses() -> None:
    row = workload_row(Workload(spec=a_workload(request_id="a\x00b\ud800")))
    assert row["request_id"] == "a\\x00b\\ud800"


def test_a_number_that_is_none_comes_back() -> None:
    workload = Workload(spec=a_workload(), result=Result(duration_ms=math.nan))
    result = decode_row(Workload, "w", str(workload_row(workload)["body"])).result
    assert result is not None
    assert result.duration_ms is not None
    assert math.isnan(result.duration_ms)


def test_time_is_stored_to_the_microsecond() -> None:
    assert microseconds(datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC)) == 1_000_005


def test_a_damaged_row_is_named() -> None:
    with pytest.raises(InternalError, match="the row of workload w-17 cannot be read"):
        decode_row(Workload, "w-17", '{"spec": 4}')


def test_an_event_of_a_newer_version_is_named() -> None:
    with pytest.raises(InternalError, match="knows no event 'WorkloadTeleported'"):
        decode_event("WorkloadTeleported", "{}")
