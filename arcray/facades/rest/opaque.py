"""JSON that passes through as it was written: what a model answered stands in an answer byte for byte.

Decoding it for the sake of encoding it again costs as much as all else of an answer, changes its numbers, and cannot be
done for all of it: half of a surrogate pair is JSON (RFC 8259, section 8.2) and no UTF-8, and an encoder has a depth.
"""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Final, TypeAlias

from pydantic import BaseModel, PlainSerializer, SerializationInfo, WithJsonSchema

__all__ = ["Opaque", "dump"]

# No message has a member without a name, and inside a string its quotes would be escaped: it stands nowhere else.
_PLACE: Final[dict[str, None]] = {"": None}
_PLACE_TEXT: Final = b'{"":null}'


def _set_aside(value: bytes, info: SerializationInfo) -> dict[str, None]:
    set_aside: list[bytes] | None = info.context
    assert set_aside is not None, "messages are encoded by dump"
    set_aside.append(value)
    return _PLACE


Opaque: TypeAlias = Annotated[
    bytes,
    PlainSerializer(_set_aside, when_used="json"),
    WithJsonSchema({"description": "any JSON; its form is the model's own"}),
]
"""UTF-8 JSON as it was written; for members of messages that are only sent."""


def dump(message: BaseModel) -> bytes:
    """Returns the JSON of a message, what is opaque in it as it was written."""
    set_aside: list[bytes] = []
    text = message.model_dump_json(context=set_aside).encode()
    if not set_aside:
        return text
    # Strict: each is set aside where its place stands, in the order of the text.
    woven = zip(text.split(_PLACE_TEXT), (*set_aside, b""), strict=True)
    return b"".join(chain.from_iterable(woven))
