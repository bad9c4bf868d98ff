"""A model's own process: ``python -m arcray.node.models.host FD``.

Loads one model, says that it is ready, answers until the agent closes the socket. Models that block run in threads,
of which there are only as many as it takes: an instant model is served by one thread that answers in batches, a slow
one gets a thread per slot as soon as a request has waited ``_STALL_S``. Coroutines run on an event loop.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, NoReturn

from arcray.node.models.frames import (
    BROKEN,
    CANCEL,
    DONE,
    LOAD,
    PING,
    PONG,
    READY,
    RUN,
    STATE,
    FrameReader,
    LoadSpec,
    pack,
)
from arcray.node.models.loaders import Loaded, load

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_RECEIVE_BYTES: Final = 1 << 20
_BATCH: Final = 128  # answers in one frame at the most
_BATCH_BYTES: Final = 64 * 2**20  # and their outputs, beyond which no further answer is added
_MAX_MESSAGE: Final = 4_096  # characters of what is told of an error
_STALL_S: Final = 0.005  # a queue that has not moved for so long gets more threads
_IDLE_S: Final = 2.0  # a surplus thread without work ends
_MAX_OUTPUT_BYTES: Final = 32 * 2**20

_Answer = tuple[int, bool, bytes | str, float]


def main() -> None:
    """Serves the socket whose descriptor is the first argument; never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's interrupt is for the agent, which then ends us
    # The closed socket tells as well, but not while native code holds the interpreter.
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # no setuid program that it starts makes it more than it is
    connection = socket.socket(fileno=int(sys.argv[1]))
    reader = FrameReader()
    try:
        spec = _receive_spec(connection, reader)
        loaded = load(spec)
    except BaseException as error:  # noqa: BLE001 - the model's code may raise anything; the agent is told
        _log_error()
        connection.sendall(pack(BROKEN, _describe(error)))
        os._exit(1)
    if loaded.call is not None:
        _ThreadHost(connection, reader, loaded.call, spec.slots).serve()
    else:
        asyncio.run(_AsyncHost(connection, reader, loaded, spec.slots).serve())
    sys.stdout.flush()
    os._exit(0)  # not sys.exit: a thread that blocks in the model must not keep the process


def _receive_spec(connection: socket.socket, reader: FrameReader) -> LoadSpec:
    while data := connection.recv(_RECEIVE_BYTES):
        for kind, body in reader.feed(data):
            assert kind == LOAD
            return LoadSpec(**body)
    os._exit(0)  # the agent went away before it said what to load


def _decode(data: bytes | None) -> Any:
    return None if data is None else json.loads(data)


def _encode(value: Any) -> bytes:
    data = json.dumps(value, default=_plain, allow_nan=False, separators=(",", ":")).encode()
    if len(data) > _MAX_OUTPUT_BYTES:
        raise ValueError(f"the output has {len(data)} bytes, at most {_MAX_OUTPUT_BYTES} are carried")
    return data


def _plain(value: Any) -> Any:
    """Returns arrays and array scalars as JSON has them, whatever library they are of."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"the output holds a {type(value).__name__}, which is no JSON")


def _describe(error: BaseException) -> str:
    """Returns a word about an error that can be sent, whatever the model's code raised."""
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001 - its own text raises
        text = type(error).__name__
    return text[:_MAX_MESSAGE].encode("utf-8", "backslashreplace").decode()


def _next_batch(answers: deque[_Answer]) -> list[_Answer]:
    """Takes what one frame carries off the front."""
    batch: list[_Answer] = []
    size = 0
    while answers and len(batch) < _BATCH and size < _BATCH_BYTES:
        batch.append(answers.popleft())
        size += len(batch[-1][2])
    return batch


def _die() -> NoReturn:
    """Ends this process after a fault of ours: the agent sees it and starts another, where a silent one would hang."""
    _log_error()
    os._exit(1)


def _log_error() -> None:
    """Writes the error that is being handled to the log, unless the model has closed that."""
    with suppress(BaseException):
        traceback.print_exc()
        sys.stderr.flush()


