"""The four ways in which a message can be wrong.

Source: claw-proto API Reference, "Error Handling". They are core's refusals too, so whatever answers those, answers
these, with the field that is to blame.
"""

from __future__ import annotations

from arcray.core.errors import InvalidArgumentError

__all__ = ["InvalidMessageError", "ProtoError", "SerializationError", "UnknownMessageTypeError", "ValidationError"]


class ProtoError(InvalidArgumentError):
    """The message is wrong; correct the named field and send it again."""


class InvalidMessageError(ProtoError):
    """The message is not of the form that its type has; correct the named field."""


class ValidationError(ProtoError):
    """A value breaks a rule of the protocol; correct the named field."""


class SerializationError(ProtoError):
    """The bytes are no JSON or bincode, or a value has no place in them."""


class UnknownMessageTypeError(ProtoError):
    """No message of this protocol has that type."""
