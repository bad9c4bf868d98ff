"""What ``python -u -c`` is given: takes the other modules from the line, serves, and in a forked child runs a program.

It runs the program itself, outside of every function, so that one frame of ours is below a program's own, and ends with
it as an interpreter does.
"""

import sys

early = frozenset(sys.modules)

import _socket  # noqa: E402
import json  # noqa: E402
import types  # noqa: E402

line = _socket.socket(fileno=int(sys.argv[1]))
for name, source in json.loads(line.recv(1 << 20)).items():
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, "<arcray>", "exec", dont_inherit=True), vars(module))  # noqa: S102 - our own

program = sys.modules["arcray.node.forks.inside_server"].main(
    line, early=early, network=sys.argv[2] == "network", covered=sys.argv[3:]
)
if program is not None:
    failure: BaseException | None = None
    status, leaves = 0, False
    try:
        exec(program.code, program.namespace)  # noqa: S102 - this is the point of it
    except SystemExit as ended:
        if type(ended.code) is not int and ended.code is not None:
            raise
        status, leaves = ended.code or 0, True
    except BaseException as error:  # noqa: BLE001 - as the interpreter
        failure = error
    # Only now: an exception holds what all the functions held that it has left, such as files that are not written out.
    if failure is not None:
        program.failed(failure)
    program.ended(status)
    if leaves:
        raise SystemExit(status)
