"""Holds a part of a Resource Pool, and has it run a task: ``python borrow.py [URL [TEXT]]``.

Needs the package ``websocket-client``. What tasks may run is in the gateway's setting ``pool.programs``, by the name
that is given as ``command``; ``serve_configs/local.yaml`` has ``process-data``, which counts words and adds numbers.
"""

from __future__ import annotations

import json
import sys
import uuid
from typing import Any

import websocket

PATIENCE_S = 60


class Pool:
    """A connection to a pool, for one device that borrows."""

    def __init__(self, url: str) -> None:
        self.device_id = f"borrower-{uuid.uuid4()}"
        self._socket = websocket.create_connection(url, timeout=PATIENCE_S)

    def say(self, kind: str, **members: Any) -> None:
        """Sends a message."""
        self._socket.send(json.dumps({"type": kind, **members}))

    def hear(self, kind: str) -> Any:
        """Returns the next message of a type; others tell of other devices."""
        while True:
            message = json.loads(self._socket.recv())
            if message["type"] == kind:
                return message


def main() -> None:
    """Registers, borrows, has a task run, gives back."""
    url = sys.argv[1] if len(sys.argv) > 1 else "ws://localhost:3000/ws"
    text = sys.argv[2] if len(sys.argv) > 2 else "19 and 23 make"
    pool = Pool(url)
    pool.say("register", deviceId=pool.device_id, deviceName="Borrower", platform=sys.platform)
    print(len(pool.hear("devices")["devices"]) - 1, "other devices")

    pool.say("resource_request", deviceId=pool.device_id, requirements={"cpu": 10, "memory": 16})
    allocation = pool.hear("resource_allocation")["allocation"]
    for part in allocation["allocatedDevices"]:
        print(f"{part['allocatedCpu']} % and {part['allocatedMemory']} MB of {part['deviceName']}")
    print("held" if allocation["fulfilled"] else "not held: the pool has not so much")

    task = {
        "id": str(uuid.uuid4()),
        "type": "compute",
        "submitterId": pool.device_id,
        "requirements": {"cpu": 50, "memory": 64, "storage": 0, "gpu": False},
        "data": {"command": "process-data", "input": text},
    }
    pool.say("task_submit", task=task)
    result = pool.hear("task_result")["result"]
    pool.say("resource_release", allocationId=allocation["id"])
    if not result["success"]:
        sys.exit(f"the task failed: {result['error']}")
    print(result["result"])


if __name__ == "__main__":
    main()
