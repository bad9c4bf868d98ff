"""Models: registered, registered in another form, removed while copies of them run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

from arcray.core import events as ev
from arcray.core.commands import Command, RegisterModel, RemoveModel
from arcray.core.ids import ModelId
from arcray.core.model import Model
from arcray.testing.builders import a_model
from arcray.testing.simulation.nouns.cast import Cast
from arcray.testing.simulation.promise import must

__all__ = ["ModelFacts", "draw_model"]


def draw_model(dice: Random, cast: Cast) -> Command:
    """Returns a registration, or the removal of one."""
    if cast.models and dice.random() < 0.25:
        return RemoveModel(model_id=dice.choice(cast.models).id)
    if cast.models and dice.random() < 0.3:
        again = dice.choice(cast.models)
        return RegisterModel(model=dice.choice((again, replace(again, source="another:form"))))
    model = a_model(f"model-{len(cast.models) + 1}", created_at=cast.client_time(dice))
    cast.models.append(model)
    return RegisterModel(model=model)


class ModelFacts:
    """What is on disk of models.

    Attributes:
        known: those registered now.
        ever: ids of all that were.
    """

    def __init__(self) -> None:
        self.known: dict[ModelId, Model] = {}
        self.ever: set[ModelId] = set()

    @property
    def takes(self) -> Mapping[type, Callable[[Any], None]]:
        """Returns what is done about which fact."""
        return {ev.ModelRegistered: self._registered, ev.ModelRemoved: self._removed}

    def _registered(self, event: ev.ModelRegistered) -> None:
        must(event.model.id not in self.known, f"model {event.model.id} is registered twice")
        self.known[event.model.id] = event.model
        self.ever.add(event.model.id)

    def _removed(self, event: ev.ModelRemoved) -> None:
        must(event.model_id in self.known, f"model {event.model_id} is removed, and not there")
        del self.known[event.model_id]
