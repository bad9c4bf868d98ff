"""HiveMind's descriptor: its lease terms, and what it serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from arcray.facades.hivemind.callers import Callers
from arcray.facades.hivemind.calls import Surface
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.passwords import Passwords
from arcray.facades.hivemind.refusals import Subject
from arcray.facades.hivemind.tasks import FACADE as NAME
from arcray.facades.hivemind.token_key import token_key
from arcray.facades.hivemind.tokens import Tokens
from arcray.facades.hivemind.user_service import UserService
from arcray.facades.hivemind.worker_channel import GrpcChannel
from arcray.facades.hivemind.worker_link import Limits
from arcray.facades.hivemind.worker_links import WorkerLinks
from arcray.facades.hivemind.worker_service import WorkerService
from arcray.facades.hivemind.workers import LEASE
from arcray.wire.facade import Facade, FacadeContext, FacadeEndpoints
from arcray.wire.identity import LOCAL

__all__ = ["FACADE"]

_UNPACKED_BYTES: Final = 256 << 20  # of one result; they are in memory until they are stored


def _open(context: FacadeContext) -> FacadeEndpoints:
    settings = context.settings
    own = settings.hivemind
    tokens = Tokens(token_key(own, settings.state_dir), own.token_lifetime_s)
    callers = Callers(tokens, strict=own.strict)
    surface = Surface(callers, context.clock)
    users = UserService(
        context.plane,
        context.ids,
        callers,
        tokens,
        passwords=Passwords(),
        initial_balance=own.initial_balance,
        reserved={LOCAL.account, settings.ledger.operator_account, *settings.auth.keys},
        max_hashing=own.max_hashing,
    )
    links = WorkerLinks(
        context.plane,
        context.attachments,
        context.clock,
        limits=Limits(orders=own.max_dials, dial_timeout_s=own.dial_timeout_s),
        dial=GrpcChannel,
    )
    programs = settings.node.programs
    workers = WorkerService(
        context.plane,
        links,
        log_bytes=programs.log_max_bytes,
        unpacked_bytes=min(programs.max_result_bytes, _UNPACKED_BYTES),
    )
    services = [
        (pool.DESCRIPTOR.services_by_name["UserService"], users.methods(), Subject.USER),
        (pool.DESCRIPTOR.services_by_name["NodeManagerService"], workers.node_methods(), Subject.NODE),
        (pool.DESCRIPTOR.services_by_name["MasterNodeService"], workers.master_methods(), Subject.TASK),
        (pool.DESCRIPTOR.services_by_name["WorkerNodeService"], workers.worker_methods(), Subject.TASK),
    ]

    def register(server: Any) -> Sequence[str]:
        server.add_generic_rpc_handlers([surface.service(*service) for service in services])
        return [service.full_name for service, _, _ in services]

    return FacadeEndpoints(grpc=register, run=links.run, queues=links.queues)


FACADE: Final = Facade(
    name=NAME,
    summary="HiveMind: users, tasks and worker nodes over gRPC",
    lease=LEASE,
    open=_open,
)
