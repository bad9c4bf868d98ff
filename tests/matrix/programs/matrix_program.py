"""What the matrix has every node run: it ends when its process is called, and not before."""

from __future__ import annotations

import signal


def wait(_given: str) -> str:
    """Waits to be called by the signal USR1."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    signal.sigwait({signal.SIGUSR1})
    return "called"


if __name__ == "__main__":
    print(wait(""))
