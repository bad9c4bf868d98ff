"""Every type of the protocol in every encoding. ``codec_of`` makes a codec of a type, once.

Messages have their own, because JSON says of what type they are: ``NODE_MESSAGE`` and ``GATEWAY_MESSAGE`` of the
document, ``ORIGINAL_NODE_MESSAGE`` and ``ORIGINAL_GATEWAY_MESSAGE`` of the first implementation.

Source: claw-proto API Reference, "Serialization".
"""

from __future__ import annotations

from functools import cache
from json import JSONEncoder
from typing import Any, Final, Generic, TypeVar, cast

from arcray.claw_proto import bincode_reading, bincode_writing, json_reading, json_writing, messages, original
from arcray.claw_proto.errors import InvalidMessageError, ProtoError, SerializationError, UnknownMessageTypeError
from arcray.claw_proto.shapes import Choice, Unfit, shape_of
from arcray.claw_proto.tagging import MESSAGE, TAG, Tagging, parse, spelled, tagged, unknown

__all__ = [
    "GATEWAY_MESSAGE",
    "NODE_MESSAGE",
    "ORIGINAL_GATEWAY_MESSAGE",
    "ORIGINAL_NODE_MESSAGE",
    "Codec",
    "MessageCodec",
    "codec_of",
]

_T = TypeVar("_T")

_JSON: Final = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class Codec(Generic[_T]):
    """One type, as JSON and as bincode.

    Args:
        declared: the type, or the alias of an enum with fields.
    """

    def __init__(self, declared: Any) -> None:
        shape = shape_of(declared)
        self._read = json_reading.reader(shape)
        self._write = {tagging: json_writing.writer(shape, tagging) for tagging in Tagging}
        self._unpack = bincode_reading.reader(shape)
        self._pack = bincode_writing.writer(shape)

    def to_json(self, value: _T, tagging: Tagging = Tagging.INTERNAL) -> str:
        """Returns compact JSON.

        Args:
            tagging: how it spells the names of enums.

        Raises:
            SerializationError: it is no value of this type; names the field.
        """
        try:
            return _JSON.encode(self._write[tagging](value))
        except Unfit as unfit:
            raise _told(unfit, SerializationError) from unfit

    def from_json(self, text: str | bytes) -> _T:
        """Returns the value that a text says.

        Raises:
            SerializationError: it is not JSON.
            InvalidMessageError: it is not of this type; names the field.
        """
        try:
            return cast("_T", self._read(parse(text)))
        except Unfit as unfit:
            raise _told(unfit, InvalidMessageError) from unfit

    def to_bincode(self, value: _T) -> bytes:
        """Returns what bincode 1.x makes of a value.

        Raises:
            SerializationError: it is no value of this type; names the field.
        """
        out = bytearray()
        try:
            self._pack(out, value)
        except Unfit as unfit:
            raise _told(unfit, SerializationError) from unfit
        return bytes(out)

    def from_bincode(self, data: bytes) -> _T:
        """Returns the value that bytes begin with.

        Raises:
            SerializationError: they begin with none; names the field.
        """
        try:
            return cast("_T", self._unpack(data, 0)[0])
        except Unfit as unfit:
            raise _told(unfit, SerializationError) from unfit


class MessageCodec(Generic[_T]):
    """The messages of one side, as JSON of either form and as bincode.

    Args:
        declared: the alias of their types.
    """

    def __init__(self, declared: Any) -> None:
        shape = shape_of(declared)
        assert isinstance(shape, Choice), "messages are an enum with fields"
        self.kinds: Final = frozenset(each.kind for each in shape.variants)
        """The types of its messages."""
        self._read = {
            tagging: {spelled(each.name, tagging): json_reading.reader(each) for each in shape.variants}
            for tagging in Tagging
        }
        self._write = {
            tagging: {
                each.kind: (spelled(each.name, tagging), json_writing.writer(each, tagging), bool(each.members))
                for each in shape.variants
            }
            for tagging in Tagging
        }
        self._of = Codec[_T](declared)

    def to_json(self, message: _T, tagging: Tagging = Tagging.INTERNAL) -> str:
        """Returns a message as compact JSON.

        Raises:
            SerializationError: it is no message of this side, or a field has no such value; names it.
        """
        found = self._write[tagging].get(type(message))
        if found is None:
            raise SerializationError(f"a {type(message).__name__} is no message of this side", field=TAG)
        kind, write, has_fields = found
        try:
            fields = write(message)
        except Unfit as unfit:
            raise _told(unfit, SerializationError) from unfit
        if tagging is Tagging.INTERNAL:
            return _JSON.encode({TAG: kind} | fields)
        return _JSON.encode({kind: fields} if has_fields else kind)

    def from_json(self, text: str | bytes) -> _T:
        """Returns the message that a text says, in whichever form.

        Raises:
            SerializationError: it is not JSON.
            InvalidMessageError: it is not of the form of its type; names the field.
            UnknownMessageTypeError: this side has no such message.
        """
        return self.of_parsed(*tagged(parse(text)))

    def of_parsed(self, tagging: Tagging, kind: str, fields: Any) -> _T:
        """Returns the message that ``tagged`` has found.

        Raises:
            InvalidMessageError: it is not of the form of its type; names the field.
            UnknownMessageTypeError: this side has no such message.
        """
        read = self._read[tagging].get(kind)
        if read is None:
            raise unknown(kind)
        try:
            return cast("_T", read(fields))
        except Unfit as unfit:
            raise _told(unfit, InvalidMessageError) from unfit

    def to_bincode(self, message: _T) -> bytes:
        """Returns what bincode 1.x makes of a message.

        Raises:
            SerializationError: it is no message of this side, or a field has no such value; names it.
        """
        return self._of.to_bincode(message)

    def from_bincode(self, data: bytes) -> _T:
        """Returns the message that bytes begin with.

        Raises:
            SerializationError: they begin with none; names the field.
            UnknownMessageTypeError: this side has no such message.
        """
        try:
            number = bincode_reading.variant_of(data)
        except Unfit as unfit:
            raise _told(unfit, SerializationError) from unfit
        if number >= len(self.kinds):
            raise UnknownMessageTypeError(f"is one of the first {len(self.kinds)}, got number {number}", field=TAG)
        return self._of.from_bincode(data)


def _told(unfit: Unfit, kind: type[ProtoError]) -> ProtoError:
    return kind(unfit.reason, field=unfit.field or MESSAGE)


@cache
def codec_of(declared: type[_T]) -> Codec[_T]:
    """Returns the codec of a type that is no message.

    Raises:
        TypeError: it is no type of this protocol.
    """
    return Codec(declared)


NODE_MESSAGE: Final = MessageCodec[messages.NodeMessage](messages.NodeMessage)
GATEWAY_MESSAGE: Final = MessageCodec[messages.GatewayMessage](messages.GatewayMessage)
ORIGINAL_NODE_MESSAGE: Final = MessageCodec[original.NodeMessage](original.NodeMessage)
ORIGINAL_GATEWAY_MESSAGE: Final = MessageCodec[original.GatewayMessage](original.GatewayMessage)
