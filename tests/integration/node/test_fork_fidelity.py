"""A program that starts as a fork is and does what it would be and do with an interpreter of its own.

Each of these programs runs in both ways, and says the same, ends the same and leaves the same.
"""

# ruff: noqa: E501 - programs are programs
from __future__ import annotations

import io
import re
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.program_bench import Bench

PROGRAMS: dict[str, str | bytes] = {
    "nothing": "",
    "arguments": "import sys\nprint(sys.argv, sys.orig_argv, sys.path, sys.flags, sys.executable)",
    "main": "import sys\nprint({k: str(v) for k, v in globals().items() if k != '__loader__'}, type(__loader__))\n"
    "print(__loader__.path, __loader__.name, sys.modules['__main__'].__dict__ is globals(), dir())",
    "docstring": '"""About me."""\nprint(__doc__)',
    "annotations": "x: int = 3\nprint(__annotations__)",
    "future": "from __future__ import annotations\ndef f(x: nothing): pass\nprint(f.__annotations__)",
    "environment": "import ctypes, os\nprint(sorted(os.environ.items()))\n"
    "get = ctypes.CDLL(None).getenv; get.restype = ctypes.c_char_p\nprint(get(b'HOME'), get(b'PWD'), get(b'TASK_ID'))\n"
    "os.environ['A'] = 'b'; import subprocess\nprint(subprocess.run(['/usr/bin/env'], capture_output=True, text=True)"
    ".stdout.count('A=b'))",
    "process": "import os\nprint(os.getcwd(), os.getppid(), os.getsid(0) == os.getpgrp(), os.umask(0), os.getgroups())\n"
    "print(sorted(os.listdir('/proc/self/fd'))[:4], os.nice(0), os.sched_getaffinity(0) == set(range(os.cpu_count())))",
    "streams": "import sys\nfor each in (sys.stdin, sys.stdout, sys.stderr):\n"
    "    print(each, each.buffer, each.line_buffering, each.write_through, each.errors, each.newlines, each.isatty())\n"
    "print(sys.stdin.read() == '', sys.stdout is sys.__stdout__)",
    "unbuffered": "import os, sys\nsys.stdout.write('a'); os.write(1, b'b'); sys.stdout.write('c'); sys.stderr.write('d')\n"
    "sys.stdout.buffer.write(b'e'); os.write(1, b'f')",
    "signals": "import signal\nprint({n: str(signal.getsignal(n)) for n in signal.valid_signals()}, signal.pthread_sigmask(0, []))",
    "limits": "import resource as r\nprint([(n, r.getrlimit(getattr(r, n))) for n in sorted(dir(r)) if n.startswith('RLIMIT')])",
    "status": "print([l for l in open('/proc/self/status') if l.split(':')[0] in ('Name', 'Umask', 'Threads', 'SigIgn', 'SigCgt',"
    " 'SigBlk', 'CapPrm', 'CapEff', 'CapAmb', 'NoNewPrivs', 'Seccomp')])",
    "accounts": "import getpass, grp, os, pwd\nprint(pwd.getpwuid(os.getuid())[0], pwd.getpwall()[0][5], grp.getgrall()[0][0])\n"
    "print(os.path.expanduser('~'), getpass.getuser())",
    "files": "import os\nfor top in ('/', '/tmp', '/dev', '/dev/shm', '/etc', '/sandbox', '/sandbox/work'):\n"
    "    print(top, sorted(os.listdir(top)), oct(os.stat(top).st_mode))\nprint(os.uname().nodename)",
    "mounts": "print(sorted({tuple(l.split()[4:6]) for l in open('/proc/self/mountinfo') if l.split()[4] not in "
    "('/dev/shm', '/dev/pts', '/proc', '/proc/sys', '/proc/irq', '/proc/bus', '/etc/passwd', '/etc/group', '/tmp')}))",
    "links": "import socket\nprint(socket.if_nameindex(), open('/proc/net/dev').read().count(':'))",
    "raises": "def f():\n    g()\ndef g():\n    raise ValueError('no')\nf()",
    "chained": "try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e",
    "group": "raise ExceptionGroup('many', [ValueError(1), TypeError('x')])",
    "own hook": "import sys\nsys.excepthook = lambda *a: print('hook', a[0].__name__, a[2].tb_lineno)\n1/0",
    "broken hook": "import sys\ndef hook(*a): raise RuntimeError('in hook')\nsys.excepthook = hook\n1/0",
    "leaving hook": "import sys\ndef hook(*a): sys.exit(9)\nsys.excepthook = hook\n1/0",
    "syntax": "print('never')\nif:\n",
    "indentation": "if 1:\npass\n",
    "null": "x = 1\0\n",
    "latin": b"# -*- coding: latin-1 -*-\nprint(ascii('\xe9'))",
    "bad bytes": b"print('\xff')",
    "byte order mark": b"\xef\xbb\xbfprint('bom')",
    "carriage returns": b"print(1)\r\nprint(2)\r\n",
    "exit none": "raise SystemExit",
    "exit 3": "import sys\nsys.exit(3)",
    "exit 256": "import sys\nsys.exit(259)",
    "exit -1": "import sys\nsys.exit(-1)",
    "exit true": "import sys\nsys.exit(True)",
    "exit text": "import sys\nsys.exit('bye')",
    "exit tuple": "raise SystemExit(1, 2)",
    "exit huge": "import sys\nsys.exit(10**30)",
    "builtin exit": "exit(4)",
    "hard exit": "import os\nprint('x', end='')\nos._exit(6)",
    "interrupt": "raise KeyboardInterrupt",
    "abort": "import os\nos.abort()",
    "signal": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
    "handlers": "import atexit\natexit.register(print, 'one')\natexit.register(print, 'two')\nprint('zero')",
    "handler fails": "import atexit\ndef f(): 1/0\natexit.register(f)",
    "threads": "import threading, time\nt = threading.Thread(target=lambda: (time.sleep(0.1), print('late')))\nt.start()\nprint('main')",
    "low thread": "import _thread\nlock = _thread.allocate_lock()\nlock.acquire()\n"
    "_thread.start_new_thread(lambda: (print('t'), lock.release()), ())\nlock.acquire()",
    "pool": "from concurrent.futures import ThreadPoolExecutor\nprint(list(ThreadPoolExecutor(2).map(abs, [-1, -2])))",
    "processes": "import multiprocessing as m\nif __name__ == '__main__':\n    print(m.get_context('fork').Pool(2).map(abs, [-1, -2]))",
    "spawned": "import multiprocessing as m\ndef f(q): q.put(__name__)\nif __name__ == '__main__':\n    c = m.get_context('spawn')\n"
    "    q = c.Queue(); p = c.Process(target=f, args=(q,)); p.start(); print(q.get()); p.join()",
    "unflushed file": "import os\nf = open(os.environ['ARCRAY_RESULT_DIR'] + '/f', 'w')\nf.write('kept')",
    "unflushed cycle": "import os\nclass C: pass\nc = C(); c.c = c\n"
    "c.f = open(os.environ['ARCRAY_RESULT_DIR'] + '/f', 'w'); c.f.write('kept')\ndel c",
    "unflushed file of a function": "import os, sys\ndef f():\n    f = open(os.environ['ARCRAY_RESULT_DIR'] + '/f', 'w')\n"
    "    f.write('kept')\n    sys.exit(0)\nf()",
    "unflushed file of a failed function": "import os, sys\ndef f():\n"
    "    f = open(os.environ['ARCRAY_RESULT_DIR'] + '/f', 'w')\n    f.write('kept')\n    1/0\n"
    "try: f()\nexcept ZeroDivisionError: sys.exit()",
    "unflushed file of a method": "import os\nwrite = open(os.environ['ARCRAY_RESULT_DIR'] + '/f', 'w').write\nwrite('kept')",
    "unflushed file of a module": "import os, sys\nsys.f = open(os.environ['ARCRAY_RESULT_DIR'] + '/f', 'w')\nsys.f.write('kept')",
    "unflushed file left aside": "import gc, os\nf = open(os.environ['ARCRAY_RESULT_DIR'] + '/f', 'w')\nf.write('kept')\n"
    "gc.freeze()",
    "finalizer in annotations": "class C:\n    def __del__(self): print('gone')\ndef f(c: C()): pass\nx: C() = 1\ndel C",
    "finalizer": "class C:\n    def __del__(self): print('gone', x)\nx = 3\nc = C()",
    "finalizers": "class C:\n    def __init__(self, n): self.n = n\n    def __del__(self): print('gone', self.n)\na = C(1)\n_b = C(2)\nc = C(3)",
    "finalizer of a module": "import os, sys\nopen('own.py', 'w').write('class C:\\n def __del__(s): print(1)\\nc = C()')\nimport own",
    "own output": "import io, sys\nsys.stdout = io.TextIOWrapper(open(1, 'wb', closefd=False))\nprint('kept')",
    "closed output": "import sys\nsys.stdout.close()",
    "closed file": "import os\nos.close(1)\nprint('x')",
    "functions": "import os\ndef f(x=1, *, y=[2]): return g\ng = {'a': [1, (f,)]}\nprint(f())",
    "closures": "class C:\n    def __del__(self): print('gone')\ndef f(c):\n    return lambda: c\ng = f(C())",
    "default": "class C:\n    def __del__(self): print('gone')\ndef f(c=[C()]): pass",
    "generator": "def f():\n    try: yield\n    finally: print('closed')\ng = f()\nnext(g)",
    "garbage with finalizers": "class C:\n    def __del__(self): print('gone')\n"
    "def f():\n    c = C(); c.c = c\nf()\ndel C, f",
    "weak": "import weakref\nclass C: pass\nc = C()\nf = weakref.finalize(c, print, 'finalized')",
    "imports": "import json, struct, ctypes, signal, subprocess, numpy\nprint(json.dumps([1]), numpy.arange(3).sum())",
    "random": "import random\nrandom.seed(1); print(random.random())",
    "asyncio": "import asyncio\nasync def f(): await asyncio.sleep(0); return 5\nprint(asyncio.run(f()))",
    "warnings": "import warnings\nwarnings.warn('careful')\ndef f(): warnings.warn('deep', stacklevel=2)\nf()",
    "traceback": "import traceback\ntry: 1/0\nexcept Exception: traceback.print_exc()",
    "pickle": "import pickle\nclass C: pass\nprint(pickle.loads(pickle.dumps(C())).__class__.__module__)",
    "inspect": "import inspect\ndef f(): pass\nprint(inspect.getsource(f), inspect.getfile(f))",
    "recursion": "import sys\nprint(sys.getrecursionlimit())\ndef f(): f()\ntry: f()\nexcept RecursionError: print('deep')",
    "garbage": "import gc\nprint(gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.callbacks)",
    "interactive": "import sys\nprint(hasattr(sys, 'ps1'), hasattr(sys, 'last_type'), sys.warnoptions, sys.dont_write_bytecode)",
    "no modules of ours": "import sys\nprint([m for m in sys.modules if m.startswith('arcray')])\n"
    "import arcray_is_not_here",
    "site": "import site\nprint(site.ENABLE_USER_SITE, site.USER_SITE, site.USER_BASE)",
    "time": "import time\nprint(time.tzname, time.localtime(0).tm_hour)",
    "locale": "import locale, sys\nprint(locale.getlocale(), sys.getfilesystemencoding(), sys.stdout.encoding)",
    "maps": "print('main' in open('/proc/self/maps').read(), len(open('/proc/self/environ').read()) > 0)",
    "warnings of the compiler": "x = 1\nprint(x is 1, '\\d', 0in [1])",
    "warnings and an error": "x = 1\nprint(x is 1)\nreturn",
    "own memory": "f = open('/proc/self/mem', 'rb')\nopen('/proc/self/oom_score_adj', 'w').write('900')",
}


