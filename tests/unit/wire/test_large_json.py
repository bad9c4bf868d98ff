"""A large document is read as a small one is, and whoever shares the loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from arcray.core.errors import InvalidArgumentError
from arcray.wire.large_json import Turns
from arcray.wire.strict_json import members


@pytest.mark.parametrize(
    "value",
    [
        [0.25] * 200_000,
        [[1, 2.5, "x"]] * 40_000,
        [{"a": [[[]]]}] * 5_000,
        {str(index): index for index in range(50_000)},
    ],
    ids=["numbers", "rows", "brackets", "members"],
)
async def test_others_have_their_turns_while_a_large_document_is_read(value: Any) -> None:
    body = json.dumps({"modelId": "m", "input": value}).encode()
    reading = asyncio.create_task(Turns().members(body))
    turns = 0
    while not reading.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 5
    found = reading.result()
    assert (found.raw("input"), found.values["modelId"]) == (members(body).raw("input"), "m")
    assert found.values["input"] == type(value)(), "it is opaque, and not built"


async def test_large_documents_share_one_turn() -> None:
    body = json.dumps({"input": [0.25] * 200_000}).encode()
    turns = Turns()
    first, second = (asyncio.create_task(turns.members(body)) for _ in range(2))
    done, _ = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
    assert done == {first}
    await second


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\xff{}", "is not UTF-8"),
        (b"[1]", "must be an object"),
        (b'{"a":[1,NaN]}', "read at character 8"),
        (b'{"a":-Infinity}', "read at character 5"),
        (b'{"a":1,}', "read at character 7"),
        (b'{"a":[1,2,]}', "read at character 10"),
        (b'{"a":{"b" 1}}', "read at character 6"),
        (b'{"a":{"b":1]}', "read at character 6"),
        (b'{"a":[[1]}', "read at character 9"),
        (b'{"a":"\\x"}', "read at character 5"),
        (b'{"a":1]', "read at character 6"),
        (b'{"a":[1] "b":1}', "read at character 8"),
        (b'{"a":1}x', "follows its end"),
        (b'{"a":' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"a":[' + b"9" * 5000 + b"]}", "is not JSON"),
        (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "64 levels"),
        (b'{"a":' + b"[" * 200_000, "64 levels"),
        (b'{"a":[' + b'"' + b'\\"' * 500_000, "is not JSON"),
        (json.dumps(dict.fromkeys(map(str, range(1025)))).encode(), "more than 1024 members"),
    ],
)
async def test_what_is_wrong_is_said(body: bytes, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as refused:
        await Turns().members(body)
    assert refused.value.field == "body"


async def test_a_document_may_be_as_deep_as_a_small_one() -> None:
    body = b'{"a":' + b"[" * 63 + b"1" + b"]" * 63 + b"}"
    assert (await Turns().members(body)).values == members(body).values
