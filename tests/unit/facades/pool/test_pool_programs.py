"""What the settings say of programs that tasks may run."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from arcray.config import load
from arcray.core.ids import WorkloadId
from arcray.core.workload import Container
from arcray.facades.pool.programs import Programs
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


@pytest.mark.parametrize(("given", "args"), [(None, ("ls",)), ("", ("ls", "")), ("/tmp", ("ls", "/tmp"))])
def test_an_image_gets_an_argument_only_of_a_task_that_has_input(given: str | None, args: tuple[str, ...]) -> None:
    programs = Programs({"it": PoolProgram(image="busybox", args=("ls",))})
    work = WorkloadId("00000000-0000-4000-8000-000000000001")
    assert programs.ready("it", given, work).payload == Container(image="busybox", args=args)


def test_an_image_reads_no_standard_input() -> None:
    with pytest.raises(ValidationError, match="an image takes its input as an argument"):
        PoolProgram(image="busybox", input="stdin")
