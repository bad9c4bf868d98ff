"""Asking the plane for one thing."""

from __future__ import annotations

import pytest

from arcray.core.commands import Command, RemoveModel
from arcray.core.errors import ArcrayError, InvalidArgumentError, NotFoundError
from arcray.core.ids import ModelId
from arcray.testing.node_fakes import FakePlane
from arcray.wire.asking import ask, ask_all


def removal(model: str) -> RemoveModel:
    return RemoveModel(model_id=ModelId(model))


def answering(answers: dict[str, object]) -> FakePlane:
    """A plane that answers each removal by the name of its model."""
    plane = FakePlane()

    def answer(command: Command) -> object:
        assert isinstance(command, RemoveModel)
        return answers[command.model_id]

    plane.answer = answer
    return plane


async def test_the_reply_to_one_command_is_returned() -> None:
    plane = answering({"a": "gone"})
    assert await ask(plane, removal("a")) == "gone"
    assert plane.commands == [removal("a")]


async def test_a_refusal_is_raised_as_it_is() -> None:
    refusal = NotFoundError("no model a", field="name")
    with pytest.raises(ArcrayError) as raised:
        await ask(answering({"a": refusal}), removal("a"))
    assert raised.value is refusal


async def test_the_first_refusal_of_several_is_raised() -> None:
    first, second = NotFoundError("no model b"), InvalidArgumentError("no model c")
    plane = answering({"a": "gone", "b": first, "c": second})
    with pytest.raises(ArcrayError) as raised:
        await ask_all(plane, [removal(name) for name in "abc"])
    assert raised.value is first
    assert len(plane.calls) == 1


async def test_replies_come_in_the_order_of_the_commands() -> None:
    assert await ask_all(answering({"a": 1, "b": 2}), [removal("b"), removal("a")]) == [2, 1]


async def test_nothing_to_ask_asks_nothing() -> None:
    plane = FakePlane()
    assert await ask_all(plane, ()) == []
    assert plane.calls == []
