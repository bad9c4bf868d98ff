from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

if TYPE_CHECKING:
    from tests.embedded_cluster import Cluster

pytestmark = pytest.mark.cluster


def test_health_and_reflection_answer_on_the_grpc_port(cluster: Cluster) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{cluster.settings.gateway.grpc_port}") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        listed = next(reflection.ServerReflectionInfo(asked, timeout=20)).list_services_response
        assert "grpc.health.v1.Health" in {service.name for service in listed.service}
