"""The database server of the tests leaves with them."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from tests.postgres_server import server_programs

RUN = """
import sys
from pathlib import Path
from tests.postgres_server import PostgresServer
server = PostgresServer(Path(sys.argv[1]))
server.start()
print(server.tidying.pid, server.execute("SHOW data_directory")[0][0], flush=True)
sys.stdin.read()
"""
ROOT = Path(__file__).parents[3]
TIMEOUT_S = 30


@pytest.mark.usefixtures("postgres")  # where there is none, this is skipped
def test_a_run_that_is_killed_leaves_no_server_and_no_files() -> None:
    """Starts a server of its own, which takes a second or two."""
    command = [sys.executable, "-c", RUN, str(server_programs())]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        tidying, data = run.stdout.readline().split()
        server = int((Path(data) / "postmaster.pid").read_text(encoding="ascii").split()[0])
        ends = {os.pidfd_open(int(tidying)), os.pidfd_open(server)}
        run.kill()
    while ends:
        ended, _, _ = select.select(ends, (), (), TIMEOUT_S)
        assert ended, "it goes on"
        for each in ended:
            os.close(each)
            ends.remove(each)
    assert not Path(data).parent.exists()
