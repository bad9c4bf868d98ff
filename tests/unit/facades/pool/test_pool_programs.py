"""What the settings say of programs that tasks may run."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from arcray.config import load
from arcray.pool_settings import PoolProgram


@pytest.mark.parametrize(
    "program",
    [
        PoolProgram(image="busybox"),
        PoolProgram(image="busybox", input="argument"),
        PoolProgram(entry_point="json:dumps"),
        PoolProgram(entry_point="json:dumps", input="argument"),
    ],
)
def test_a_program_is_the_same_where_settings_are_handed_to_another_process(program: PoolProgram) -> None:
    settings = load(None, pool={"programs": {"it": program}})
    assert load(None, **settings.model_dump()).pool.programs == {"it": program}


def test_an_image_reads_no_standard_input() -> None:
    with pytest.raises(ValidationError, match="an image takes its input as an argument"):
        PoolProgram(image="busybox", input="stdin")
