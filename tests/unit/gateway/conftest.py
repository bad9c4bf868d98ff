"""The gateway under test."""

from __future__ import annotations

import pytest

from tests.probe_gateway import ProbeGateway


@pytest.fixture
async def gateway() -> ProbeGateway:
    return ProbeGateway()
