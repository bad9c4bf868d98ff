"""The wire between an agent and its model processes: length-prefixed msgpack, lists of messages in one frame.

Both ends batch: whatever came together travels together. A frame is ``[kind, body]``:

==========  =======================================================  =========
kind        body                                                     direction
==========  =======================================================  =========
``LOAD``    the ``LoadSpec`` as a map                                to child
``RUN``     ``[[seq, input, context_tokens], …]``                    to child
``CANCEL``  ``[seq, …]``                                             to child
``READY``   process id                                               to agent
``BROKEN``  why the model cannot be loaded                           to agent
``DONE``    ``[[seq, ok, output or message, duration_ms], …]``       to agent
``PING``    nothing; is answered by the thread that reads            to child
``PONG``    nothing                                                  to agent
``STATE``   why it cannot answer for now, "" when it can again      to agent
==========  =======================================================  =========
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

__all__ = [
    "BROKEN",
    "CANCEL",
    "DONE",
    "LOAD",
    "PING",
    "PONG",
    "READY",
    "RUN",
    "STATE",
    "FrameReader",
    "LoadSpec",
    "pack",
]

LOAD: Final = 1
RUN: Final = 2
CANCEL: Final = 3
READY: Final = 4
BROKEN: Final = 5
DONE: Final = 6
STATE: Final = 7
PING: Final = 8
PONG: Final = 9

MAX_FRAME_BYTES: Final = 256 * 2**20
_LENGTH: Final = struct.Struct(">I")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSpec:
    """What a model process is to load.

    Args:
        source: ``module:name``, a file, or a base URL, by format.
        slots: requests that it works on at once.
        threads: of numeric libraries.
        gpu: whether it has one.
        env: of the model; also the process's environment.
        probe_s, probe_timeout_s: between two looks at an endpoint, and how long each may take.
    """

    model_id: str
    format: str
    source: str
    target: str
    slots: int
    threads: int
    gpu: bool
    env: dict[str, str] = field(default_factory=dict)
    probe_s: float = 5.0
    probe_timeout_s: float = 5.0


def pack(kind: int, body: Any) -> bytes:
    """Returns one frame."""
    data: bytes = msgpack.packb((kind, body))
    return _LENGTH.pack(len(data)) + data


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, Any]]:
        """Returns the frames that ``data`` completes.

        Raises:
            ValueError: the stream is no stream of frames.
        """
        buffer = self._buffer
        buffer += data
        frames: list[tuple[int, Any]] = []
        start = 0
        while len(buffer) - start >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(buffer, start)
            if size > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {size} bytes")
            end = start + _LENGTH.size + size
            if len(buffer) < end:
                break
            kind, body = msgpack.unpackb(memoryview(buffer)[start + _LENGTH.size : end])
            frames.append((kind, body))
            start = end
        if start:
            del buffer[:start]
        return frames
