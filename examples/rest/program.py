"""Runs a program on the pool and fetches what it left: ``python program.py [URL]``."""

from __future__ import annotations

import sys

from arcray.client import Client, WorkOptions
from arcray.core.resources import Demand

PROGRAM = """
import os, pathlib
print("squares of", os.environ["UP_TO"])
squares = [number ** 2 for number in range(int(os.environ["UP_TO"]))]
pathlib.Path(os.environ["ARCRAY_RESULT_DIR"], "squares.txt").write_text(str(squares))
"""


def main() -> None:
    """Submits, follows the log, waits, and reads the result."""
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
    with Client(url) as pool:
        options = WorkOptions(name="squares", demand=Demand(cpu_milli=500))
        work = pool.submit_program(PROGRAM, env={"UP_TO": "5"}, options=options)
        for text in pool.follow_logs(work.id):
            print(text, end="")
        done = pool.wait(work.id)
        if not done.succeeded:
            sys.exit(f"it {done.phase}: {done.message}")
        for file in pool.results(done.id):
            print(file.path, pool.result(done.id, file.path).decode())


if __name__ == "__main__":
    main()
