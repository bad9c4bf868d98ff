"""Routes that decode their own bodies, the schemas that document them all the same, and what such routes share.

FastAPI solves dependencies and validates models on every request, which costs more than our whole hot path. A
``RawRoute`` hands the endpoint the request and sends the response that it returns; the framework still routes it,
documents it, and turns its errors into problems.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from hashlib import blake2b
from typing import Any, Final

from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

from arcray.core.errors import InvalidArgumentError
from arcray.wire.headers import header
from arcray.wire.problem import MEDIA_TYPE

__all__ = ["RawRoute", "idempotency", "json_answer", "json_body", "json_response", "problems", "schema_of"]

_KEY_LIMIT: Final = 255


class _Anything(Convertor[str]):
    # Starlette's own for paths stops at a line's end, which names of files may have.
    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anything", _Anything())  # in routes: /files/{path:anything}


class RawRoute(APIRoute):
    """A route whose endpoint is ``async (Request) -> Response``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns the endpoint itself."""
        endpoint: Callable[[Request], Awaitable[Response]] = self.endpoint

        async def handle(request: Request) -> Response:
            return await endpoint(request)

        return handle


def json_response(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Returns encoded JSON as a response."""
    return Response(body, status, headers=headers, media_type="application/json")


def idempotency(request: Request, body: bytes, fallback: str = "") -> tuple[str, str]:
    """Returns the idempotency key of a request and the digest that tells another body apart; "" and "" without a key.

    Args:
        fallback: key where the header names none.

    Raises:
        InvalidArgumentError: the key is too long.
    """
    key = header(request, b"idempotency-key") or fallback
    if len(key) > _KEY_LIMIT:
        raise InvalidArgumentError(f"may have {_KEY_LIMIT} characters", field="Idempotency-Key")
    return key, blake2b(body, digest_size=16).hexdigest() if key else ""


def json_answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Returns the OpenAPI entry of a JSON answer."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def json_body(schema: dict[str, Any], example: Any = None, *, required: bool = True) -> dict[str, Any]:
    """Returns ``openapi_extra`` for a JSON request body."""
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {"requestBody": {"required": required, "content": {"application/json": content}}}


def schema_of(wanted: type[BaseModel] | TypeAdapter[Any]) -> dict[str, Any]:
    """Returns the JSON schema of a model with its definitions written out where they are used.

    References of a schema lead to its own ``$defs``, which mean nothing inside an OpenAPI document.
    """
    if isinstance(wanted, TypeAdapter):
        schema = wanted.json_schema(by_alias=True)
    else:
        schema = wanted.model_json_schema(by_alias=True)
    definitions = schema.pop("$defs", {})
    expanded: dict[str, Any] = _expanded(schema, definitions)
    return expanded


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns the ``responses`` entry of error statuses."""
    return {status: {"description": _MEANINGS[status], "content": {MEDIA_TYPE: {}}} for status in statuses}


_MEANINGS = {
    400: "The request is malformed; `field` names where.",
    401: "A valid key is needed.",
    402: "The account has too few credits, or would pass its spending limit; `field` says which.",
    403: "This key may not do that.",
    404: "No such thing, or not of this account.",
    409: "The thing is not in a state that allows this.",
    413: "The body is larger than this server accepts.",
    422: "The idempotency key came with another body, or nothing here can express the request.",
    429: "A limit was reached; try again after Retry-After.",
    500: "The server failed; its log has the details.",
    502: "The model failed on this request.",
    503: "Nothing can take this now; try again after Retry-After.",
    504: "No answer in time; the outcome is unknown.",
}


def _expanded(schema: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_expanded(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref")
    if reference is not None:
        return _expanded(definitions[reference.rpartition("/")[2]], definitions)
    # A discriminator's mapping repeats references that oneOf already has.
    return {
        name: _expanded(value, definitions)
        for name, value in schema.items()
        if not (name == "discriminator" and isinstance(value, dict))
    }
