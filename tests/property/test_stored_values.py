"""What core knows comes back from the rows as it went in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from enum import Enum
from types import NoneType, UnionType
from typing import Any, NewType, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arcray.control.ledger_rows import account_row, key_row
from arcray.control.rows import (
    decode_event,
    decode_row,
    durable_node,
    event_row,
    model_row,
    node_row,
    quota_row,
    workload_row,
)
from arcray.core.events import Event, WorkloadFinished
from arcray.core.keys import ApiKey
from arcray.core.ledger import Account, SpendingLimit, durable_account
from arcray.core.model import Model
from arcray.core.node import Node
from arcray.core.quota import AccountQuota, Quota
from arcray.core.resources import Demand
from arcray.core.tariff import Tariff
from arcray.core.workload import Inference, Workload, WorkloadSpec
from arcray.testing.builders import a_workload, an_inference

TEXTS = st.text(max_size=12)
LIMITS = st.none() | st.integers(0, 2**53 - 1)
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    bytes: TEXTS.map(str.encode),
    bool: st.booleans(),
    int: st.integers(-(2**53), 2**53),
    float: st.floats(allow_nan=False),
    NoneType: st.none(),
    datetime: st.datetimes(min_value=datetime(1900, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - it asks for naive
    Demand: st.builds(
        Demand,
        cpu_milli=st.integers(0, 2**53 - 1),
        memory_bytes=st.integers(0, 2**53 - 1),
        gpus=st.integers(1, 64),
        gpu_memory_bytes=st.none() | st.integers(1, 2**40),
    ),
    Tariff: st.builds(
        Tariff,
        start=st.integers(0, 10**12),
        minute=st.integers(0, 10**12),
        owned_minute=st.none() | st.integers(0, 10**12),
        step_s=st.integers(1, 86_400),
    ),
    SpendingLimit: st.builds(
        SpendingLimit, credits=st.integers(0, 2**53 - 1), period_s=st.integers(1, 10 * 366 * 86_400)
    ),
    Quota: st.builds(
        Quota,
        workloads=LIMITS,
        cpu_milli=LIMITS,
        memory_bytes=LIMITS,
        gpus=LIMITS,
        pending=st.none() | st.integers(1, 2**53 - 1),
    ),
}


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    """Returns a strategy for all values of an annotation."""
    if annotation in SCALARS:
        return SCALARS[annotation]
    if isinstance(annotation, NewType):
        return values_of(annotation.__supertype__)
    if get_origin(annotation) is not None:
        return values_of_generic(get_origin(annotation), get_args(annotation))
    if issubclass(annotation, Enum):
        return st.sampled_from(annotation)
    hints = get_type_hints(annotation)
    return st.builds(annotation, **{field.name: values_of(hints[field.name]) for field in fields(annotation)})


def values_of_generic(origin: Any, arguments: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    if origin in (Union, UnionType):
        return st.one_of(*map(values_of, arguments))
    if origin is tuple and arguments[-1] is ...:
        return st.lists(values_of(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values_of, arguments))
    if origin is frozenset:
        return st.frozensets(values_of(arguments[0]), max_size=3)
    assert origin is Mapping, origin
    return st.dictionaries(*map(values_of, arguments), max_size=2)


def without_output(value: Any) -> Any:
    """Returns a value as it is stored: an answer that its sender waits for goes to the sender alone."""
    waited = value.spec.waiting if isinstance(value, Workload) else value.spec is not None
    return replace(value, result=replace(value.result, output=None)) if value.result and waited else value


@pytest.mark.parametrize("kind", get_args(Event), ids=lambda kind: kind.__name__)
def test_every_event_comes_back_as_it_was(kind: type) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(values_of(kind))
    def comes_back(event: Any) -> None:
        if isinstance(event, WorkloadFinished):
            event = replace(event, spec=None)  # with a spec its row says it all, see the next test
        row = event_row(event)
        assert decode_event(str(row["kind"]), str(row["body"])) == event

    comes_back()


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values_of(WorkloadFinished), values_of(WorkloadSpec))
def test_the_one_event_of_a_request_whose_sender_waited_comes_back_from_its_row(
    event: WorkloadFinished, spec: WorkloadSpec
) -> None:
    spec = replace(spec, waiting=True)
    event = replace(event, spec=spec, workload_id=spec.id)
    workload = Workload(
        spec=spec, phase=event.phase, attempt=event.attempt, message=event.message, result=event.result,
        node_id=event.node_id, placed_at=event.placed_at, started_at=event.started_at, finished_at=event.at,
    )  # fmt: skip
    row = event_row(event)
    told = decode_event(str(row["kind"]), str(row["body"]), str(workload_row(workload)["body"]))
    assert (row["body"], told) == ("", without_output(event))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values_of(Workload))
def test_every_workload_comes_back_as_it_was(workload: Workload) -> None:
    assert decode_row(Workload, "w", str(workload_row(workload)["body"])) == without_output(workload)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values_of(Node))
def test_every_node_comes_back_as_what_is_durable_of_it(node: Node) -> None:
    assert decode_row(Node, "n", str(node_row(node)["body"])) == durable_node(node)


@settings(max_examples=50, deadline=None)
@given(values_of(Model))
def test_every_model_comes_back_as_it_was(model: Model) -> None:
    assert decode_row(Model, "m", str(model_row(model)["body"])) == model


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values_of(Account), values_of(ApiKey))
def test_every_account_and_key_comes_back_as_what_is_durable_of_it(account: Account, key: ApiKey) -> None:
    assert decode_row(Account, "a", str(account_row(account)["body"])) == durable_account(account)
    assert decode_row(ApiKey, "k", str(key_row(key)["body"])) == key


@settings(max_examples=50, deadline=None)
@given(values_of(AccountQuota))
def test_every_quota_comes_back_as_it_was(quota: AccountQuota) -> None:
    assert decode_row(AccountQuota, "q", str(quota_row(quota)["body"])) == quota


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(), min_size=1, max_size=8), st.binary(max_size=8))
def test_text_that_is_no_unicode_is_stored_escaped(text: str, data: bytes) -> None:
    workload = Workload(spec=a_workload(payload=an_inference(input=data), request_id=text), message=text)
    row = workload_row(workload)
    for column in row.values():
        str(column).encode()  # every driver can bind it
    decoded = decode_row(Workload, "w", str(row["body"]))
    assert decoded.message == text.encode("utf-8", "backslashreplace").decode()
    assert isinstance(decoded.spec.payload, Inference)
    assert decoded.spec.payload.input == data.decode("utf-8", "backslashreplace").encode()
