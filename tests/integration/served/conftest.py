"""One arcray for the tests of this folder, started and ended by the command line as a user would."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from examples.digits.own import OwnArcray


@pytest.fixture(scope="package")
def served() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ARCRAY_NODE__MODELS__ALLOW", '["json:loads"]')
        own = OwnArcray()
    try:
        yield own.start()
    finally:
        own.end()
    own.forget()
