"""The programs that tasks may run, by name: what the settings say of them, as payloads. Sans-I/O.

A Python function goes to the node as an archive of its module and a ``main.py`` that calls it, so it runs on every node
that takes programs, whatever is installed there. Its module is read once, where the facade is opened.
"""

from __future__ import annotations

import importlib.util
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from arcray.core.blobkeys import program_key, stdin_key
from arcray.core.errors import InvalidArgumentError, NotFoundError
from arcray.core.ids import WorkloadId
from arcray.core.workload import Container, Program
from arcray.pool_settings import PoolProgram

__all__ = ["Programs", "Ready"]

_ARGUMENT_BYTES: Final = 128 * 1024 - 1  # what Linux takes for one
_MODULE: Final = "task_module"
_MAIN: Final = """\
import sys

from {module} import {function} as answer

sys.stdin.reconfigure(encoding="utf-8")
sys.stdout.reconfigure(encoding="utf-8")
arguments = sys.argv[1:]
given = {given}
found = answer(given, *arguments)
if found is not None:
    sys.stdout.write(str(found))
"""
_GIVEN: Final = {"stdin": "sys.stdin.read()", "argument": "arguments.pop()"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What a task runs, and the blobs that have to be stored for it."""

    payload: Program | Container
    blobs: Mapping[str, bytes]


class Programs:
    """All that there are.

    Raises:
        InvalidArgumentError: an entry point leads to no function of a module that can be read; names the setting.
    """

    def __init__(self, programs: Mapping[str, PoolProgram]) -> None:
        self._programs = dict(programs)
        self._archives = {
            name: _archive(program, f"pool.programs.{name}.entry_point")
            for name, program in programs.items()
            if program.entry_point
        }

    def ready(self, command: str, given: str | None, workload_id: WorkloadId) -> Ready:
        """Returns what a command runs.

        Args:
            given: the task's input; None where it has none, of which an image gets no argument.

        Raises:
            NotFoundError: there is no such command.
            InvalidArgumentError: the input is larger than an argument may be, or none.
        """
        program = self._programs.get(command)
        if program is None:
            raise NotFoundError(f"Unknown command: {command}" if command else "No command given", field="command")
        as_argument = bool(program.image) or program.input == "argument"
        args = (*program.args, given or "") if as_argument else program.args
        if program.image and given is None:
            args = program.args
        given = given or ""
        if as_argument and ("\0" in given or len(given.encode()) > _ARGUMENT_BYTES):
            raise InvalidArgumentError(f"must have at most {_ARGUMENT_BYTES} bytes and no NUL", field="input")
        if program.image:
            return Ready(payload=Container(image=program.image, args=args), blobs={})
        code, stdin = program_key(workload_id, archive=True), stdin_key(workload_id)
        blobs = {code: self._archives[command]} | ({} if as_argument else {stdin: given.encode()})
        payload = Program(blob=code, archive=True, args=args, stdin_blob="" if as_argument else stdin)
        return Ready(payload=payload, blobs=blobs)


def _archive(program: PoolProgram, field: str) -> bytes:
    module, _, function = program.entry_point.partition(":")
    main = _MAIN.format(module=_MODULE, function=function, given=_GIVEN[program.input or "stdin"])
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("main.py", main)
        bundle.writestr(f"{_MODULE}.py", _source(module, field))
    return written.getvalue()


def _source(module: str, field: str) -> str:
    try:
        spec = importlib.util.find_spec(module)
    except ImportError as error:
        raise InvalidArgumentError(f"no module {module}: {error}", field=field) from error
    if spec is None or spec.submodule_search_locations is not None:
        raise InvalidArgumentError(f"{module} is no single module", field=field)
    source: str | None = getattr(spec.loader, "get_source", lambda _: None)(module)
    if source is None:
        raise InvalidArgumentError(f"{module} has no source to send", field=field)
    return source
