from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema
from yaml import safe_load

from arcray.core.errors import InvalidArgumentError
from arcray.gateway.app import GatewayArgs, app

CONFIGS = sorted((Path(__file__).parents[3] / "serve_configs").glob("*.yaml"))


def deployment_of(args: GatewayArgs) -> object:
    return app(args)._bound_deployment  # what Serve would deploy


def test_the_deployment_is_fixed_in_size_and_replaced_without_a_gap() -> None:
    bound = deployment_of(GatewayArgs(settings={"gateway": {"replicas": 3, "drain_s": 2.0}}))
    config = bound._deployment_config  # type: ignore[attr-defined]  # Serve shows it nowhere else
    assert (config.num_replicas, config.autoscaling_config, config.max_surge_percent) == (3, None, 100)
    assert config.graceful_shutdown_timeout_s > 2.0
    assert bound.ray_actor_options["num_cpus"] == 0  # type: ignore[attr-defined]  # same


def test_arguments_are_checked_before_anything_is_deployed() -> None:
    with pytest.raises(ValidationError):
        GatewayArgs.model_validate({"setings": {}})
    with pytest.raises(InvalidArgumentError, match="replicas"):
        app(GatewayArgs(settings={"gateway": {"replicas": 0}}))


def test_an_open_gateway_binds_loopback_only() -> None:
    with pytest.raises(InvalidArgumentError, match="loopback"):
        app(GatewayArgs(settings={"gateway": {"host": "0.0.0.0"}}))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_serve_config_of_ours_is_valid_and_builds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCRAY_AUTH__KEYS", '{"operator": "k"}')
    config = ServeDeploySchema.model_validate(safe_load(path.read_text()))
    (application,) = config.applications
    assert application.import_path == "arcray.gateway.app:app"
    app(GatewayArgs.model_validate(application.args))


def test_there_are_configs_for_a_laptop_and_for_production() -> None:
    assert [path.name for path in CONFIGS] == ["local.yaml", "production.yaml"]
