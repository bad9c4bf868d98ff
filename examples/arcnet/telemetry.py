"""Shows what happens in the pool, as ArcNet's telemetry tells it: ``python telemetry.py [URL [ZONE...]]`` until Ctrl-C.

Needs the package ``websockets``. Where the gateway asks for a key: ``ws://…/telemetry?apiKey=KEY``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from websockets.sync.client import connect

PING_S = 30


def line(message: Mapping[str, Any]) -> str:
    """Returns a message as one line for people."""
    match message["type"]:
        case "telemetry":
            node = message["node"]
            models = ", ".join(node["modelsLoaded"]) or "no model"
            return f"node {node['id']}: {node['gpuUtilization']:.0%} busy, {models}"
        case "inference":
            return f"request {message['requestId']} of {message['modelId']}: {message['status']}"
        case "system":
            return f"{message['severity']}: {message['message']}"
        case kind:
            return str(kind)  # hpc, pong, and what later versions may say


def main() -> None:
    """Listens to all zones, or to those that are named."""
    url, *zones = sys.argv[1:] or ["ws://127.0.0.1:8080/telemetry"]
    with connect(url) as socket:
        if zones:
            socket.send(json.dumps({"type": "subscribe", "geozones": zones}))
        while True:
            try:
                print(line(json.loads(socket.recv(timeout=PING_S))), flush=True)
            except TimeoutError:
                socket.send(json.dumps({"type": "ping"}))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
