"""Output, logs and results as they are kept and shown."""

from __future__ import annotations

import io
import zipfile

import pytest

from arcray.core.errors import InvalidArgumentError
from arcray.facades.hivemind import outputs
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.testing.builders import T0


def test_output_is_shown_by_line_and_its_end_alone() -> None:
    assert outputs.output_lines(b"") == []
    assert outputs.output_lines(b"a\n\nb\n") == ["a", "", "b"]
    shown = outputs.output_lines(b"x" * 20_000 + b"\nlast \xff\n")
    assert shown[-1] == "last \ufffd"
    assert sum(map(len, shown)) < 10_240


@pytest.mark.parametrize("message", [pool.StoreOutputRequest(output="a"), pool.ReportOutputRequest(output="a\n")])
def test_what_a_worker_tells_is_whole_lines(message: pool.StoreOutputRequest | pool.ReportOutputRequest) -> None:
    assert outputs.stored_output(message) == b"a\n"


def test_logs_tell_when_and_by_whom_in_seconds_and_milliseconds_alike() -> None:
    for timestamp in (1640995200, 1640995200000):
        request = pool.StoreLogsRequest(node_id="worker-001", task_id="t", logs="begun", timestamp=timestamp)
        assert outputs.stored_logs(request, T0) == "[2022-01-01 00:00:00] [worker-001] begun\n"
    assert outputs.stored_logs(pool.StoreLogsRequest(node_id="w", logs="x"), T0) == "[2026-01-01 00:00:00] [w] x\n"


@pytest.mark.parametrize("timestamp", [-1, -(2**63), 2**63 - 1, 10**12])
def test_times_of_no_calendar_are_refused(timestamp: int) -> None:
    with pytest.raises(InvalidArgumentError, match="timestamp: must be a time since 1970"):
        outputs.log_time(timestamp, T0)


def test_what_is_too_long_for_a_message_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="output: must have 0 to 1048576 characters"):
        outputs.stored_output(pool.StoreOutputRequest(output="x" * (2**20 + 1)))


def test_logs_are_shown_before_the_output() -> None:
    assert outputs.rendered_logs("[t] [w] begun\n", b"Hello\n") == "[t] [w] begun\n--- Task Output ---\nHello\n"
    assert outputs.rendered_logs("", b"Hello") == "--- Task Output ---\nHello"
    assert outputs.rendered_logs("begun\n", b"") == "begun"
    assert outputs.rendered_logs("", b"") == ""


def test_a_result_is_what_a_worker_returned_or_a_zip_of_the_files() -> None:
    assert outputs.result_data({outputs.RETURNED: b"\x00as it came"}) == b"\x00as it came"
    files = {"b.txt": b"2", "d/a.txt": b"1"}
    zipped = outputs.result_data(files)
    assert zipped == outputs.result_data(dict(reversed(files.items())))
    with zipfile.ZipFile(io.BytesIO(zipped)) as bundle:
        assert {name: bundle.read(name) for name in bundle.namelist()} == files
    with zipfile.ZipFile(io.BytesIO(outputs.result_data({}))) as bundle:
        assert bundle.namelist() == []
