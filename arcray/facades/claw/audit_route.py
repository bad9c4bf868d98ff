"""``GET /api/v1/audit``: the audit log of work of every protocol, as the document's ``WorkloadEvent``.

Source: claw-proto API Reference, "Events".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from arcray import claw_proto as claw
from arcray.core.audit_log import AuditCursor, AuditPage, ReadAudit
from arcray.core.errors import InvalidArgumentError
from arcray.core.ids import NodeId, WorkloadId, canonical_uuid
from arcray.core.keys import Scope
from arcray.core.queries import PAGE_LIMIT
from arcray.facades.claw.audit import audited
from arcray.wire.access import Door, identity_of
from arcray.wire.facade import FacadeContext
from arcray.wire.routes import json_answer, json_response, problems

__all__ = ["AuditRoute"]

_EVENT: Final = claw.codec_of(claw.WorkloadEvent)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_CURSOR: Final = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")
_NULLABLE_TEXT: Final[dict[str, Any]] = {"type": ["string", "null"]}
_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "events": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "kind": {"description": "`created`, `started`, or an object of one: `scheduled`, `stopped`, …"},
                    "workload_id": {"type": "string", "format": "uuid"},
                    "metadata": {
                        "type": "object",
                        "properties": {
                            "message": _NULLABLE_TEXT,
                            "exit_code": {"type": ["integer", "null"]},
                            "error": _NULLABLE_TEXT,
                            "gpu_ids": {"type": "array", "items": {"type": "integer"}},
                            "node_id": _NULLABLE_TEXT,
                        },
                    },
                    "timestamp": {"type": "string", "format": "date-time"},
                },
            },
        },
        "nextCursor": _NULLABLE_TEXT,
    },
}


class AuditRoute:
    """The route over one context."""

    def __init__(self, context: FacadeContext) -> None:
        self._context = context

    def add_to(self, router: APIRouter) -> None:
        """Adds the route."""
        router.add_api_route(
            "/api/v1/audit",
            Door(self._context.authenticator)(Scope.READ, self.index),
            methods=["GET"],
            tags=["audit"],
            summary="List what happened to work",
            response_class=Response,
            responses={200: json_answer("One page, oldest first.", _SCHEMA), **problems(400, 401, 403, 503)},
        )

    async def index(
        self,
        request: Request,
        *,
        workload: Annotated[str, Query(max_length=64, description="only what happened to this workload")] = "",
        node: Annotated[str, Query(max_length=64, description="only what happened on this node")] = "",
        since: Annotated[str, Query(max_length=64, description="only then or later; RFC 3339")] = "",
        cursor: Annotated[str, Query(max_length=64, description="`nextCursor` of the page before")] = "",
        limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 100,
    ) -> Response:
        """Lists submissions, placements, starts and ends of all work but inference; `nextCursor` is null at the end."""
        page: AuditPage = await self._context.plane.query(
            ReadAudit(
                account=identity_of(request).sees,
                workload_id=WorkloadId(canonical_uuid(workload, "workload")) if workload else None,
                node_id=NodeId(canonical_uuid(node, "node")) if node else None,
                since=_time(since) if since else None,
                after=_cursor(cursor) if cursor else None,
                limit=limit,
            )
        )
        told = (audited(event) for event in page.events)
        events = ",".join(_EVENT.to_json(event) for event in told if event is not None)
        following = "null" if page.next is None else f'"{_text(page.next)}"'
        return json_response(f'{{"events":[{events}],"nextCursor":{following}}}'.encode())


def _time(text: str) -> datetime:
    try:
        return claw.Timestamp.parse(text).at
    except claw.ProtoError as error:
        raise InvalidArgumentError(error.message, field="since") from error


def _cursor(text: str) -> AuditCursor:
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise InvalidArgumentError("is not the nextCursor of a page", field="cursor")
    try:
        at = _EPOCH + timedelta(microseconds=int(found[1]))
    except OverflowError as error:
        raise InvalidArgumentError("is not the nextCursor of a page", field="cursor") from error
    return AuditCursor(at=at, seq=int(found[2]))


def _text(cursor: AuditCursor) -> str:
    return f"{(cursor.at - _EPOCH) // _MICROSECOND}-{cursor.seq}"
