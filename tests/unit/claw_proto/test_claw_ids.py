"""Ids in one spelling, and times to the nanosecond."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta, timezone

import pytest

from arcray.claw_proto import InvalidMessageError, NodeId, Timestamp, WorkloadId

ID = "550e8400-e29b-41d4-a716-446655440000"


@pytest.mark.parametrize("kind", [NodeId, WorkloadId])
@pytest.mark.parametrize("text", [ID, ID.upper(), ID.replace("-", ""), f"urn:uuid:{ID}", f"{{{ID}}}"])
def test_every_spelling_of_a_uuid_is_one_id(kind: type[NodeId | WorkloadId], text: str) -> None:
    assert kind(text) == ID
    assert kind.from_str(text) == kind(ID)
    assert type(kind(text)) is kind


@pytest.mark.parametrize(
    "text",
    ["", "x", ID[:-1], f"{ID} ", f"{{{ID}", f"{ID}}}", "5-50e8400e29b41d4a716446655440000", "\u0665" * 32, ID + "\n"],
)
def test_what_is_no_uuid_is_no_id(text: str) -> None:
    for kind in (NodeId, WorkloadId):
        with pytest.raises(InvalidMessageError, match="is not a UUID"):
            kind(text)


def test_fresh_ids_are_of_version_4_and_differ() -> None:
    found = {NodeId.new(), NodeId.new(), WorkloadId.new(), WorkloadId.new()}
    assert len(found) == 4
    assert {each[14] for each in found} == {"4"}


def test_an_id_survives_pickling() -> None:
    again = pickle.loads(pickle.dumps(NodeId(ID)))
    assert (again, type(again)) == (ID, NodeId)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2026-02-03T12:34:56Z", "2026-02-03T12:34:56Z"),
        ("2026-02-03T12:34:56.000Z", "2026-02-03T12:34:56Z"),
        ("2026-02-03T12:34:56.5Z", "2026-02-03T12:34:56.500Z"),
        ("2026-02-03T12:34:56.000001Z", "2026-02-03T12:34:56.000001Z"),
        ("2026-02-03T12:34:56.123456789Z", "2026-02-03T12:34:56.123456789Z"),
        ("2026-02-03T12:34:56.000000001Z", "2026-02-03T12:34:56.000000001Z"),
        ("2026-02-03T12:34:56.1234567899999Z", "2026-02-03T12:34:56.123456789Z"),
        ("2026-02-03t12:34:56z", "2026-02-03T12:34:56Z"),
        ("2026-02-03 12:34:56+00:00", "2026-02-03T12:34:56Z"),
        ("2026-02-03T12:34:56+05:30", "2026-02-03T07:04:56Z"),
        ("2026-02-03T12:34:56.25-01:00", "2026-02-03T13:34:56.250Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("2016-12-31T23:59:60Z", "2016-12-31T23:59:60Z"),
        ("2016-12-31T23:59:60.000000001Z", "2016-12-31T23:59:60.000000001Z"),
        ("2016-12-31T18:59:60.999999999-05:00", "2016-12-31T23:59:60.999999999Z"),
        ("9999-12-31T23:59:60.5Z", "9999-12-31T23:59:60.500Z"),
    ],
)
def test_times_are_read_with_any_offset_and_written_in_the_fewest_digits(text: str, written: str) -> None:
    assert str(Timestamp.parse(text)) == written
    assert Timestamp.parse(written) == Timestamp.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "2026-02-03", "2026-02-03T12:34:56", "2026-02-03T12:34Z", "1770122096", "2026-02-30T12:34:56Z",
        "2026-02-03T24:00:00Z", "2026-02-03T23:59:61Z", "2026-02-03T24:59:60Z", "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "2026-02-03T12:34:56+24:00", "2026-02-03T12:34:56+0100", "2026-02-03T12:34:56.Z",
        "\u0662\u0660\u0662\u0666-02-03T12:34:56Z",
        "2026-02-03T12:34:56Z\n",
    ],
)  # fmt: skip
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(InvalidMessageError):
        Timestamp.parse(text)


LAST = datetime(2016, 12, 31, 23, 59, 59, 999999, UTC)
LEAP_END = 1_000 + 10**9


def test_moments_of_python_are_brought_to_utc_and_others_are_none() -> None:
    there = datetime(2026, 2, 3, 14, tzinfo=timezone(timedelta(hours=2)))
    assert Timestamp.of(there) == Timestamp(datetime(2026, 2, 3, 12, tzinfo=UTC))
    for at, nanosecond in (
        (there, 0),
        (there.replace(tzinfo=None), 0),
        (there.astimezone(UTC), 1000),
        (LAST, LEAP_END),
    ):
        with pytest.raises(ValueError, match=r"Timestamp\.of"):
            Timestamp(at, nanosecond)


def test_moments_are_in_order_to_the_nanosecond() -> None:
    whole = ["2026-02-03T12:34:56", "2026-02-03T12:34:59", "2026-02-03T12:34:60", "2026-02-03T12:35:00"]
    texts = [f"{each}{fraction}Z" for each in whole for fraction in ("", ".000000001", ".000001", ".999999999")]
    found = [Timestamp.parse(text) for text in texts]
    assert found == sorted(set(found))
