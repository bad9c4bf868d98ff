"""A start that fails tells why, whatever of it had started."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

# In a process of its own: that of the tests may have a Ray already.
ENDS_WITHOUT_SERVE = """
import sys
from contextlib import ExitStack
import ray
from arcray.config import load
from arcray.runtime.bootstrap import Arcray

options = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "_temp_dir": sys.argv[1] + "/ray"}
ray.init(address="local", include_dashboard=False, **options)
arcray = Arcray(load(state_dir=sys.argv[1]), owns_ray=True, ports=ExitStack())
assert arcray.down() == 0
assert not ray.is_initialized()
"""

TELLS_WHAT_IS_REFUSED = """
import sys
from arcray.config import Settings
from arcray.core.errors import InvalidArgumentError
from arcray.runtime.bootstrap import up

try:
    up(Settings(), address=sys.argv[1])
except InvalidArgumentError as error:
    print(error)
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """Ray's sockets need a short path."""
    made = Path(tempfile.mkdtemp(prefix="arcray-", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_what_started_ends_where_serve_had_not_started(directory: Path) -> None:
    command = [sys.executable, "-c", ENDS_WITHOUT_SERVE, str(directory)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("address", ["nowhere:1:2", "nowhere:x"])
def test_what_is_no_address_is_refused(address: str) -> None:
    command = [sys.executable, "-c", TELLS_WHAT_IS_REFUSED, address]
    told = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert told.stdout.startswith(f"address: {address} is no address"), told.stderr
