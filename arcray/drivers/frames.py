"""Frames: any number of core values as one blob, the way they cross from process to process.

What lives here: the encoding. What does not: who sends what. Both ends run the same version of arcray, which they check
before the first frame; nothing that comes from outside our own processes is ever decoded here.

The encoding is pickle with a short cut for our frozen, slotted dataclasses. Their generated ``__getstate__`` and
``__setstate__`` walk ``dataclasses.fields()`` for every value, and their ``__init__`` sets fields one by one through
``object.__setattr__``: a ``WorkloadView`` costs 17 us each way like that, 4.5 us with the short cut, and every
inference request crosses four borders. The short cut is a function per class, generated as ``dataclasses`` itself
generates ``__init__``, that fills the slots of a new object.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import pickle
from collections.abc import Callable
from operator import attrgetter, methodcaller
from typing import Any, Final, TypeAlias

__all__ = ["decode", "encode", "filler"]

_PROTOCOL: Final = 5
_PREFIX: Final = "fill:"
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


def __getattr__(name: str) -> Any:
    """Returns the function that fills a new object of a class; a frame names it ``fill:<module>:<class>``."""
    if not name.startswith(_PREFIX):
        raise AttributeError(name)
    module, _, cls = name[len(_PREFIX) :].rpartition(":")
    return filler(getattr(importlib.import_module(module.replace("/", ".")), cls))


class _Reducers(dict[type, _Reduce]):
    """Reducers by class, made when a class is first met."""

    def __missing__(self, cls: type) -> _Reduce:
        if issubclass(cls, type):
            raise KeyError(cls)  # classes go by name, which pickle sees to once it has found nothing here
        names = _slots(cls)
        if not names:
            # Pickle's own way, remembered: to be asked and to have none, as KeyError says, costs more than the answer.
            self[cls] = methodcaller("__reduce_ex__", _PROTOCOL)
            return self[cls]
        fill, get = filler(cls), attrgetter(*names)
        if len(names) == 1:
            self[cls] = lambda value: (fill, (get(value),))
        else:
            self[cls] = lambda value: (fill, get(value))
        return self[cls]


_REDUCERS: Final = _Reducers()


def filler(cls: type) -> Callable[..., Any]:
    """Returns ``fill(*values)``: a new object with these fields, without its checks, which held when it was made.

    Args:
        cls: a dataclass whose slots are all its own.
    """
    # Names in frames have no dots: pickle would take them for attributes of attributes.
    name = f"{_PREFIX}{cls.__module__.replace('.', '/')}:{cls.__qualname__}"
    made: Callable[..., Any] | None = globals().get(name)
    if made is not None:
        return made
    fields = _slots(cls)
    assert fields, f"{cls} has slots of its own"
    lines = [f"def fill({', '.join(fields)}):", " value = new(cls)", *(f" set_{f}(value, {f})" for f in fields)]
    scope = {"new": object.__new__, "cls": cls, **{f"set_{field}": cls.__dict__[field].__set__ for field in fields}}
    exec("\n".join([*lines, " return value"]), scope)  # noqa: S102  from the names of our own fields
    made = scope["fill"]
    made.__module__, made.__qualname__ = __name__, name
    globals()[name] = made
    return made


def _slots(cls: type) -> tuple[str, ...]:
    """Returns the fields of a dataclass whose slots are all its own, () for any other class."""
    if not dataclasses.is_dataclass(cls) or "__slots__" not in cls.__dict__ or "<locals>" in cls.__qualname__:
        return ()
    names = tuple(field.name for field in dataclasses.fields(cls))
    return names if all(name in cls.__dict__ for name in names) else ()
