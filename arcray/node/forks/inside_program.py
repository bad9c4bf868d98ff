"""A program in a forked interpreter, as ``python -u FILE ARGS`` would run it; what differs is told in ``README.md``.

Where it is not certain that the program would notice nothing, the interpreter is started anew, in the same sandbox:
variables that an interpreter or its libraries read at their start, a file that is not Python source, and source that
does not compile, whose error is then the interpreter's own.

An interpreter takes ten times as long to be taken apart as to be forked. So a program that has left nothing behind that
could notice (imported modules, exit handlers, threads, replaced streams) ends without it.
"""

from __future__ import annotations

import _socket
import _thread
import atexit
import builtins
import gc
import io
import os
import resource
import sys
import types

from arcray.node.forks.frames import Request
from arcray.node.forks.inside_confinement import libc, rehearse_becoming
from arcray.node.launcher import limit

TYPE_CHECKING = False  # importing typing would be a fifth of what the server holds
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["Interpreter", "Program"]

_WORK = "/sandbox/work"
_SET_DUMPABLE = 4
_OUR_PACKAGE = "arcray.node."
_READ_AT_START = (
    "PYTHON",
    "LD_",
    "LC_",
    "MALLOC_",
    "GLIBC_",
    "TZ",
    "LOCPATH",
    "LANGUAGE",
    "NLSPATH",
    "ASAN_",
    "GCONV_",
)
_ATOMS = frozenset({int, float, complex, bool, str, bytes, type(None), types.ModuleType, types.BuiltinFunctionType})
_MANY = 1_000
_RUNNING = 4  # objects that there are while a program begins and not when it has ended
_MAX_CODE = 255
_MAIN = frozenset(("__loader__", "__annotations__"))
_LOADER = sys.modules["_frozen_importlib_external"].SourceFileLoader  # as in importlib.machinery, not imported here
_SAME = ("HOME", "LANG", "PYTHONUNBUFFERED")  # fixed by the server's own start


class Interpreter:
    """What of an interpreter is as it was before any program; taken in the server.

    Args:
        early: the modules that it had loaded before it ran anything.
    """

    def __init__(self, early: frozenset[str]) -> None:
        self._fixed = {name: os.environ.get(name) for name in _SAME}
        self._env = dict(os.environ)
        self._handlers = atexit._ncallbacks()  # noqa: SLF001 - nobody else says
        self._streams = sys.stdout, sys.stderr
        self.ours = {name: module for name, module in sys.modules.items() if name.startswith(_OUR_PACKAGE)}
        self._further: dict[str, list[str]] = {}  # modules that only the server has loaded, by their first names
        for name in sys.modules.keys() - early - set(self.ours) - set(sys.builtin_module_names):
            self._further.setdefault(name.partition(".")[0], []).append(name)

    def hide(self) -> None:
        """Takes what is ours from the modules that a program finds; they go on without being found."""
        for name in self.ours:
            sys.modules.pop(name, None)

    def suits(self, env: Mapping[str, str]) -> bool:
        """Returns whether an interpreter started with these variables would be as this one is."""
        if any(env.get(name) != value for name, value in self._fixed.items()):
            return False
        site = sys.modules["site"]
        if site.ENABLE_USER_SITE and os.path.isdir(site.USER_SITE):  # noqa: PTH112 - pathlib costs each start
            return False
        return not any(name.startswith(_READ_AT_START) and name not in _SAME for name in env)

    def change_environment(self, env: dict[str, str]) -> None:
        """Makes these the variables of this process, for Python and for C."""
        for name in self._env.keys() - env.keys():
            del os.environ[name]
        for name, value in env.items():
            if self._env.get(name) != value:
                os.environ[name] = value

    def shadowed(self, names: list[str]) -> list[str]:
        """Returns which modules, loaded by the server alone, a program has files of the same names of.

        Args:
            names: of the files beside the program.
        """
        return [name for file in names for name in self._further.get(file.partition(".")[0], ())]

    def untouched(self) -> bool:
        """Returns whether there is nothing that could notice how the interpreter ends."""
        return (
            self._streams == (sys.stdout, sys.stderr)
            and self._handlers == atexit._ncallbacks()  # noqa: SLF001 - nobody else says
            and _thread._count() == 0  # noqa: SLF001 - threading would have to be imported
            and next(reversed(sys.modules)) == "__main__"  # of the program, which came last
        )


