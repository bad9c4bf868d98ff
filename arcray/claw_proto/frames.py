"""Frames of a connection: which form and dialect they are in, and how large they may be.

A text frame is JSON of either form, a binary one bincode. A node's first frame is its registration, and how that looks
says which dialect it speaks and in which form it is answered. Messages of the first implementation exist as JSON only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

from arcray.claw_proto import messages, original
from arcray.claw_proto.codec import (
    GATEWAY_MESSAGE,
    NODE_MESSAGE,
    ORIGINAL_GATEWAY_MESSAGE,
    ORIGINAL_NODE_MESSAGE,
    MessageCodec,
)
from arcray.claw_proto.errors import InvalidMessageError, SerializationError
from arcray.claw_proto.tagging import MESSAGE, TAG, Tagging, parse, tagged
from arcray.claw_proto.validation import validate_node_message

__all__ = [
    "MAX_MESSAGE_BYTES",
    "AnyGatewayMessage",
    "AnyNodeMessage",
    "Dialect",
    "Form",
    "Frame",
    "Opening",
    "is_too_large",
    "read_from_gateway",
    "read_from_node",
    "read_opening",
    "write_to_gateway",
    "write_to_node",
]

Frame: TypeAlias = str | bytes
"""Text or binary, as WebSockets tell them apart."""

AnyNodeMessage: TypeAlias = messages.NodeMessage | original.NodeMessage
AnyGatewayMessage: TypeAlias = messages.GatewayMessage | original.GatewayMessage

MAX_MESSAGE_BYTES: Final = 1 << 20


class Dialect(Enum):
    """Whose messages a connection has."""

    DOCUMENT = "document"
    ORIGINAL = "original"  # those of the protocol's first implementation


class Form(Enum):
    """What a frame is."""

    INTERNAL = "internal"  # text with its type beside its fields
    EXTERNAL = "external"  # text with its type around its fields
    BINARY = "binary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """The first frame of a connection.

    Args:
        register: its class says the dialect too.
        form: in which everything on the connection is answered.
    """

    register: messages.Register | original.Register
    dialect: Dialect
    form: Form


_FORMS: Final[Mapping[Tagging, Form]] = {Tagging.INTERNAL: Form.INTERNAL, Tagging.EXTERNAL: Form.EXTERNAL}
_TAGGINGS: Final[Mapping[Form, Tagging]] = {form: tagging for tagging, form in _FORMS.items()}


def is_too_large(frame: Frame) -> bool:
    """Returns whether a frame has more than ``MAX_MESSAGE_BYTES``."""
    if isinstance(frame, bytes):
        return len(frame) > MAX_MESSAGE_BYTES
    # A character is at most four bytes: most frames are judged without being encoded.
    if len(frame) * 4 <= MAX_MESSAGE_BYTES:
        return False
    return len(frame) > MAX_MESSAGE_BYTES or len(frame.encode("utf-8", "surrogatepass")) > MAX_MESSAGE_BYTES


def read_opening(frame: Frame) -> Opening:
    """Returns the registration that a connection begins with.

    Raises:
        ProtoError: it is none; names the field.
    """
    _check_size(frame)
    if isinstance(frame, bytes):
        message = NODE_MESSAGE.from_bincode(frame)
        return Opening(register=_registration(message), dialect=Dialect.DOCUMENT, form=Form.BINARY)
    tagging, kind, fields = tagged(parse(frame))
    dialect = _dialect_of(fields)
    found = _NODE_CODECS[dialect].of_parsed(tagging, kind, fields)
    return Opening(register=_registration(found), dialect=dialect, form=_FORMS[tagging])


def _registration(message: AnyNodeMessage) -> messages.Register | original.Register:
    if not isinstance(message, messages.Register | original.Register):
        raise InvalidMessageError("must be a registration, as the first of a connection", field=TAG)
    return message


def _dialect_of(fields: Any) -> Dialect:
    # Capabilities without either are refused for what the document has them have.
    capabilities = fields.get("capabilities") if isinstance(fields, dict) else None
    if isinstance(capabilities, dict) and "memory_mib" in capabilities and "total_vram_mb" not in capabilities:
        return Dialect.ORIGINAL
    return Dialect.DOCUMENT


def read_from_node(frame: Frame, dialect: Dialect) -> tuple[AnyNodeMessage, Form]:
    """Returns what a node says after its registration, and in which form.

    Raises:
        ProtoError: names the field.
    """
    message, form = _read(frame, _NODE_CODECS[dialect], binary=dialect is Dialect.DOCUMENT)
    validate_node_message(message)
    return message, form


def read_from_gateway(frame: Frame, dialect: Dialect = Dialect.DOCUMENT) -> tuple[AnyGatewayMessage, Form]:
    """Returns what a gateway says, and in which form.

    Raises:
        ProtoError: names the field.
    """
    return _read(frame, _GATEWAY_CODECS[dialect], binary=dialect is Dialect.DOCUMENT)


def _read(frame: Frame, codec: MessageCodec[Any], *, binary: bool) -> tuple[Any, Form]:
    _check_size(frame)
    if isinstance(frame, bytes):
        if not binary:
            raise InvalidMessageError("must be text, as all messages of this dialect", field=MESSAGE)
        return codec.from_bincode(frame), Form.BINARY
    tagging, kind, fields = tagged(parse(frame))
    return codec.of_parsed(tagging, kind, fields), _FORMS[tagging]


def _check_size(frame: Frame) -> None:
    if is_too_large(frame):
        raise InvalidMessageError(f"has more than {MAX_MESSAGE_BYTES} bytes", field=MESSAGE)


def write_to_node(message: AnyGatewayMessage, form: Form) -> Frame:
    """Returns the frame that tells a node something; the dialect is that of the message.

    Raises:
        SerializationError: it has no such frame, or one that is too large; names the field.
    """
    original_kind = type(message) in _ORIGINAL_GATEWAY
    return _write(message, form, _GATEWAY_CODECS[Dialect.ORIGINAL if original_kind else Dialect.DOCUMENT])


def write_to_gateway(message: AnyNodeMessage, form: Form) -> Frame:
    """Returns the frame by which a node says something; the dialect is that of the message.

    Raises:
        SerializationError: it has no such frame, or one that is too large; names the field.
    """
    original_kind = type(message) in _ORIGINAL_NODE
    return _write(message, form, _NODE_CODECS[Dialect.ORIGINAL if original_kind else Dialect.DOCUMENT])


def _write(message: Any, form: Form, codec: MessageCodec[Any]) -> Frame:
    frame: Frame
    if form is Form.BINARY:
        if codec in (ORIGINAL_NODE_MESSAGE, ORIGINAL_GATEWAY_MESSAGE):
            raise SerializationError("exists as text only", field=MESSAGE)
        frame = codec.to_bincode(message)
    else:
        frame = codec.to_json(message, _TAGGINGS[form])
    if is_too_large(frame):
        raise SerializationError(f"has more than {MAX_MESSAGE_BYTES} bytes", field=MESSAGE)
    return frame


_NODE_CODECS: Final[Mapping[Dialect, MessageCodec[Any]]] = {
    Dialect.DOCUMENT: NODE_MESSAGE,
    Dialect.ORIGINAL: ORIGINAL_NODE_MESSAGE,
}
_GATEWAY_CODECS: Final[Mapping[Dialect, MessageCodec[Any]]] = {
    Dialect.DOCUMENT: GATEWAY_MESSAGE,
    Dialect.ORIGINAL: ORIGINAL_GATEWAY_MESSAGE,
}
# Heartbeats and logs are the same in both.
_ORIGINAL_NODE: Final = ORIGINAL_NODE_MESSAGE.kinds - NODE_MESSAGE.kinds
_ORIGINAL_GATEWAY: Final = ORIGINAL_GATEWAY_MESSAGE.kinds
