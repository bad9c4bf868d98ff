"""The first thing that runs inside a sandbox: sets limits, becomes the program's own user, becomes the program.

Its source is handed to ``python -I -S -c``, so it needs no file inside the sandbox and imports the standard library
only. It is not a ``preexec_fn``: code between fork and exec in a process with threads may deadlock.
"""

import json
import os
import resource

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_SIGKILL = 9
_PART = 100_000  # characters of each part but the last


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def main() -> None:
    """Reads its orders, which come in parts, from its environment and never returns."""
    orders = ""
    while part := os.environ.pop(f"ARCRAY_LAUNCH_{len(orders) // _PART}", ""):
        orders += part
    spec = json.loads(orders)
    for name, value in spec["limits"].items():
        _limit(getattr(resource, name), value)
    if spec["uid"] is not None:
        os.setgroups([])
        os.setresgid(spec["uid"], spec["uid"], spec["uid"])
        os.setresuid(spec["uid"], spec["uid"], spec["uid"])
    if spec["bare"]:
        import ctypes

        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)  # after the change of user, which clears it
    os.umask(0o077)
    os.chdir(spec["cwd"])
    os.execve(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - this is the point of it


if __name__ == "__main__":
    main()