class Program:
    """One program, in the process that runs it.

    The bootstrap runs ``code`` in ``namespace``, so that no frame of ours but one is below it, and says how that ended.
    """

    code: types.CodeType
    namespace: dict[str, Any]

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._alive = 0

    def begin(self, request: Request, files: list[int], line: _socket.socket) -> None:
        """Makes this process that program, up to its first instruction.

        Args:
            files: what it writes to, the token of its start, and what it reads if anything.
            line: of the slot, which is closed here.
        """
        output, token = files[:2]
        self._limit(request)
        os.chdir(_WORK)
        suits = self._interpreter.suits(request.env)
        libc.prctl(_SET_DUMPABLE, 1, 0, 0, 0)  # undoes what the change of user did: its files in /proc were root's
        if not os.read(token, 1):
            raise RuntimeError("the start was called off")
        self._arrange_files(output, files[2] if request.reads else None)
        line.detach()
        os.closerange(3, 65_536)
        # Only now: a stranger's source may take long to be compiled, crash the compiler, or have it say something. That
        # is the program's affair, as it is with an interpreter of its own.
        code = self._compiled(request.entry) if suits else None
        if code is None:
            os.execve(sys.executable, [sys.executable, "-u", request.entry, *request.args], request.env)  # noqa: S606
        self._arrange_interpreter(request)
        self._enter(code, request.entry)

    def rehearse(self, request: Request) -> None:
        """Does what ``begin`` and ``ended`` do, but for what cannot be undone.

        An interpreter writes to much that it uses first: caches of attributes, code that it specializes. Each page that
        a fork is the first to write to it has to copy, which is most of what a fork costs.
        """
        request = Request.decoded(request.encoded())
        rehearse_becoming()
        self._limit(request)
        self._interpreter.suits(request.env)
        self._arrange_files(1, None)
        code = self._compiled(request.entry)
        assert code is not None, "ours"
        self._arrange_interpreter(request)
        self._enter(code, request.entry)
        exec(self.code, self.namespace)  # noqa: S102 - ours
        self._ends_without_a_word(0)
        gc.disable()

    def ended(self, status: Any = None) -> None:
        """Ends the process where nothing can notice; else returns, for the interpreter to end by itself.

        Args:
            status: as for ``sys.exit``.
        """
        code = 0 if status is None else status
        if self._ends_without_a_word(code):
            os._exit(code)

    def _ends_without_a_word(self, code: Any) -> bool:
        if type(code) is not int or not 0 <= code <= _MAX_CODE or not self._interpreter.untouched():
            return False
        further = [each for name, each in self.namespace.items() if name not in _MAIN and type(each) not in _ATOMS]
        if further and not _end_without_a_word(further):
            return False
        alive, *older = gc.get_count()
        if alive != self._alive - _RUNNING or any(older):
            gc.collect()  # something is left, which may be garbage that ends with a word
            return self._interpreter.untouched()
        return True

    def failed(self, error: BaseException) -> None:
        """Tells an exception that nobody caught, as the interpreter does, without our own frame, and leaves."""
        trace = error.__traceback__
        error.__traceback__ = trace = trace.tb_next if trace is not None else None
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
        hooked: BaseException | None = None
        try:
            sys.excepthook(type(error), error, trace)
        except SystemExit as ended:
            sys.exit(ended.code)
        except BaseException as further:  # noqa: BLE001 - as the interpreter
            hooked = further
        if hooked is not None:
            hooked.__traceback__ = hooked.__traceback__ and hooked.__traceback__.tb_next
            sys.stderr.write("Error in sys.excepthook:\n")
            sys.__excepthook__(type(hooked), hooked, hooked.__traceback__)
            sys.stderr.write("\nOriginal exception was:\n")
            sys.__excepthook__(type(error), error, trace)
        if isinstance(error, KeyboardInterrupt):  # the interpreter ends by a signal then, and not without being told
            sys.excepthook = _tell_nothing
            raise KeyboardInterrupt
        sys.exit(1)

    @staticmethod
    def _limit(request: Request) -> None:
        for name, value in request.limits.items():
            limit(getattr(resource, name), value)
        os.umask(0o077)

    @staticmethod
    def _arrange_files(output: int, source: int | None) -> None:
        if source is not None:
            os.dup2(source, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if source is not None:
            old = sys.stdin
            stream = io.TextIOWrapper(
                open(0, "rb", closefd=False),  # noqa: SIM115 - as the interpreter
                encoding=old.encoding,
                errors=old.errors,
                newline="\n",
                write_through=True,
            )
            stream.buffer.raw.name = "<stdin>"  # type: ignore[attr-defined]
            stream.mode = "r"  # type: ignore[misc]
            sys.stdin = sys.__stdin__ = stream  # type: ignore[misc]

    @staticmethod
    def _compiled(entry: str) -> types.CodeType | None:
        """Returns its code; None where the interpreter itself has to say what is wrong, and of what it warns."""
        if not entry.endswith(".py"):
            return None
        stderr, sys.stderr = sys.stderr, io.StringIO()
        try:
            file = os.open(entry, os.O_RDONLY | os.O_CLOEXEC)
            source = os.read(file, os.fstat(file).st_size + 1)
            os.close(file)
            code = compile(source, f"{_WORK}/{entry}", "exec", dont_inherit=True)
            warned = sys.stderr.getvalue()
        except BaseException:  # noqa: BLE001 - a MemoryError and a RecursionError too
            return None
        finally:
            sys.stderr = stderr
        if warned:
            stderr.write(warned)
        return code

    def _arrange_interpreter(self, request: Request) -> None:
        """Makes what programs see of the interpreter what they would have seen."""
        self._interpreter.change_environment(request.env)
        place, _, _ = f"{_WORK}/{request.entry}".rpartition("/")
        sys.argv = [request.entry, *request.args]
        sys.orig_argv = [sys.executable, "-u", *sys.argv]
        sys.path[0] = place
        shadowed = self._interpreter.shadowed(os.listdir(place)) if request.archive else ()  # noqa: PTH208
        for name in shadowed:
            sys.modules.pop(name, None)
        gc.enable()

    def _enter(self, code: types.CodeType, entry: str) -> None:
        self.code = code
        self.namespace = self._main(entry)
        self._alive = gc.get_count()[0]

    @staticmethod
    def _main(entry: str) -> dict[str, Any]:
        """Returns the namespace of a new ``__main__``."""
        main = types.ModuleType("__main__")
        del sys.modules["__main__"]
        sys.modules["__main__"] = main  # last, for ``untouched``
        namespace = vars(main)
        path = f"{_WORK}/{entry}"
        namespace["__loader__"] = _LOADER("__main__", path)
        namespace["__annotations__"] = {}
        namespace["__builtins__"] = builtins
        namespace["__file__"] = path
        namespace["__cached__"] = None
        return namespace


def _tell_nothing(*_: object) -> None:
    """Stands for what has told an exception already."""


def _end_without_a_word(values: list[Any]) -> bool:
    """Returns whether these values, and what they hold, certainly end without anything that could be noticed."""
    for seen, value in enumerate(values):  # which grows
        if seen > _MANY:
            return False
        kind = type(value)
        if kind in (list, tuple, set, frozenset):
            values += [each for each in value if type(each) not in _ATOMS]
        elif kind is dict:
            values += [each for pair in value.items() for each in pair if type(each) not in _ATOMS]
        elif kind is types.FunctionType:
            if value.__closure__ or value.__dict__ or value.__kwdefaults__:
                return False
            values += [each for each in value.__defaults__ or () if type(each) not in _ATOMS]
        else:
            return False
    return True
