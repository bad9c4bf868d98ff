"""What tasks write, log and return, as it is kept and as it is shown.

Source: the protocol's first implementation; the document names the methods alone.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from arcray.core.errors import InvalidArgumentError
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.fields import name, text

__all__ = [
    "LOG_BYTES",
    "OUTPUT_BYTES",
    "RETURNED",
    "log_time",
    "output_lines",
    "rendered_logs",
    "result_data",
    "stored_logs",
    "stored_output",
]

RETURNED: Final = "result_data"
"""Path of the result that a worker returned: bytes of its own, which are given out as they came."""

_OUTPUT_CHARACTERS: Final = 10_240
_LOG_CHARACTERS: Final = 51_200
_CHARACTER_BYTES: Final = 4
OUTPUT_BYTES: Final = _CHARACTER_BYTES * (_OUTPUT_CHARACTERS + 1)
"""Of the end of an output, so many that all characters which are shown are whole."""

LOG_BYTES: Final = _CHARACTER_BYTES * (_LOG_CHARACTERS + 1)
"""Of the end of the logs, in the same way."""

_MESSAGE_CHARACTERS: Final = 1 << 20
_OUTPUT_TITLE: Final = "--- Task Output ---"
_MILLISECONDS_ABOVE: Final = 10**12
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_S: Final = 253_402_300_799  # the end of the year 9999


def stored_output(request: pool.StoreOutputRequest | pool.ReportOutputRequest) -> bytes:
    """Returns what is added to the output of a task: what its worker tells, as whole lines.

    Raises:
        InvalidArgumentError: it is too long for one message.
    """
    return _lines(request.output, "output").encode()


def stored_logs(request: pool.StoreLogsRequest, now: datetime) -> str:
    """Returns what is added to the logs of a task, with when and by whom.

    Raises:
        InvalidArgumentError: names the field.
    """
    logs = _lines(request.logs, "logs")
    return f"[{log_time(request.timestamp, now):%Y-%m-%d %H:%M:%S}] [{name(request.node_id, 'node_id')}] {logs}"


def _lines(value: str, field: str) -> str:
    text(value, field, longest=_MESSAGE_CHARACTERS)
    return value if value.endswith("\n") else f"{value}\n"


def output_lines(log: bytes) -> Sequence[str]:
    """Returns the last lines of an output, 10,240 characters at the most; bytes that are no text are marked."""
    return log.decode(errors="replace")[-_OUTPUT_CHARACTERS:].splitlines()


def log_time(timestamp: int, now: datetime) -> datetime:
    """Returns when a log line was written: seconds since 1970, above 10^12 milliseconds; 0 is now.

    Raises:
        InvalidArgumentError: no calendar has that time.
    """
    if not timestamp:
        return now
    since = timestamp / 1000 if timestamp > _MILLISECONDS_ABOVE else timestamp
    if not 0 <= since <= _LAST_S:
        raise InvalidArgumentError("must be a time since 1970, in seconds or milliseconds", field="timestamp")
    return _EPOCH + timedelta(seconds=since)


def rendered_logs(logs: str, output: bytes) -> str:
    """Returns the logs of a task: what its workers logged, then what it wrote."""
    written = output.decode(errors="replace")
    parts = (logs[-_LOG_CHARACTERS:].rstrip("\n"), *((_OUTPUT_TITLE, written) if written else ()))
    return "\n".join(filter(None, parts))


def result_data(files: Mapping[str, bytes]) -> bytes:
    """Returns the result of a task: what its worker returned, as it came, or else a zip of its files.

    The same files are the same bytes.

    Args:
        files: by path.
    """
    if files.keys() == {RETURNED}:
        return files[RETURNED]
    return _zipped(sorted(files.items()))


def _zipped(files: Iterable[tuple[str, bytes]]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as bundle:
        for path, data in files:
            bundle.writestr(zipfile.ZipInfo(path), data, zipfile.ZIP_DEFLATED)
    return written.getvalue()
