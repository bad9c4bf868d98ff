"""What the matrix has every node run: it ends when its process is called, and not before."""

from __future__ import annotations

import signal


class CalledError(Exception):
    """The signal has come."""


def wait(_given: str) -> str:
    """Waits to be called by the signal USR1; that it does is seen in what the kernel says of the process."""
    try:
        signal.signal(signal.SIGUSR1, _called)
        while True:
            signal.pause()
    except CalledError:
        return "called"


def _called(*_: object) -> None:
    raise CalledError


if __name__ == "__main__":
    print(wait(""))
