"""The typed builder of the Serve application: ``import_path: arcray.gateway.app:app``.

No ``from __future__ import annotations`` here: Serve reads the builder's annotation at run time to validate ``args``,
and takes a string for no type at all.
"""

from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from arcray.config import Settings, load
from arcray.gateway.ingress import Ingress

__all__ = ["GatewayArgs", "app"]

_CLEAN_UP_S: Final = 5.0  # beside the drain: what background parts take to end


class GatewayArgs(BaseModel):
    """Arguments of the application, the ``args`` of a Serve config file.

    Args:
        config: settings file, read where the application is built; None reads none.
        settings: settings as in ``arcray.config``, laid over the file and the environment.
    """

    model_config = ConfigDict(extra="forbid")

    config: Path | None = None
    settings: dict[str, Any] = Field(default_factory=dict)


def app(args: GatewayArgs) -> serve.Application:
    """Returns the application: one deployment, ``gateway``."""
    settings = load(args.config, **args.settings)
    application: serve.Application = _deployment(settings).bind(settings)
    return application


def _deployment(settings: Settings) -> Any:
    gateway = settings.gateway
    deployment: Any = serve.deployment  # typed for use as a decorator only
    return deployment(
        serve.ingress()(Ingress),
        name="gateway",
        num_replicas=gateway.replicas,
        # Serve counts only what comes through its own port; the listeners have limits of their own.
        max_ongoing_requests=gateway.max_connections,
        max_surge_percent=100,  # the new replica listens before the old one stops
        graceful_shutdown_timeout_s=gateway.drain_s + _CLEAN_UP_S,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=5,
        ray_actor_options={"num_cpus": 0},
    )
