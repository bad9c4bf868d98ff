"""One console's session: pings are answered, filters replace each other, only size ends it."""

from __future__ import annotations

import json

import pytest

from arcray.facades.arcnet.projection import Frame
from arcray.facades.arcnet.session import MAX_FRAME_BYTES, Close, Reply, TelemetrySession
from arcray.testing.builders import T0

CAISO = Frame("telemetry of CAISO", "CAISO")
ERCOT = Frame("telemetry of ERCOT", "ERCOT")
FACT = Frame("a system notice")


def subscribed(*texts: str) -> TelemetrySession:
    session = TelemetrySession()
    for text in texts:
        assert session.receive(text, T0) is None
    return session


def test_ping_is_answered_with_the_time() -> None:
    assert TelemetrySession().receive('{"type":"ping"}', T0) == Reply(
        Frame('{"type":"pong","timestamp":"2026-01-01T00:00:00Z"}')
    )


def test_new_session_sees_everything() -> None:
    assert all(TelemetrySession().passes(frame) for frame in (CAISO, ERCOT, FACT))


def test_filter_holds_back_telemetry_of_other_zones_only() -> None:
    session = subscribed('{"type":"subscribe","geozones":["CAISO"]}')
    assert [session.passes(frame) for frame in (CAISO, ERCOT, FACT)] == [True, False, True]


def test_filter_is_replaced_and_cleared() -> None:
    replaced = subscribed('{"type":"subscribe","geozones":["CAISO"]}', '{"type":"subscribe","geozones":["ERCOT"]}')
    assert [replaced.passes(frame) for frame in (CAISO, ERCOT)] == [False, True]
    replaced.receive('{"type":"subscribe","geozones":[]}', T0)
    assert replaced.passes(CAISO)


def test_unknown_zone_matches_nothing() -> None:
    session = subscribed('{"type":"subscribe","geozones":["MARS"]}')
    assert [session.passes(frame) for frame in (CAISO, FACT)] == [False, True]


@pytest.mark.parametrize(
    "data", ["", "{", "[]", '{"type":"pong"}', '{"type":"subscribe"}', b'{"type":"ping"}', b"\xff"]
)
def test_malformed_and_unknown_frames_are_ignored(data: str | bytes) -> None:
    assert TelemetrySession().receive(data, T0) is None


@pytest.mark.parametrize("data", ["x" * (MAX_FRAME_BYTES + 1), b"x" * (MAX_FRAME_BYTES + 1), "é" * 32_769])
def test_frame_over_the_limit_ends_it(data: str | bytes) -> None:
    found = TelemetrySession().receive(data, T0)
    assert isinstance(found, Close)
    assert found.code == 1009


def test_frame_of_exactly_the_limit_is_taken() -> None:
    ping = json.dumps({"type": "ping", "pad": ""})
    padded = ping.replace('""', '"' + "x" * (MAX_FRAME_BYTES - len(ping)) + '"')
    assert len(padded) == MAX_FRAME_BYTES
    assert isinstance(TelemetrySession().receive(padded, T0), Reply)
