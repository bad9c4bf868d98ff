"""Parts of the main job that have rules of their own; the whole of it is tested on a real cluster."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest
from websockets.sync.server import ServerConnection, serve

from arcray.core.errors import UnavailableError
from examples.digits.listener import Listener
from examples.digits.own import free_ports
from examples.digits.report import Balance, Report, Row, percentiles, show_log

WAIT_S = 10.0


@contextmanager
def telemetry(handler: Callable[[ServerConnection], None]) -> Iterator[str]:
    with serve(handler, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join(WAIT_S)


def sending(*frames: Mapping[str, object]) -> Callable[[ServerConnection], None]:
    def handler(connection: ServerConnection) -> None:
        for frame in frames:
            connection.send(json.dumps(frame))
        for _ in connection:  # until the client closes
            pass

    return handler


def completed(request_id: str) -> dict[str, object]:
    return {"type": "inference", "status": "completed", "requestId": request_id}


def test_listener_counts_what_it_hears() -> None:
    frames: list[Mapping[str, object]] = [
        completed("a"),
        {"type": "telemetry", "node": {}},
        {"type": "system", "severity": "info"},
        completed("b"),
    ]
    with telemetry(sending(*frames)) as url, Listener(url) as listener:
        assert listener.await_completed({"a", "b"}, WAIT_S) == set()
        assert listener.events() == {"inference completed": 2, "system info": 1, "telemetry": 1}


def test_listener_names_what_it_did_not_hear() -> None:
    other = {"type": "inference", "status": "failed", "requestId": "b"}
    with telemetry(sending(completed("a"), other)) as url, Listener(url) as listener:
        assert listener.await_completed({"a"}, WAIT_S) == set()
        assert listener.await_completed({"a", "b"}, 0.05) == {"b"}


def test_listener_that_hears_no_snapshot_does_not_begin() -> None:
    with (
        telemetry(sending()) as url,
        pytest.raises(UnavailableError, match="no snapshot"),
        Listener(url, patience_s=0.05),
    ):
        pytest.fail("nothing was sent")


def test_taken_port_is_replaced_by_a_free_one() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        ports = free_ports((taken, taken, 0))
    assert taken not in ports
    assert len(set(ports)) == 3


def test_free_port_is_kept() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    assert free_ports((port,)) == [port]


def test_report_shows_what_ran_and_the_time_of_each_part(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    with report.phase("train"):
        report.rows.append(Row(work="train.py", kind="program", node="head", pid=7, result="done", ms=12.34))
    report.rows.append(Row(work="hello", kind="container", result="not run: no engine"))
    report.show()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:5] == [
        "WORK      KIND       NODE  PID  RESULT                MS",
        "train.py  program    head    7  done                12.3",
        "hello     container  -       -  not run: no engine     -",
    ]
    assert lines[-1].split()[0] == "total"


def test_report_shows_who_paid_whom_where_somebody_did(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.show()
    assert "USER" not in capsys.readouterr().out
    report.balances.append(Balance(user="ana", before=100, after=98))
    report.show()
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("USER  BEFORE  AFTER")
    assert lines[at + 1] == "ana      100     98"


def test_report_ends_with_what_ran_where_and_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.matrix = [
        {"protocol": "REST", "ray": "1229 primes", "claw": "no: must offer program"},
        {"protocol": "HiveMind", "ray": "not run: no engine", "claw": "no: must offer program"},
    ]
    report.show()
    assert capsys.readouterr().out.splitlines()[-5:] == [
        "PROTOCOL  RAY          CLAW",
        "REST      1229 primes  no [1]",
        "HiveMind  no [2]       no [1]",
        "[1] no: must offer program",
        "[2] not run: no engine",
    ]


def test_part_that_fails_is_timed_too() -> None:
    report = Report()
    with pytest.raises(RuntimeError), report.phase("train"):
        raise RuntimeError
    assert [name for name, _ in report.phases] == ["train"]


def test_percentiles_are_of_the_values() -> None:
    assert percentiles([float(value) for value in range(1, 102)]) == "p50 51.0 ms, p99 100.0 ms"


def test_log_is_indented_by_lines_however_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    show_log(["one\ntw", "o\n", "thr", "ee"])
    assert capsys.readouterr().out == "    one\n    two\n    three\n"
