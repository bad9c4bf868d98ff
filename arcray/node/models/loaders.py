"""How each model format becomes something that answers. Runs in the model's own process."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final

from arcray.node.models.frames import LoadSpec

__all__ = ["Loaded", "load"]

ENTRY_POINT_GROUP: Final = "arcray.models"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model that answers: exactly one of the two is set.

    Args:
        call: blocks until it has the answer; may run in several threads at once.
        call_async: answers on the event loop.
        watch: runs beside it and tells why it cannot answer for now, "" when it can again; None where it always can.
    """

    call: Callable[[Any], Any] | None = None
    call_async: Callable[[Any], Awaitable[Any]] | None = None
    watch: Callable[[Callable[[str], None]], Coroutine[Any, Any, None]] | None = None


def load(spec: LoadSpec) -> Loaded:
    """Loads a model of any format; what its code raises comes through."""
    match spec.format:
        case "python":
            return _load_python(spec)
        case "onnx":
            from arcray.node.models.onnx_model import OnnxModel

            return Loaded(call=OnnxModel(spec).predict)
        case "openai":
            from arcray.node.models.openai_model import OpenAiModel

            model = OpenAiModel(spec)
            return Loaded(call_async=model.predict, watch=model.watch)
        case _:
            raise ValueError(f"no loader for models of format {spec.format}")


def _load_python(spec: LoadSpec) -> Loaded:
    """Takes a function, a class (made once, without arguments) or an object; ``predict`` before calling it."""
    found = _named(spec.source)
    if inspect.isclass(found):
        found = found()
    predict = getattr(found, "predict", None)
    target = predict if callable(predict) else found
    if not callable(target):
        raise TypeError(f"{spec.source} is neither callable nor has a predict method")
    if inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(getattr(target, "__call__", None)):  # noqa: B004 - its kind is asked, not whether it is there
        return Loaded(call_async=target)
    return Loaded(call=target)


def _named(source: str) -> Any:
    module_name, colon, path = source.partition(":")
    if not colon:
        found = tuple(entry_points(group=ENTRY_POINT_GROUP, name=source))
        if not found:
            raise LookupError(f"{source!r} is neither module:name nor an entry point of group {ENTRY_POINT_GROUP}")
        return found[0].load()
    target: Any = import_module(module_name)
    for part in path.split("."):
        target = getattr(target, part)
    return target
