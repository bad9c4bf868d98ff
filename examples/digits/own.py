"""An arcray of its own for the demonstration, started and ended by the command line as a user would."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from arcray.cli import daemon
from arcray.config import GatewaySettings
from arcray.core.errors import UnavailableError
from examples.digits import container
from examples.matrix.ways import LINES, LINES_COMMAND

__all__ = ["OwnArcray", "free_ports"]

_GRPC_PORT: Final = "ARCRAY_GATEWAY__GRPC_PORT"
_PROGRAMS: Final = {
    "process-data": {"entry_point": "arcray.facades.pool.demonstration:process_data"},
    LINES_COMMAND: {"image": container.IMAGE, "args": ["/bin/busybox", "sh", "-c", LINES]},
}


class OwnArcray:
    """One arcray on this machine, from ``start`` to ``end``."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="arcray-demo-"))
        # A settings file of the user's is for the user's own arcray.
        self._env = {name: value for name, value in os.environ.items() if name != "ARCRAY_CONFIG"}
        self._env |= _ports() | {"ARCRAY_POOL__PROGRAMS": json.dumps(_PROGRAMS)}

    @property
    def log(self) -> Path:
        """Where it writes what it prints."""
        return daemon.log_path(self._directory)

    @property
    def hivemind(self) -> str:
        """Where it serves HiveMind."""
        return f"127.0.0.1:{self._env[_GRPC_PORT]}"

    def start(self) -> str:
        """Starts it; returns its URL.

        Raises:
            UnavailableError: it did not start; the command has printed why.
        """
        status = self._arcray("up", "--detach")
        running = daemon.find(self._directory)
        if status or running is None:
            raise UnavailableError(f"arcray did not start; see {self.log}")
        return running.url

    def end(self) -> None:
        """Ends it, if it runs."""
        self._arcray("down")

    def forget(self) -> None:
        """Removes its state."""
        shutil.rmtree(self._directory)

    def _arcray(self, command: str, *options: str) -> int:
        words = [sys.executable, "-P", "-m", "arcray.cli.main", command, *options, "--state-dir", str(self._directory)]
        return subprocess.run(words, env=self._env, check=False).returncode  # noqa: S603  our own command line


def _ports() -> dict[str, str]:
    """Returns settings that move arcray's ports where something else listens on the default ones."""
    default = GatewaySettings()
    *http, grpc, serve = free_ports((*default.http_ports, default.grpc_port or 0, default.serve_port))
    return {
        "ARCRAY_GATEWAY__HTTP_PORTS": json.dumps(http),
        _GRPC_PORT: str(grpc),
        "ARCRAY_GATEWAY__SERVE_PORT": str(serve),
    }


def free_ports(wanted: Sequence[int]) -> list[int]:
    """Returns the wanted ports, each replaced by a free one where it is taken; 0 wants any."""
    # All are held until the last is chosen, so that the kernel does not offer one port twice.
    with ExitStack() as held:
        return [_bind(port, held) or _bind(0, held) for port in wanted]


def _bind(port: int, held: ExitStack) -> int:
    """Returns the port that was bound, 0 when it is taken."""
    one = held.enter_context(socket.socket())
    # As servers do: a port that merely lingers from an earlier connection is free.
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind(("127.0.0.1", port))
    except OSError:
        return 0
    return int(one.getsockname()[1])
