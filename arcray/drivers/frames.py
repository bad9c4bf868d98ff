"""Frames: any number of core values as one blob, the way they cross from process to process.

What lives here: the encoding. What does not: who sends what. Both ends run the same version of arcray on the same
machine or cluster, which ``SchedulerActor.version`` lets them check; nothing from outside is ever decoded here.

The encoding is pickle with a short cut for our frozen, slotted dataclasses. Their generated ``__getstate__`` and
``__setstate__`` walk ``dataclasses.fields()`` for every value: a ``WorkloadView`` costs 16 us each way, 6 us with the
short cut, and every inference request crosses four borders. Ray's own serializer costs more still (each argument
apart, by a pickler written for closures), so a call carries one ``bytes``.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final, TypeAlias

__all__ = ["decode", "encode"]

_PROTOCOL: Final = 5
_Reduce: TypeAlias = Callable[[Any], tuple[Any, ...]]


def encode(value: object) -> bytes:
    """Returns the value as a blob."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, _PROTOCOL)
    pickler.dispatch_table = _REDUCERS
    pickler.dump(value)
    return buffer.getvalue()


def decode(blob: bytes) -> Any:
    """Returns the value of a blob that ``encode`` made."""
    return pickle.loads(blob)  # noqa: S301  made by our own processes


class _Reducers(dict[type, _Reduce]):
    """Reducers by class, made when a class is first met."""

    def __missing__(self, cls: type) -> _Reduce:
        names = _slots(cls)
        if not names:
            raise KeyError(cls)  # pickle goes its usual way
        get = attrgetter(*names)
        if len(names) == 1:
            self[cls] = lambda value: (_rebuild, (cls, (get(value),)))
        else:
            self[cls] = lambda value: (_rebuild, (cls, get(value)))
        return self[cls]


_REDUCERS: Final = _Reducers()
_SETTERS: Final[dict[type, tuple[Callable[[Any, Any], None], ...]]] = {}


def _rebuild(cls: type[Any], values: tuple[Any, ...]) -> Any:
    """Returns a value of its fields, without its checks: they held when it was made."""
    setters = _SETTERS.get(cls)
    if setters is None:
        setters = _SETTERS[cls] = tuple(cls.__dict__[name].__set__ for name in _slots(cls))
    value = object.__new__(cls)
    for setter, item in zip(setters, values, strict=True):
        setter(value, item)
    return value


def _slots(cls: type) -> tuple[str, ...]:
    """Returns the fields of a dataclass whose slots are all its own, () for any other class."""
    if not dataclasses.is_dataclass(cls) or "__slots__" not in cls.__dict__:
        return ()
    names = tuple(field.name for field in dataclasses.fields(cls))
    return names if all(name in cls.__dict__ for name in names) else ()