async def told(bench: Bench, source: str | bytes, **options: Any) -> tuple[Any, ...]:
    """Runs a program; returns how it ended, what it said and what it left."""
    bench.blobs.data.clear()
    if "stdin" in options:
        bench.blobs.data["in"] = options.pop("stdin")
        options["stdin_blob"] = "in"
    end = await bench.run(source, **options)
    kept = [(key, bench.blobs.data[key]) for key in end.result.blobs]
    said = re.sub(r" at 0x[0-9a-f]+", "", bench.log)
    return end.phase, end.message, end.result.exit_code, said, kept


async def in_both_ways(bench: Bench, source: str | bytes, **options: Any) -> tuple[Any, Any]:
    forks, bench.forks = bench.forks, None
    alone = await told(bench, source, **options)
    bench.forks = forks
    return await told(bench, source, **options), alone


@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_program_cannot_tell_that_it_is_a_fork(forked_bench: Bench, name: str) -> None:
    forked, alone = await in_both_ways(forked_bench, PROGRAMS[name], args=("a", "b c"))
    assert forked == alone
    assert forked_bench.forks is not None
    assert forked_bench.forks.owners == ("local",)  # it was one


@pytest.mark.parametrize(
    "env",
    [
        (("PYTHONHASHSEED", "7"),),
        (("PYTHONSTARTUP", "x"), ("PYTHONDONTWRITEBYTECODE", "1")),
        (("TZ", "Asia/Tokyo"),),
        (("LC_ALL", "C"),),
        (("LANG", "C"),),
        (("LD_PRELOAD", "/absent.so"),),
        (("HOME", "/tmp"),),
        (("PATH", "/bin"), ("GREETING", "hellö"), ("EMPTY", "")),
    ],
    ids=lambda env: env[0][0],
)
async def test_variables_count_as_for_an_interpreter_of_its_own(forked_bench: Bench, env: tuple[Any, ...]) -> None:
    source = (
        "import os, sys, time, locale\n"
        "print(dict(sorted(os.environ.items())), sys.flags, time.tzname, locale.getlocale(), sys.stdout.encoding)\n"
        "print(hash('a') if 'PYTHONHASHSEED' in os.environ else '')"
    )
    forked, alone = await in_both_ways(forked_bench, source, env=env)
    assert forked == alone


