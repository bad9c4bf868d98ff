"""Which fork servers there are: one for each owner of programs, at most so many, none that is not used.

Programs of one owner share what a server's memory shares: the layout of the address space, the seed of hashes. Programs
of two owners never share a server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from arcray.config import ForkServerSettings
from arcray.core.errors import UnavailableError
from arcray.core.ports import Clock
from arcray.node.forks.frames import Request
from arcray.node.forks.server import BOOTSTRAP, ForkServer, line
from arcray.node.forks.slot import Forked
from arcray.node.leftovers import remove_small_tree
from arcray.node.places import Place, Places
from arcray.node.sandbox import Sandbox, UserPool

__all__ = ["ForkServers"]

_log = logging.getLogger(__name__)


_Whose: TypeAlias = tuple[str, bool]  # the owner, and whether programs may use the network


class ForkServers:
    """The fork servers of one machine.

    Args:
        programs: the directory in which programs have theirs.
        users: that programs become.
    """

    def __init__(
        self, *, sandbox: Sandbox, programs: Path, users: UserPool, settings: ForkServerSettings, clock: Clock
    ) -> None:
        self._sandbox = sandbox
        self._programs = programs
        self._settings = settings
        self._clock = clock
        self._servers: dict[_Whose, ForkServer] = {}  # who was asked last is last
        self._starting: dict[_Whose, asyncio.Task[ForkServer | None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._retired: list[ForkServer] = []
        self._none_until_s: dict[_Whose, float] = {}
        self._users = users
        self._places = Places(programs, self._clear)
        self._closed = False

    @property
    def owners(self) -> tuple[str, ...]:
        """Whose servers run; who was asked last is last."""
        return tuple(owner for owner, _ in self._servers)

    def take_place(self, owner: str) -> Place:
        """Returns a place for a program of one file; it is the caller's until it is given back."""
        return self._places.take(owner) or self._places.named(self._users.take())

    def give_back_place(self, owner: str, place: Place, *, ended: bool) -> bool:
        """Takes back a place and its user; returns whether they are kept. Else the caller removes what is there.

        Args:
            ended: whether its program is known to have ended with all that it started.
        """
        if ended and self._places.give_back(owner, place):
            return True
        self._leave(owner, place)
        return False

    async def fork(
        self, owner: str, request: Request, files: Sequence[int], *, network: bool, stays: bool
    ) -> Forked | None:
        """Has a program run; returns None if it does not run and never will, and is to be started in another way.

        Args:
            request: as for ``ForkServer.fork``, like ``files``.
            network: whether it may use the network.
            stays: whether its directory and user are those of a place.
        """
        whose = owner, network
        if self._closed:
            return None
        server = self._servers.get(whose)
        if server is None or not server.serves:
            server = await self._started(whose)
            if server is None:
                return None
        else:
            self._servers[whose] = self._servers.pop(whose)
        return await server.fork(request, files, stays=stays)

    def doubt(self, owner: str, *, network: bool) -> None:
        """Takes a server out of use: it has made processes that did not begin to run their program."""
        self._do_without(owner, network)
        if (server := self._servers.pop((owner, network), None)) is not None:
            _log.warning("fork server does not work, so programs start without it", extra={"owner": owner})
            self._retire(server)

    async def close(self) -> None:
        """Ends all of them and waits for it."""
        self._closed = True
        self._places.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await asyncio.gather(*self._starting.values(), return_exceptions=True)
        for server in (*self._servers.values(), *self._retired):
            self._end(server)
        self._servers.clear()
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _started(self, whose: _Whose) -> ForkServer | None:
        """Returns the owner's server, started once for all that wait for it; None if there can be none now."""
        starting = self._starting.get(whose)
        if starting is None:
            if self._clock.monotonic() < self._none_until_s.get(whose, 0.0) or not self._has_room(whose):
                return None
            starting = self._starting[whose] = asyncio.create_task(self._start(whose), name="start fork server")
            starting.add_done_callback(lambda _: self._starting.pop(whose, None))
        return await asyncio.shield(starting)

    def _do_without(self, owner: str, network: bool) -> None:
        """Has an owner's programs not forked for a while. Nobody else's: what one's programs do is not theirs."""
        now_s = self._clock.monotonic()
        self._none_until_s = {each: until_s for each, until_s in self._none_until_s.items() if until_s > now_s}
        self._none_until_s[owner, network] = now_s + self._settings.retry_s

    def _clear(self, owner: str, place: Place) -> None:
        """Removes a place that was kept and is not wanted any more."""
        self._leave(owner, place)
        remove_small_tree(place.root)

    def _leave(self, owner: str, place: Place) -> None:
        for network in (False, True):
            if (server := self._servers.get((owner, network))) is not None:
                server.leave(place.root.name)
        self._users.give_back(place.uid)

    def _has_room(self, whose: _Whose) -> bool:
        """Makes room for one more; returns whether there is."""
        if (old := self._servers.pop(whose, None)) is not None:
            self._retire(old)
        while len(self._servers) + len(self._starting) >= self._settings.max_servers:
            unused = next((each for each, server in self._servers.items() if not server.busy), None)
            if unused is None:
                return False
            self._end(self._servers.pop(unused))
        return True

    async def _start(self, whose: _Whose) -> ForkServer | None:
        ours, its = line()
        arguments = (BOOTSTRAP, str(its.fileno()), "network" if whose[1] else "none")
        try:
            command = self._sandbox.server_command(self._programs, arguments, network=whose[1])
            server = await ForkServer.start(command, (ours, its), clock=self._clock, answer_s=self._settings.answer_s)
        except UnavailableError as error:
            ours.close()
            its.close()
            self._do_without(*whose)
            _log.warning("programs start without a fork server", extra={"reason": error.message})
            return None
        self._servers[whose] = server
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._sweep(), name="sweep fork servers")
        return server

    async def _sweep(self) -> None:
        """Ends the servers that nobody uses, for as long as there are any."""
        while self._servers:
            await self._clock.sleep(self._settings.idle_s / 2)
            for whose, server in tuple(self._servers.items()):
                if server.idle_s >= self._settings.idle_s:
                    self._end(self._servers.pop(whose))

    def _retire(self, server: ForkServer) -> None:
        """Lets a server go on with the programs that it has; ends those that have none any more."""
        server.retire()
        retired, self._retired = (*self._retired, server), []
        for each in retired:
            if each.busy:
                self._retired.append(each)
            else:
                self._end(each)

    def _end(self, server: ForkServer) -> None:
        """Ends a server, and waits for it beside what else happens."""
        task = asyncio.create_task(server.end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
