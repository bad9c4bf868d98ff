"""Models between REST's words and core's: where one comes from, and the work that keeps a copy of it loaded."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from arcray.core.errors import InvalidArgumentError
from arcray.core.ids import AccountId, ModelId, WorkloadId
from arcray.core.model import RESERVED_VARIABLES, Model, ModelFormat
from arcray.core.queries import ModelView
from arcray.core.resources import NO_DEMAND
from arcray.core.workload import ModelServer, Origin, Phase, RestartPolicy, RestartRule, WorkloadSpec, WorkloadView
from arcray.facades.rest import messages as m
from arcray.facades.rest.translate import (
    FACADE,
    Submission,
    demand_body,
    demand_of,
    node_id_of,
    restart_of,
    selector_of,
)

__all__ = ["model_of", "model_view", "server_of", "source_of"]

_SERVED: Final = RestartPolicy(rule=RestartRule.ON_FAILURE)
_NOT_OFFERED: Final = "its node does not offer it for now; its log says why"


def model_of(body: m.ModelBody, source: str, owner: AccountId, now: datetime) -> Model:
    """Returns the model that is registered.

    Args:
        source: ``module:name``, a URL, or the key of the file in the blob store.

    Raises:
        InvalidArgumentError: it sets a variable that nodes set themselves.
    """
    for name in body.env:
        if name in RESERVED_VARIABLES:
            raise InvalidArgumentError(f"{name} is set by the node and cannot be given", field=f"env.{name}")
    return Model(
        id=ModelId(body.name),
        format=body.format,
        source=source,
        created_at=now,
        target=body.target,
        max_concurrency=body.max_concurrency,
        demand=NO_DEMAND if body.demand is None else demand_of(body.demand),
        env=tuple(body.env.items()),
        owner=owner,
    )


def source_of(body: m.ModelBody) -> str | None:
    """Returns where a model comes from, None when that is a file which must be stored first.

    Raises:
        InvalidArgumentError: it is given twice, not at all, or not as its format wants it.
    """
    given = {"source": body.source, "content": body.content, "fromWorkload": body.from_workload}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise InvalidArgumentError(f"exactly one of {', '.join(given)} must be given", field=(named or ["source"])[-1])
    if body.format is ModelFormat.ONNX:
        if body.source is not None:
            raise InvalidArgumentError("an onnx model comes by content or fromWorkload", field="source")
        return None
    if body.source is None:
        raise InvalidArgumentError(f"a {body.format.value} model comes by source", field=named[0])
    if body.format is ModelFormat.OPENAI:
        _check_endpoint(body.source)
    return body.source


def _check_endpoint(url: str) -> None:
    """Passes the base URL of an API: what is behind its path would say what else of its host is asked."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise InvalidArgumentError("must be an http or https URL", field="source")
    if parts.username is not None or "?" in url or "#" in url:
        raise InvalidArgumentError("must be a URL without credentials, query and fragment", field="source")


def server_of(body: m.ModelBody, model: Model, submission: Submission) -> WorkloadSpec:
    """Returns the workload that keeps one copy of a model loaded.

    Raises:
        InvalidArgumentError: the selector cannot be read.
    """
    pairs, terms = selector_of(body.selector)
    return WorkloadSpec(
        id=submission.workload_id,
        origin=Origin(facade=FACADE, account=submission.account),
        payload=ModelServer(model=model),
        created_at=submission.now,
        name=body.name,
        demand=model.demand,
        restart=restart_of(body.restart_policy, _SERVED),
        selector=pairs,
        selector_terms=terms,
        node_id=node_id_of(body.node_id),
    )


def _server_view(server: WorkloadView, pids: Mapping[WorkloadId, int | None], sees: AccountId | None) -> m.ServerView:
    """Returns a copy. That there is one, and how far it has come, is everybody's to know, like the model itself."""
    shown = sees in (None, server.spec.origin.account)
    return m.ServerView(
        id=server.spec.id if shown else None,
        phase=server.phase,
        node_id=server.node_id,
        pid=pids.get(server.spec.id) if shown else None,
        message=(server.message or _silence(server, pids)) if shown else "",
        restarts=server.restarts,
    )


def _silence(server: WorkloadView, pids: Mapping[WorkloadId, int | None]) -> str:
    """Returns a word about a copy that runs and is not offered, as one whose endpoint is away; else ""."""
    return _NOT_OFFERED if server.phase is Phase.RUNNING and server.spec.id not in pids else ""


def model_view(view: ModelView, pids: Mapping[WorkloadId, int | None], sees: AccountId | None = None) -> m.ModelView:
    """Returns a model as REST shows it.

    Args:
        pids: process that answers, by the workload that keeps it.
        sees: whose copies may be told from each other; None sees all.
    """
    model = view.model
    return m.ModelView(
        name=model.id,
        owner=model.owner,
        format=model.format,
        source=model.source,
        target=model.target,
        max_concurrency=model.max_concurrency,
        demand=demand_body(model.demand),
        created_at=model.created_at,
        ready_on=list(view.ready_on),
        servers=[_server_view(server, pids, sees) for server in view.servers],
    )
