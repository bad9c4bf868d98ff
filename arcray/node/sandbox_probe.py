"""Finds the strongest sandbox that works here, by running a program in it that tries to get out."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from arcray.config import ProgramSettings
from arcray.core.errors import UnavailableError
from arcray.node.process import spawn_piped
from arcray.node.sandbox import Command, Confinement, Limits, Sandbox, SandboxKind, UserPool

__all__ = ["probe"]

_log = logging.getLogger(__name__)

_TIMEOUT_S: Final = 30.0
_LIMITS: Final = Limits(memory_bytes=256 * 2**20, processes=64, file_bytes=2**20)
_REMEDY: Final = "install bubblewrap, or allow what keeps it from making namespaces"
_REMEDY_ROOT: Final = (
    "install bubblewrap; or run arcray with a Python, and from a state directory, that other users can reach; "
    "or accept programs that run as root by node.programs.sandbox: none"
)

# Exits with 0 and says so if it can work: threads, files of its own, its own environment; and if it is confined.
_TRIAL: Final = """
import os, socket, sys, threading
canary, confined, uid = sys.argv[1], sys.argv[2] == "1", sys.argv[3]
thread = threading.Thread(target=lambda: None)
thread.start()
thread.join()
open("written", "w").write("x")
if uid:
    assert os.getuid() == int(uid) and os.getgid() == int(uid), "wrong user"
    try:
        os.setuid(0)
    except PermissionError:
        pass
    else:
        raise AssertionError("became root again")
if confined:
    assert not os.path.exists(canary), "sees the host's files"
    assert [name for _, name in socket.if_nameindex() if name != "lo"] == [], "sees the network"
print("confined")
"""


async def probe(settings: ProgramSettings, directory: Path, users: UserPool) -> Sandbox | None:
    """Returns the strongest sandbox allowed by the settings that works here; None when none does.

    Where we are root, a program is root only if the settings say ``none``: a sandbox in which it cannot be another
    user is none. What is missing is told as a warning, for a machine that runs no programs wants a hand.

    Args:
        directory: where programs will run; the trial runs there too.
    """
    root = os.geteuid() == 0
    bwrap = shutil.which("bwrap")
    reasons = [] if bwrap or settings.sandbox not in ("auto", "bubblewrap") else ["bubblewrap: there is no bwrap"]
    for sandbox in _candidates(settings.sandbox, bwrap, root=root):
        reason = await _try(sandbox, directory, users)
        if not reason:
            _log.info("sandbox chosen", extra={"sandbox": sandbox.kind.value, "own_user": sandbox.own_user})
            return sandbox
        reasons.append(f"{sandbox.kind.value}: {reason}")
    _log.warning(
        "no sandbox works here, so no programs run here",
        extra={"wanted": settings.sandbox, "reason": "; ".join(reasons), "remedy": _REMEDY_ROOT if root else _REMEDY},
    )
    return None


def _candidates(wanted: str, bwrap: str | None, *, root: bool) -> Iterator[Sandbox]:
    if wanted in ("auto", "bubblewrap") and bwrap:
        yield Sandbox(kind=SandboxKind.BUBBLEWRAP, own_user=root, bwrap=bwrap)
    if wanted in ("auto", "user"):
        yield Sandbox(kind=SandboxKind.USER, own_user=root)
    if wanted == "none":
        yield Sandbox(kind=SandboxKind.NONE, own_user=False)


async def _try(sandbox: Sandbox, directory: Path, users: UserPool) -> str:
    """Returns why it does not work; "" when it does."""
    root = Path(tempfile.mkdtemp(prefix="probe-", dir=directory))
    uid = users.take() if sandbox.own_user else None
    try:
        place = Confinement(work=root / "work", results=root / "results", limits=_LIMITS, uid=uid)
        canary = root / "canary"
        await asyncio.to_thread(_lay_out, sandbox, place, canary)
        confined = sandbox.kind is SandboxKind.BUBBLEWRAP
        trial = ("-c", _TRIAL, str(canary), "1" if confined else "0", "" if uid is None else str(uid))
        command = sandbox.command(place, trial, {})
        code, output = await _output(command)
    except (OSError, UnavailableError) as error:
        return str(error)
    finally:
        if uid is not None:
            users.give_back(uid)
        shutil.rmtree(root, ignore_errors=True)
    return "" if code == 0 and output.strip().endswith("confined") else f"exit code {code}: {output.strip()[-300:]}"


def _lay_out(sandbox: Sandbox, place: Confinement, canary: Path) -> None:
    canary.parent.chmod(0o711)  # another user must pass through, and no more
    canary.touch()
    for directory in (place.work, place.results):
        directory.mkdir(mode=0o700)
    sandbox.prepare(place)


async def _output(command: Command) -> tuple[int, str]:
    child, output = await spawn_piped(command.argv, env=command.env)
    collected = bytearray()

    async def collect(data: bytes) -> None:
        collected.extend(data)

    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await output.pump(collect)
            return await child.wait(), collected.decode(errors="replace")
    except TimeoutError:
        return -1, "no answer in time"
    finally:
        output.close()
        await child.ensure_dead()
