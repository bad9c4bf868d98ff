"""What the settings mean to the rules."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from arcray.config import SchedulerSettings, Settings, load
from arcray.core.errors import InvalidArgumentError
from arcray.core.policy import ClusterPolicy
from arcray.core.quota import NO_QUOTA, Quota
from arcray.runtime.policy import policy_of


def policy(**scheduler: Any) -> ClusterPolicy:
    return policy_of(Settings(scheduler=SchedulerSettings(**scheduler)))


def test_settings_and_rules_have_the_same_defaults() -> None:
    assert policy() == ClusterPolicy()
    assert policy().default_quota is NO_QUOTA


def test_operations_are_set_in_seconds_cores_and_megabytes() -> None:
    found = policy(
        restart_rest_s=60,
        max_duration_s=3600,
        default_max_duration_s=600,
        overtime_grace_s=5,
        quota={"workloads": 9, "cpu": 1.5, "memory_mb": 2, "gpus": 3, "pending": 4},
    )
    assert (found.restart_rest, found.overtime_grace) == (timedelta(minutes=1), timedelta(seconds=5))
    assert (found.max_duration, found.default_max_duration) == (timedelta(hours=1), timedelta(minutes=10))
    assert found.default_quota == Quota(workloads=9, cpu_milli=1500, memory_bytes=2 << 20, gpus=3, pending=4)


@pytest.mark.parametrize(
    "scheduler",
    [{"max_duration_s": 10, "default_max_duration_s": 11}, {"quota": {"pending": 0}}, {"restart_rest_s": 0}],
)
def test_settings_that_contradict_themselves_are_refused(scheduler: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        load(None, scheduler=scheduler)
    assert str(refused.value.field).startswith("scheduler")
