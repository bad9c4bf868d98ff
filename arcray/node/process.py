"""Child processes: started, awaited and signalled from any event loop in any thread.

asyncio's own subprocesses need a child watcher, which loops outside the main thread (a Ray actor's) do not all have;
a pidfd is awaited like a socket.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from arcray.core.errors import UnavailableError

__all__ = ["Child", "Output", "User", "spawn_piped"]

_SIGNAL_BASE: Final = 128  # shells report a death by signal n as 128 + n; so do we, whatever stood between
_CHUNK: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Whom a process runs as: numbers of the user, of its group and of the other groups that it is in."""

    uid: int
    gid: int
    groups: tuple[int, ...]

    @classmethod
    def named(cls, name: str) -> User:
        """Finds a user of this machine.

        Raises:
            UnavailableError: there is none of this name, or we are not root and cannot become others.
        """
        if os.geteuid() != 0:
            raise UnavailableError(f"only an agent that is root can run anything as {name}")
        try:
            entry = pwd.getpwnam(name)
        except KeyError as error:
            raise UnavailableError(f"this machine has no user {name}") from error
        return cls(uid=entry.pw_uid, gid=entry.pw_gid, groups=tuple(os.getgrouplist(name, entry.pw_gid)))


class Child:
    """A running child process, leader of its own session and process group."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._pidfd = os.pidfd_open(popen.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)

    @classmethod
    def spawn(
        cls,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        stdin: int | None = None,
        output: int | None = None,
        pass_fds: Sequence[int] = (),
        user: User | None = None,
    ) -> Child:
        """Starts a process. Must be called on the event loop's thread.

        The call blocks for the milliseconds of a vfork, on purpose: a parent-death signal fires when the *thread*
        that forked ends, and the threads of a pool come and go.

        Args:
            stdin: file descriptor that it reads; None reads nothing.
            output: file descriptor of its stdout and stderr; None drops them.
            user: whom it runs as, for which we must be root; None is who we are.

        Raises:
            OSError: the executable is absent or may not be run.
        """
        popen = subprocess.Popen(  # noqa: S603 - argv is built by us; programs never pass through a shell
            list(argv),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.DEVNULL if output is None else output,
            stderr=subprocess.DEVNULL if output is None else subprocess.STDOUT,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
            user=None if user is None else user.uid,
            group=None if user is None else user.gid,
            extra_groups=None if user is None else user.groups,
        )
        return cls(popen)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def exited(self) -> bool:
        """Whether it has ended."""
        return self._exit.done()

    async def wait(self) -> int:
        """Returns its exit code once it has ended; 128 + n when signal n ended it."""
        return await asyncio.shield(self._exit)

    def kill_group(self) -> None:
        """Kills it and every process of its group."""
        self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to its process group, unless it has ended."""
        if not self.exited:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def ensure_dead(self) -> None:
        """Kills the group and waits for the end."""
        self.kill_group()
        await self.wait()

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        # What it leaves behind ends with it. Now, for once it is waited for its number may be somebody else's.
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        code = self._popen.wait()
        if not self._exit.done():
            self._exit.set_result(code if code >= 0 else _SIGNAL_BASE - code)


class Output:
    """The read end of a child's stdout and stderr.

    Args:
        file: of a pipe; ours from now on.
    """

    def __init__(self, file: int) -> None:
        os.set_blocking(file, False)
        self._file = file

    @classmethod
    def piped(cls) -> tuple[Output, int]:
        """Returns the read end of a new pipe, and the file descriptor of the other one."""
        read_end, write_end = os.pipe()
        return cls(read_end), write_end

    async def pump(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Hands on what comes until every holder of the other end has closed it."""
        while self._file >= 0:
            try:
                data = os.read(self._file, _CHUNK)
            except BlockingIOError:
                await self._readable()
                continue
            if not data:
                return
            await write(data)

    def close(self) -> None:
        """Stops reading."""
        if self._file >= 0:
            asyncio.get_running_loop().remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        there: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._file, _arrive, there)
        try:
            await there
        finally:
            if self._file >= 0:  # else its number may be somebody else's
                loop.remove_reader(self._file)


def _arrive(there: asyncio.Future[None]) -> None:
    if not there.done():
        there.set_result(None)


async def spawn_piped(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: int | None = None,
    pass_fds: Sequence[int] = (),
    user: User | None = None,
) -> tuple[Child, Output]:
    """Starts a process whose stdout and stderr we read; see ``Child.spawn``.

    Raises:
        UnavailableError: it cannot be started here.
    """
    output, write_end = Output.piped()
    try:
        child = Child.spawn(argv, env=env, cwd=cwd, stdin=stdin, output=write_end, pass_fds=pass_fds, user=user)
    except OSError as error:
        output.close()
        raise UnavailableError(f"cannot start {argv[0]}: {error.strerror}") from error
    finally:
        os.close(write_end)
    return child, output
