"""Rules about registered models."""

from __future__ import annotations

from dataclasses import replace

from arcray.core import events as ev
from arcray.core.commands import RegisterModel, RemoveModel
from arcray.core.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from arcray.core.handlers.workloads import stop
from arcray.core.turn import Turn
from arcray.core.workload import ModelServer

__all__ = ["on_register_model", "on_remove_model"]

_NAME_LIMIT = 128
_STOP_GRACE_S = 5.0


def on_register_model(turn: Turn, command: RegisterModel) -> None:
    """Makes a model known; the same registration again changes nothing."""
    model = command.model
    if not 1 <= len(model.id) <= _NAME_LIMIT:
        raise InvalidArgumentError(f"must have 1 to {_NAME_LIMIT} characters", field="name")
    if not model.source:
        raise InvalidArgumentError("must not be empty", field="source")
    known = turn.state.models.get(model.id)
    if known is None:
        turn.emit(ev.ModelRegistered(model=model, at=turn.now))
    elif replace(model, created_at=known.created_at) != known:
        raise AlreadyExistsError(f"model {model.id} is registered in another form; remove it first", field="name")


def on_remove_model(turn: Turn, command: RemoveModel) -> None:
    """Forgets a model and stops its copies."""
    if command.model_id not in turn.state.models:
        raise NotFoundError(f"no model {command.model_id}", field="name")
    for workload in list(turn.state.workloads.values()):
        payload = workload.spec.payload
        if isinstance(payload, ModelServer) and payload.model.id == command.model_id:
            stop(turn, workload, _STOP_GRACE_S)
    turn.emit(ev.ModelRemoved(model_id=command.model_id, at=turn.now))
