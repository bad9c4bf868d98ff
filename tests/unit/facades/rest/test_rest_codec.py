"""Anything that comes in is a message or an InvalidArgumentError that names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from arcray.core.errors import InvalidArgumentError
from arcray.core.workload import RestartRule
from arcray.facades.rest.codec import decode_model, decode_stop, decode_submission
from arcray.facades.rest.messages import ContainerBody, PortBody, StopBody


def program(**members: Any) -> bytes:
    return json.dumps({"kind": "program", "source": "x"} | members).encode()


def container(**members: Any) -> bytes:
    return json.dumps({"kind": "container", "image": "busybox"} | members).encode()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"[]", "body"),
        (b'{"kind":"program","source":"\\ud800"}', "body"),
        (b'{"kind":"program","demand":{"cpu":NaN}}', "demand.cpu"),
        (b"{}", "kind"),
        (b'{"kind":"job"}', "kind"),
        (program(args="x"), "args"),
        (program(args=[1]), "args.0"),
        (program(args=["a\0b"]), "args.0"),
        (program(env={"A": 1}), "env.A"),
        (program(env={"A=B": "1"}), "env"),
        (program(args=["a" * 131_072] * 9), "args"),
        (program(env={f"A{number}": "a" * 131_072 for number in range(9)}), "env"),
        (program(archive="***"), "archive"),
        (program(archive=5), "archive"),
        (program(demand={"cpu": "1"}), "demand.cpu"),
        (program(demand={"cpu": -1}), "demand.cpu"),
        (program(demand={"memoryMb": 1.5}), "demand.memoryMb"),
        (program(demand={"gpus": 65}), "demand.gpus"),
        (program(demand={"gpus": True}), "demand.gpus"),
        (program(priority="urgent"), "priority"),
        (program(restartPolicy="sometimes"), "restartPolicy.rule"),
        (program(restartPolicy={"rule": "never", "maxRestarts": -1}), "restartPolicy.maxRestarts"),
        (program(maxDurationS=0), "maxDurationS"),
        (program(name="n" * 129), "name"),
        (program(preemptible=1), "preemptible"),
        (program(gang="g"), "gang"),
        (program(gang={"id": "g"}), "gang.size"),
        (program(gang={"id": "", "size": 2}), "gang.id"),
        (program(gang={"id": "g", "size": 0}), "gang.size"),
        (program(gang={"id": "g", "size": 2, "layout": "line"}), "gang.layout"),
        (program(reservationId=""), "reservationId"),
        (container(image=""), "image"),
        (container(ports=[70_000]), "ports.0.containerPort"),
        (container(ports=[{"hostPort": 1}]), "ports.0.containerPort"),
        (container(volumes=[{"source": "/a"}]), "volumes.0.target"),
    ],
)
def test_wrong_member_of_a_submission_is_named(body: bytes, field: str) -> None:
    with pytest.raises(InvalidArgumentError) as refusal:
        decode_submission(body)
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "n" * 129}, "name"),
        ({"format": "gguf"}, "format"),
        ({"replicas": -1}, "replicas"),
        ({"replicas": 1.5}, "replicas"),
        ({"maxConcurrency": 0}, "maxConcurrency"),
        ({"fromWorkload": {"id": "x"}}, "fromWorkload.path"),
        ({"fromWorkload": "x"}, "fromWorkload"),
        ({"content": "%"}, "content"),
    ],
)
def test_wrong_member_of_a_model_is_named(members: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as refusal:
        decode_model(json.dumps({"name": "m", "format": "python", "source": "a:b"} | members).encode())
    assert refusal.value.field == field


def test_members_have_wire_names_only_and_unknown_ones_are_ignored() -> None:
    found = decode_submission(program(max_duration_s=5, future={"x": 1}, maxDurationS=7))
    assert found.max_duration_s == 7.0


def test_short_forms_are_understood() -> None:
    found = decode_submission(container(ports=[80, {"containerPort": 443, "hostPort": 8443}], restartPolicy="always"))
    assert isinstance(found, ContainerBody)
    assert found.ports == [PortBody(container_port=80), PortBody(container_port=443, host_port=8443)]
    assert found.restart_policy is not None
    assert (found.restart_policy.rule, found.restart_policy.max_restarts) == (RestartRule.ALWAYS, 3)


def test_stop_without_a_body_takes_the_default_grace() -> None:
    assert decode_stop(b"") == decode_stop(b" \n") == decode_stop(b"{}") == StopBody(grace_s=10.0)
    assert decode_stop(b'{"graceS":0}').grace_s == 0.0
    with pytest.raises(InvalidArgumentError) as refusal:
        decode_stop(b'{"graceS":-1}')
    assert refusal.value.field == "graceS"
