"""The first thing that runs inside a sandbox: sets limits, becomes the program's own user, becomes the program.

Its source is handed to ``python -I -S -c``, so it needs no file inside the sandbox and imports the standard library
only. It is not a ``preexec_fn``: code between fork and exec in a process with threads may deadlock.
"""

import json
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_KILLED = 128 + signal.SIGKILL
_PART = 100_000  # characters of each part but the last


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _wait(program: int) -> None:
    """Waits for the program, and ends as it did. Whatever sessions it makes, what it leaves is handed to us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        ended, status = os.wait()
        if ended == program:
            code = os.waitstatus_to_exitcode(status)
            _end(code if code >= 0 else 128 - code)


def _end(code: int) -> None:
    """Ends with all that is below us: what a killed child leaves becomes a child of ours, and is killed next."""
    while True:
        with open("/proc/thread-self/children") as children:  # noqa: PTH123 - pathlib costs each start milliseconds
            for pid in children.read().split():
                os.kill(int(pid), signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            os._exit(code)


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
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.signal(signal.SIGHUP, lambda *_: _end(_KILLED))
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGHUP, 0, 0, 0)  # after the change of user, which clears it
        program = os.fork()
        if program:
            _wait(program)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.umask(0o077)
    os.chdir(spec["cwd"])
    os.execve(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - this is the point of it


if __name__ == "__main__":
    main()
