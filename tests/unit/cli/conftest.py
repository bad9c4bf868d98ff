from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli_fixtures import MakeShell, Shell


@pytest.fixture
def shell(tmp_path: Path) -> MakeShell:
    return lambda routes: Shell(tmp_path, routes)