class _ThreadHost:
    """Serves a model that blocks. The main thread reads, grows the pool and sends what waits behind a slow call."""

    def __init__(self, connection: socket.socket, reader: FrameReader, call: Any, slots: int) -> None:
        self._connection = connection
        self._reader = reader
        self._call = call
        self._slots = slots
        self._queue: SimpleQueue[tuple[int, bytes | None, int]] = SimpleQueue()
        self._answers: deque[_Answer] = deque()
        self._sending = threading.Lock()
        self._cancelled: set[int] = set()
        self._counting = threading.Lock()
        self._threads = 0
        self._begun = 0
        self._begun_before = 0
        self._looked_at = 0.0

    def serve(self) -> None:
        connection = self._connection
        connection.sendall(pack(READY, os.getpid()))
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        while True:
            busy = self._threads > 0 and (self._answers or not self._queue.empty())
            if poll.poll(_STALL_S * 1000 if busy else None):
                data = connection.recv(_RECEIVE_BYTES)
                if not data:
                    return
                for kind, body in self._reader.feed(data):
                    self._take(kind, body)
            else:
                self._send()
            self._grow()

    def _take(self, kind: int, body: list[Any]) -> None:
        if kind == RUN:
            for message in body:
                self._queue.put(message)
        elif kind == CANCEL:
            self._cancelled.update(body)
        elif kind == PING:
            with self._sending:
                self._connection.sendall(pack(PONG, None))

    def _grow(self) -> None:
        """Adds threads when requests wait and none has begun since the last look."""
        waiting = self._queue.qsize()
        now = time.monotonic()
        if not waiting:
            self._cancelled.clear()  # what was cancelled has been answered
        if not waiting or (self._threads and now - self._looked_at < _STALL_S):
            return
        stalled = self._begun == self._begun_before
        self._begun_before, self._looked_at = self._begun, now
        wanted = 1 if not self._threads else min(waiting, self._slots - self._threads) if stalled else 0
        for _ in range(wanted):
            with self._counting:
                self._threads += 1
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        try:
            self._work_off()
        except BaseException:  # noqa: BLE001 - the model's own errors are answers; this is ours
            _die()

    def _work_off(self) -> None:
        while True:
            try:
                message = self._queue.get_nowait()
            except Empty:
                self._send()
                try:
                    message = self._queue.get(timeout=_IDLE_S)
                except Empty:
                    if self._retire():
                        return
                    continue
            self._begun += 1
            self._answers.append(self._answer(message))
            if len(self._answers) >= _BATCH:
                self._send()

    def _retire(self) -> bool:
        with self._counting:
            if self._threads == 1:
                return False
            self._threads -= 1
            return True

    def _answer(self, message: tuple[int, bytes | None, int]) -> _Answer:
        seq, data, _ = message
        if seq in self._cancelled:
            self._cancelled.discard(seq)
            return seq, False, "cancelled", 0.0
        started = time.perf_counter()
        try:
            output: bytes | str = _encode(self._call(_decode(data)))
            ok = True
        except BaseException as error:  # noqa: BLE001 - the model's code may raise anything; its caller is told
            _log_error()
            output, ok = _describe(error), False
        return seq, ok, output, (time.perf_counter() - started) * 1000

    def _send(self) -> None:
        with self._sending:
            if batch := _next_batch(self._answers):
                self._connection.sendall(pack(DONE, batch))


class _AsyncHost:
    """Serves a model that is a coroutine."""

    def __init__(self, connection: socket.socket, reader: FrameReader, loaded: Loaded, slots: int) -> None:
        assert loaded.call_async is not None
        self._connection = connection
        self._reader = reader
        self._call = loaded.call_async
        self._watch = loaded.watch
        self._slots = slots
        self._waiting: deque[tuple[int, bytes | None, int]] = deque()
        self._running: dict[int, asyncio.Task[tuple[bool, bytes | str]]] = {}
        self._answers: deque[_Answer] = deque()
        self._words: deque[bytes] = deque()  # frames that are no answers
        self._cancelled: set[int] = set()
        self._pending = asyncio.Event()

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        wait_until_up = getattr(getattr(self._call, "__self__", None), "wait_until_up", None)
        if wait_until_up is not None:
            await wait_until_up()
        self._connection.setblocking(False)  # noqa: FBT003 - the socket's own signature
        await loop.sock_sendall(self._connection, pack(READY, os.getpid()))
        sender = asyncio.create_task(self._send_forever())
        watcher = asyncio.create_task(self._watch_forever())
        while data := await loop.sock_recv(self._connection, _RECEIVE_BYTES):
            for kind, body in self._reader.feed(data):
                self._take(kind, body)
        watcher.cancel()
        sender.cancel()

    def _take(self, kind: int, body: list[Any]) -> None:
        if kind == RUN:
            self._waiting.extend(body)
            self._start_waiting()
        elif kind == CANCEL:
            for seq in body:
                if seq in self._running:
                    self._running[seq].cancel()
                elif any(message[0] == seq for message in self._waiting):
                    self._cancelled.add(seq)
        elif kind == PING:
            self._say(pack(PONG, None))

    def _start_waiting(self) -> None:
        while self._waiting and len(self._running) < self._slots:
            seq, data, _ = self._waiting.popleft()
            if seq in self._cancelled:
                self._cancelled.discard(seq)
                self._tell((seq, False, "cancelled", 0.0))
                continue
            started = time.perf_counter()
            task = asyncio.create_task(self._answer(data))
            self._running[seq] = task
            # A callback, for a task that is cancelled before its first step never runs a line of its own.
            task.add_done_callback(partial(self._finish, seq, started))

    async def _answer(self, data: bytes | None) -> tuple[bool, bytes | str]:
        try:
            return True, _encode(await self._call(_decode(data)))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - the model's code may raise anything; its caller is told
            _log_error()
            return False, _describe(error)

    def _finish(self, seq: int, started: float, task: asyncio.Task[tuple[bool, bytes | str]]) -> None:
        ok, output = (False, "cancelled") if task.cancelled() else task.result()
        del self._running[seq]
        self._tell((seq, ok, output, (time.perf_counter() - started) * 1000))
        self._start_waiting()

    def _tell(self, answer: _Answer) -> None:
        self._answers.append(answer)
        self._pending.set()

    async def _watch_forever(self) -> None:
        if self._watch is None:
            return
        try:
            await self._watch(lambda reason: self._say(pack(STATE, reason)))
        except Exception:  # noqa: BLE001 - a bug of ours
            _die()

    def _say(self, frame: bytes) -> None:
        self._words.append(frame)
        self._pending.set()

    async def _send_forever(self) -> None:
        try:
            await self._send_all()
        except OSError:
            pass  # the agent is gone, which ends ``serve`` as well
        except Exception:  # noqa: BLE001 - a bug of ours
            _die()

    async def _send_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._pending.wait()
            self._pending.clear()
            while self._words:
                await loop.sock_sendall(self._connection, self._words.popleft())
            while batch := _next_batch(self._answers):
                await loop.sock_sendall(self._connection, pack(DONE, batch))


if __name__ == "__main__":
    main()