async def test_it_reads_what_it_is_given(forked_bench: Bench) -> None:
    source = "import sys\nprint(sys.stdin, sys.stdin.buffer, sys.stdin.seekable(), input(), sys.stdin.buffer.read())"
    forked, alone = await in_both_ways(forked_bench, source, stdin=b"one\ntwo\n\xff")
    assert forked == alone


FILES = {
    "main.py": "import json, struct, signal, os\nprint(json.__file__, signal.x, struct.calcsize('i'), os.path.sep)\n"
    "import pkg.start",
    "json.py": "",
    "signal.py": "x = 1",
    "os.py": "raise RuntimeError('never')",
    "pkg/__init__.py": "",
    "pkg/start.py": "import sys\nprint(__name__, __file__, sys.path[0], sys.argv)\nopen('written', 'w').write('x')",
    "run": "import sys\nprint(__file__, sys.argv)",
}


@pytest.mark.parametrize("entry", ["main.py", "pkg/start.py", "run"])
async def test_an_archives_own_modules_come_first(forked_bench: Bench, entry: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, text in FILES.items():
            bundle.writestr(name, text)
    forked, alone = await in_both_ways(forked_bench, buffer.getvalue(), archive=True, entry_point=entry, args=("x",))
    assert forked == alone
    assert forked[2] == 0, forked


async def test_an_archives_own_site_is_found(forked_bench: Bench) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        bundle.writestr("main.py", "import site, sys\nprint(site.ENABLE_USER_SITE, sys.path)")
        bundle.writestr(".local/lib/python3.11/site-packages/own.py", "")
    forked, alone = await in_both_ways(forked_bench, buffer.getvalue(), archive=True)
    assert forked == alone


async def test_only_one_frame_of_ours_is_below_a_program(forked_bench: Bench) -> None:
    await forked_bench.run("import sys\nprint(sys._getframe().f_back.f_back)")
    assert forked_bench.log == "None\n"


async def test_chance_differs_from_program_to_program(forked_bench: Bench) -> None:
    source = "import random\nprint(random.random())"
    assert (await told(forked_bench, source))[3] != (await told(forked_bench, source))[3]
