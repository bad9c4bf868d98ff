"""A no-op gRPC method in a process of its own, bare or on the gateway's listener, at ports that it prints.

python -m tests.bench.bare_grpc
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import grpc
import grpc.aio
import uvloop

from arcray.config import GatewaySettings
from arcray.gateway.rpc import RpcListener
from arcray.runtime.actors import tune_interpreter

__all__ = ["METHOD"]

METHOD: Final = "/arcray.bench.NoOp/Do"


async def _do(request: bytes, context: Any) -> bytes:
    _ = context
    return request


def _register(server: Any) -> Sequence[str]:
    service, _, method = METHOD[1:].partition("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(_do)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    return [service]


async def _serve() -> None:
    bare = grpc.aio.server()
    _register(bare)
    port = bare.add_insecure_port("127.0.0.1:0")
    await bare.start()
    listener = RpcListener([_register], GatewaySettings(), 0)
    await listener.start()
    tune_interpreter()
    print(port, listener.port, flush=True)
    await bare.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve())
