"""cluster.yaml against Ray's own rules. Importing Ray takes a second; no cluster is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler._private.util import fillout_defaults, prepare_config, validate_config

ROOT = Path(__file__).parents[2]


def config() -> dict[str, Any]:
    tree = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    assert isinstance(tree, dict)
    return tree


def test_ray_accepts_the_cluster_file() -> None:
    prepared = prepare_config(config())
    validate_config(prepared)
    assert len(prepared["provider"]["worker_ips"]) == prepared["max_workers"]


def test_cloud_variant_of_the_comment_is_accepted_too() -> None:
    lines = (ROOT / "cluster.yaml").read_text(encoding="utf-8").splitlines()
    start = lines.index("# provider:")
    tree = {**config(), **yaml.safe_load("\n".join(line.removeprefix("# ") for line in lines[start:]))}
    del tree["min_workers"]
    tree["max_workers"] = 4
    validate_config(fillout_defaults(tree))


def test_every_machine_runs_the_same_checkout() -> None:
    tree = config()
    assert tree["file_mounts"] == {"~/arcray": ".", "~/.ray/auth_token": "~/.ray/auth_token"}
    commands = [*tree["setup_commands"], *tree["head_start_ray_commands"], *tree["worker_start_ray_commands"]]
    assert all("~/arcray" in command for command in commands)
    joining = [command for command in commands if " up " in command or "ray start" in command]
    assert len(joining) == 3
    assert all(command.startswith("RAY_AUTH_MODE=token ") for command in joining)
