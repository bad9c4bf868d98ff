"""Rules about registered models."""

from __future__ import annotations

from dataclasses import replace

from arcray.core import events as ev
from arcray.core.commands import RegisterModel, RemoveModel
from arcray.core.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, PermissionDeniedError
from arcray.core.handlers.workloads import stop
from arcray.core.turn import Turn

__all__ = ["on_register_model", "on_remove_model"]

_NAME_LIMIT = 128
_UNNAMEABLE = frozenset({"", ".", ".."})  # clients and proxies take them out of a path before it is asked for
_STOP_GRACE_S = 5.0


def on_register_model(turn: Turn, command: RegisterModel) -> None:
    """Makes a model known; the same registration again changes nothing."""
    model = command.model
    if not 1 <= len(model.id) <= _NAME_LIMIT:
        raise InvalidArgumentError(f"must have 1 to {_NAME_LIMIT} characters", field="name")
    if not _UNNAMEABLE.isdisjoint(model.id.split("/")):
        raise InvalidArgumentError("must not have '.', '..' or nothing between its slashes", field="name")
    if not model.source:
        raise InvalidArgumentError("must not be empty", field="source")
    known = turn.state.models.get(model.id)
    if known is None:
        turn.emit(ev.ModelRegistered(model=model, at=turn.now))
    elif replace(model, created_at=known.created_at, owner=known.owner) != known:
        raise AlreadyExistsError(f"model {model.id} is registered in another form; remove it first", field="name")


def on_remove_model(turn: Turn, command: RemoveModel) -> None:
    """Forgets a model and stops its copies."""
    model = turn.state.models.get(command.model_id)
    if model is None:
        raise NotFoundError(f"no model {command.model_id}", field="name")
    if command.account not in (None, model.owner):
        raise PermissionDeniedError(f"model {model.id} was registered by another account", field="name")
    copies = turn.state.copies.of(model.id)
    if any(command.account not in (None, copy.spec.origin.account) for copy in copies):
        raise PermissionDeniedError(f"copies of model {model.id} belong to another account", field="name")
    for copy in copies:
        stop(turn, copy, _STOP_GRACE_S)
    turn.emit(ev.ModelRemoved(model_id=command.model_id, at=turn.now))
