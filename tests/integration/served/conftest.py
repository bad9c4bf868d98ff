"""One arcray for the tests of this folder, started and ended by the command line as a user would."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from examples.digits.own import OwnArcray


@pytest.fixture(scope="package")
def served() -> Iterator[str]:
    own = OwnArcray()
    try:
        yield own.start()
    finally:
        own.end()
    own.forget()
