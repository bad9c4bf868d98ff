"""How a program's process begins: as a fork of a warm interpreter where that is possible, else as one of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from arcray.core.errors import UnavailableError
from arcray.node.forks.frames import Request
from arcray.node.forks.pool import ForkServers
from arcray.node.forks.slot import Forked
from arcray.node.process import Child, Output, spawn_piped
from arcray.node.program_image import ProgramStart
from arcray.node.sandbox import Sandbox, resource_limits, tmp_bytes

__all__ = ["Begun", "ProgramStarter"]


@dataclass(slots=True, kw_only=True)
class Begun:
    """A program's processes, and what they write."""

    child: Child | Forked
    output: Output

    def settled(self) -> bool:
        """Lets go of what has ended; returns whether it has begun to run the program, which then is not run again."""
        if isinstance(self.child, Child):
            return True
        return self.child.close()


class ProgramStarter:
    """Starts programs in one sandbox.

    Args:
        forks: None starts each with an interpreter of its own.
    """

    def __init__(self, sandbox: Sandbox, forks: ForkServers | None) -> None:
        self._sandbox = sandbox
        self._forks = forks

    async def fork(self, start: ProgramStart, owner: str) -> Begun | None:
        """Has a fork server start it; None if that cannot be, and the program has not begun."""
        place = start.place
        if self._forks is None or place.uid is None or place.devices or place.libraries:
            return None
        if start.archive:
            await asyncio.to_thread(self._sandbox.give, place)
        elif not self._sandbox.is_given(place):
            self._sandbox.give(place)  # two directories and a file
        request = Request(
            directory=place.work.parent.name,
            entry=start.entry,
            args=list(start.args),
            env=dict(start.env),
            limits=resource_limits(place.limits),
            uid=place.uid,
            tmp_bytes=tmp_bytes(place.limits),
            archive=start.archive,
            reads=start.stdin is not None,
        )
        output, write_end = Output.piped()
        try:
            with _opened(start) as source:
                child = await self._forks.fork(
                    owner,
                    request,
                    [write_end, *([] if source is None else [source])],
                    network=place.network,
                    stays=place.stays,
                )
        except BaseException:
            output.close()
            raise
        finally:
            os.close(write_end)
        if child is None:
            output.close()
            return None
        return Begun(child=child, output=output)

    def doubt(self, start: ProgramStart, owner: str) -> None:
        """Has the owner's programs not forked for a while: one that was did not begin."""
        if self._forks is not None:
            self._forks.doubt(owner, network=start.place.network)

    async def spawn(self, start: ProgramStart) -> Begun:
        """Starts it with an interpreter of its own.

        Raises:
            UnavailableError: it cannot be started here.
        """
        await asyncio.to_thread(self._sandbox.prepare, start.place)
        command = self._sandbox.command(start.place, ("-u", start.entry, *start.args), start.env)
        with _opened(start) as source:
            child, output = await spawn_piped(command.argv, env=command.env, stdin=source)
        return Begun(child=child, output=output)


@contextmanager
def _opened(start: ProgramStart) -> Iterator[int | None]:
    """Opens what the program reads, for the time of the block."""
    if start.stdin is None:
        yield None
        return
    try:
        source = os.open(start.stdin, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UnavailableError(f"standard input cannot be read: {error.strerror}") from error
    try:
        yield source
    finally:
        os.close(source)
