"""What the settings say of prices and keys is what the rules and the gateway go by."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from arcray.config import Settings, load
from arcray.core.errors import InvalidArgumentError
from arcray.core.keys import Scope
from arcray.core.policy import ClusterPolicy
from arcray.core.tariff import FREE, Prices
from arcray.runtime.policy import policy_of


def test_nothing_costs_anything_by_default() -> None:
    found = policy_of(Settings())
    defaults = ClusterPolicy()
    assert found.prices == FREE
    assert (found.charge_period, found.operator_account, found.owner_share_percent) == (
        defaults.charge_period,
        defaults.operator_account,
        defaults.owner_share_percent,
    )


def test_prices_and_terms_reach_the_rules() -> None:
    settings = load(
        ledger={
            "prices": {"gpu_minute": 5, "inference": 1},
            "period_s": 30,
            "operator_account": "house",
            "owner_share_percent": 85,
        }
    )
    found = policy_of(settings)
    assert found.prices == Prices(gpu_minute=5, inference=1)
    assert (found.charge_period, found.operator_account) == (timedelta(seconds=30), "house")
    assert found.owner_share_percent == 85


def test_scopes_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCRAY_AUTH__KEYS", '{"root": "k"}')
    monkeypatch.setenv("ARCRAY_AUTH__SCOPES", '{"root": "admin"}')
    assert load().auth.scopes == {"root": Scope.ADMIN}


@pytest.mark.parametrize(
    ("section", "field", "reason"),
    [
        ({"auth": {"scopes": {"nobody": "admin"}}}, "auth", "nobody"),
        ({"auth": {"keys": {"n": "k"}, "scopes": {"n": "node"}}}, "auth", "issued keys"),
        ({"auth": {"keys": {"n": "k", "a": ""}}}, "auth", "key 'a' is empty"),
        ({"auth": {"keys": {"a": " k\n"}}}, "auth", "key 'a' begins or ends with a space"),
        ({"auth": {"keys": {"a": "same", "b": "other", "c": "same"}}}, "auth", "keys 'a' and 'c' are the same"),
        ({"ledger": {"prices": {"gpu_minute": -1}}}, "ledger.prices.gpu_minute", "greater than or equal to 0"),
        ({"ledger": {"owner_share_percent": 101}}, "ledger.owner_share_percent", "less than or equal to 100"),
        ({"ledger": {"operator_account": "@issuer"}}, "ledger.operator_account", "pattern"),
    ],
)
def test_a_setting_that_cannot_be_is_named(section: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(InvalidArgumentError, match=reason) as caught:
        load(**section)
    assert caught.value.field == field
