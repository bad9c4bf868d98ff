"""The document's own clients, unchanged, on their own port where that is free."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.conftest import Serve
from tests.conformance.pool.pool_rig import ALONE, PATIENCE_S, registered, until
from tests.hivemind_examples import is_free
from tests.pool_examples import PORT, node_modules, running_javascript, running_python

__all__ = ["node_modules"]

ID = "my-device-1"


def served_by(serve: Serve) -> Any:
    return serve(facades=("pool",), nodes=[], listen=True, port=PORT if is_free(PORT) else 0, pool=ALONE)


def port_of(served: Any) -> int:
    return int(served.url.rpartition(":")[2])


async def seen(served: Any) -> datetime | None:
    devices = (await served.client.get("/api/devices")).json()["devices"]
    return next((datetime.fromisoformat(device["lastSeen"]) for device in devices if device["id"] == ID), None)


@pytest.mark.timeout(60)
async def test_the_python_client_runs_unchanged(serve: Serve) -> None:
    """Case 25. The program sends a heartbeat every five seconds, of which two are waited for."""
    async with served_by(serve) as served, running_python(port_of(served)) as program:
        await program.printed("Received: devices")
        first = await seen(served)
        assert first is not None

        async def beats() -> bool:
            now = await seen(served)
            return now is not None and (now - first).total_seconds() >= 10 - 1

        await until(served, beats, patience_s=PATIENCE_S * 2)
        async with registered(served, "B"):
            await program.printed("Received: device_joined")
        await program.printed("Received: device_left")


@pytest.mark.timeout(120)
async def test_the_javascript_client_runs_unchanged(serve: Serve, node_modules: Path, tmp_path: Path) -> None:
    """Installs a package of npm, and waits for an update, of which the program sends one every two seconds."""
    async with served_by(serve) as served, registered(served, "watch") as watch:
        async with running_javascript(node_modules, tmp_path, port_of(served)) as program:
            joined = await watch.hear("device_joined")
            await program.printed("Connected devices: 2")
            while (told := await watch.hear("resource_update"))["deviceId"] != ID:
                pass
            async with registered(served, "B"):
                await program.printed("New device: Bname")
            await program.printed("Device left: B")
        left = await watch.hear("device_left")
        while left["deviceId"] != ID:
            left = await watch.hear("device_left")
    assert (joined["device"]["id"], joined["device"]["name"], joined["device"]["platform"]) == (
        ID,
        "My Computer",
        "linux",
    )
    assert (told["resources"]["cpuCores"], told["resources"]["gpuName"]) == (8, "NVIDIA RTX 3080")
