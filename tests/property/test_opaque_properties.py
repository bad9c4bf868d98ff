"""Whatever JSON a model answers stands in REST's answers byte for byte, and harms nothing beside it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from arcray.core.workload import Phase, Result, WorkloadView
from arcray.facades.rest import codec, operation_translate, translate
from arcray.facades.rest import messages as m
from arcray.facades.rest import operation_messages as om
from arcray.testing.builders import T0, a_workload, an_inference, node_id

_WORDS = st.text(st.characters(), max_size=8)  # halves of surrogate pairs too
_NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS, inner, max_size=4),
    max_leaves=12,
)
_OUTPUTS = _VALUES.map(lambda value: json.dumps(value).encode())
_PLACE = b'{"":null}'


def a_view(output: bytes | None, message: str = "") -> WorkloadView:
    return WorkloadView(
        spec=a_workload(payload=an_inference()),
        phase=Phase.SUCCEEDED,
        attempt=1,
        restarts=0,
        node_id=node_id(1),
        allocation=None,
        message=message,
        result=Result(output=output),
        placed_at=T0,
        started_at=None,
        finished_at=T0,
        ports=(),
    )


@given(_OUTPUTS)
@example(b'"\\ud800"')
@example(b"1e400")
@example(b"9" * 4000)
@example(b"0.10000000000000000000000000000000001")
@example(b"[" * 5000 + b"]" * 5000)
@example(_PLACE)
def test_output_stands_in_a_workload_as_it_was_written(output: bytes) -> None:
    body = codec.encode(translate.workload_view(a_view(output)))
    assert body.count(b'"output":%b,"cost"' % output) == 1


@given(st.lists(st.none() | _OUTPUTS, max_size=5), st.text(max_size=8))
@example([_PLACE, None, _PLACE], '{"":null}')
def test_every_output_of_a_list_is_the_one_of_its_workload(outputs: list[bytes | None], message: str) -> None:
    views = [translate.workload_view(a_view(output, message)) for output in outputs]
    page = m.WorkloadsView(workloads=views, total=None, limit=1, offset=0, next_cursor=None)
    found: list[dict[str, Any]] = json.loads(codec.encode(page))["workloads"]
    assert [each["output"] for each in found] == [json.loads(output or b"null") for output in outputs]
    assert {each["message"] for each in found} <= {message}


@given(_OUTPUTS)
def test_output_stands_in_a_dead_letter_as_it_was_written(output: bytes) -> None:
    letters = [operation_translate.dead_letter_view(a_view(output))] * 2
    page = om.DeadLettersView(dead_letters=letters, total=None, limit=1, offset=0, next_cursor=None)
    assert codec.encode(page).count(b'"output":%b,"cost"' % output) == 2
