"""The first thing that runs inside a sandbox: sets limits, becomes the program's own user, becomes the program.

What it cannot do to a program it fails at, and the program is not run.

Its source is handed to ``python -I -S -c``, so it needs no file inside the sandbox and imports the standard library
only. It is not a ``preexec_fn``: code between fork and exec in a process with threads may deadlock.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import struct

_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_KILLED = 128 + signal.SIGKILL
_PART = 100_000  # characters of each part but the last

# By machine: the kernel's name for it (AUDIT_ARCH_*), and its numbers of clone, of unshare, and of add_key, which
# request_key and keyctl follow.
_CALLS = {"x86_64": (0xC000003E, 56, 272, 248), "aarch64": (0xC00000B7, 220, 97, 217)}
_KEY_CALLS = 3
_CLONE3 = 435
_JOIN_SESSION_KEYRING = 1
_X32 = 0x40000000  # numbers from here on are another calling convention of x86_64
_CLONE_NEWUSER = 0x10000000
_SECCOMP_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000  # with an error number
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_AT_NUMBER, _AT_MACHINE, _AT_FIRST_ARGUMENT = 0, 4, 16  # in struct seccomp_data


def limit(which: int, value: int) -> None:
    """Sets a limit, or what is left of it where less is allowed."""
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def deny_calls(libc: ctypes.CDLL) -> None:
    """Denies this process, and all that it becomes and starts, user namespaces of its own, and keys.

    A user's keyring outlives its processes, and another program may be that user later.

    In a user namespace it would be root: it could mount file systems in memory, which nobody counts, and reach much of
    the kernel that is closed to users. By a filter, because the limit on their number is the whole machine's. clone3
    hides its flags in memory, where a filter cannot look; without it the C library takes clone. So do other calling
    conventions hide what is called, and are closed.
    """
    machine, clone, unshare, keys = _CALLS[os.uname().machine]
    # Each is (operation, jump if true, jump if false, operand); jumps count from the next.
    rules = (
        (_LOAD, 0, 0, _AT_MACHINE),
        (_IF_EQUAL, 0, 10, machine),
        (_LOAD, 0, 0, _AT_NUMBER),
        (_IF_AT_LEAST, 8, 0, _X32),
        (_IF_EQUAL, 7, 0, _CLONE3),
        (_IF_AT_LEAST, 0, 1, keys),
        (_IF_AT_LEAST, 0, 5, keys + _KEY_CALLS),
        (_IF_EQUAL, 1, 0, clone),
        (_IF_EQUAL, 0, 2, unshare),
        (_LOAD, 0, 0, _AT_FIRST_ARGUMENT),
        (_IF_ANY_BIT, 2, 0, _CLONE_NEWUSER),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE | errno.ENOSYS),
        (_RETURN, 0, 0, _REFUSE | errno.EPERM),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, struct.pack("HP", len(rules), ctypes.addressof(code))):
        raise OSError(ctypes.get_errno(), "calls of the system cannot be denied")


def leave_keyring(libc: ctypes.CDLL) -> None:
    """Gives this process, and all that it starts, a session keyring of its own instead of the agent's.

    Who inherits one may read and write what is in it, whatever user it becomes: the keys of whoever started the agent,
    and those that other programs put there. Where keys are absent or forbidden, they are so for programs too.
    """
    keyctl = _CALLS[os.uname().machine][3] + _KEY_CALLS - 1
    joined = libc.syscall(keyctl, _JOIN_SESSION_KEYRING, None)
    if joined < 0 and ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):
        raise OSError(ctypes.get_errno(), "the agent's keyring cannot be left")


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
        limit(getattr(resource, name), value)
    if spec["uid"] is not None:
        os.setgroups([])
        os.setresgid(spec["uid"], spec["uid"], spec["uid"])
        os.setresuid(spec["uid"], spec["uid"], spec["uid"])
    libc = ctypes.CDLL(None, use_errno=True)
    if spec["bare"]:
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if spec["confined"]:
        leave_keyring(libc)
        deny_calls(libc)  # only who gains no new privileges may
    if spec["bare"]:
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
