"""REST bytes to messages and back. Whatever comes in is a message or an ``InvalidArgumentError`` naming the field."""

from __future__ import annotations

from typing import Annotated, Any, Final, NoReturn, TypeAlias, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from arcray.core.errors import InvalidArgumentError
from arcray.facades.rest import opaque
from arcray.facades.rest.messages import ContainerBody, ModelBody, ProgramBody, ReservationBody, StopBody

__all__ = [
    "SUBMISSION",
    "Submission",
    "decode",
    "decode_model",
    "decode_reservation",
    "decode_stop",
    "decode_submission",
    "encode",
]

_M = TypeVar("_M", bound=BaseModel)

Submission: TypeAlias = ProgramBody | ContainerBody

SUBMISSION: Final[TypeAdapter[Submission]] = TypeAdapter(Annotated[Submission, Field(discriminator="kind")])

_KINDS: Final = ("program", "container")


def decode_submission(body: bytes) -> Submission:
    """Reads the body of ``POST /api/v1/workloads``.

    Raises:
        InvalidArgumentError: names the field.
    """
    try:
        return SUBMISSION.validate_json(body, by_alias=True, by_name=False)
    except ValidationError as error:
        _refuse(error, tagged=True)


def decode_model(body: bytes) -> ModelBody:
    """Reads the body of ``POST /api/v1/models``.

    Raises:
        InvalidArgumentError: names the field.
    """
    return _decoded(ModelBody, body)


def decode_reservation(body: bytes) -> ReservationBody:
    """Reads the body of ``POST /api/v1/reservations``.

    Raises:
        InvalidArgumentError: names the field.
    """
    return _decoded(ReservationBody, body)


def decode_stop(body: bytes) -> StopBody:
    """Reads the body of ``POST /api/v1/workloads/{id}/stop``; an empty one takes the defaults.

    Raises:
        InvalidArgumentError: names the field.
    """
    return _decoded(StopBody, body) if body.strip() else StopBody()


def decode(model: type[_M], body: bytes, *, optional: bool = False) -> _M:
    """Reads any other body.

    Args:
        optional: an empty one takes the defaults.

    Raises:
        InvalidArgumentError: names the field.
    """
    return model() if optional and not body.strip() else _decoded(model, body)


def encode(message: BaseModel) -> bytes:
    """Returns a body."""
    return opaque.dump(message)


def _decoded(model: type[_M], body: bytes) -> _M:
    try:
        return model.model_validate_json(body, by_alias=True, by_name=False)
    except ValidationError as error:
        _refuse(error)


def _refuse(error: ValidationError, *, tagged: bool = False) -> NoReturn:
    first = error.errors(include_url=False, include_input=False)[0]
    raise InvalidArgumentError(_reason(first), field=_field(first, tagged=tagged)) from error


def _reason(details: ErrorDetails) -> str:
    if details["type"] == "json_invalid":
        context: dict[str, Any] = details.get("ctx", {})
        return f"is not JSON: {context.get('error', details['msg'])}"
    if details["type"].startswith("union_tag"):
        return f"must be one of {', '.join(_KINDS)}"
    if details["type"] == "extra_forbidden":
        return "is no member of this body"
    return details["msg"].removeprefix("Value error, ")


def _field(details: ErrorDetails, *, tagged: bool) -> str:
    where = [str(part) for part in details["loc"]]
    # A discriminated body puts the kind in front of its members.
    if tagged and where and where[0] in _KINDS:
        where = where[1:]
    if where:
        return ".".join(where)
    return "kind" if details["type"].startswith("union_tag") else "body"
