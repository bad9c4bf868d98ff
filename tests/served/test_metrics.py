"""What an operator's Prometheus finds at a running arcray."""

from __future__ import annotations

import re
import urllib.request

import pytest

from arcray.config import Settings
from arcray.core.queues import Queue
from arcray.wire.facade import load_facades

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]


def test_every_queue_of_gateway_and_scheduler_shows_its_length_and_its_limit(served: str) -> None:
    with urllib.request.urlopen(f"{served}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    lengths, limits = (
        {
            name: int(value)
            for name, value in re.findall(rf'^arcray_queue_{what}_count{{queue="(\w+)"}} (\d+)$', text, re.MULTILINE)
        }
        for what in ("waiting", "allowed")
    )
    of_protocols = {queue for facade in load_facades(Settings().facades) for queue in facade.queues}
    assert lengths.keys() == limits.keys()
    assert lengths.keys() == of_protocols | set(Queue) - {Queue.WORK}  # which machines tell Ray's exporter of
    assert all(lengths[name] <= limits[name] for name in lengths)
    assert "arcray_scheduler_reached_state 1\n" in text
