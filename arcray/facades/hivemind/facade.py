"""HiveMind's descriptor: its lease terms, and what it serves."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import ServiceDescriptor

from arcray.facades.hivemind.callers import Callers
from arcray.facades.hivemind.calls import Method, Surface
from arcray.facades.hivemind.contract import nodepool_pb2 as pool
from arcray.facades.hivemind.contract import taskworker_pb2 as taskworker
from arcray.facades.hivemind.desk import TaskDesk
from arcray.facades.hivemind.guesses import Guesses
from arcray.facades.hivemind.node_service import NodeService
from arcray.facades.hivemind.passwords import Passwords
from arcray.facades.hivemind.queues import Queue
from arcray.facades.hivemind.reasons import Reasons
from arcray.facades.hivemind.refusals import Subject
from arcray.facades.hivemind.task_files import TaskFiles
from arcray.facades.hivemind.task_service import TaskService
from arcray.facades.hivemind.tasks import FACADE as NAME
from arcray.facades.hivemind.taskworker_service import TaskWorkerService
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


@dataclass(frozen=True, slots=True)
class _Service:
    """One service of the contract.

    Args:
        subject: what its refusals are about.
        methods: of everything that answers for a part of it; no method is in two.
    """

    contract: ServiceDescriptor
    subject: Subject
    methods: tuple[Mapping[str, Method], ...]


def _open(context: FacadeContext) -> FacadeEndpoints:
    settings = context.settings
    own, is_open = settings.hivemind, settings.auth.mode == "open"
    tokens = Tokens(token_key(own, settings.state_dir), own.token_lifetime_s)
    callers = Callers(tokens, strict=not is_open if own.strict is None else own.strict)
    users = UserService(
        context.plane,
        context.ids,
        callers,
        tokens,
        passwords=Passwords(),
        guesses=Guesses(context.clock, at_once=own.guesses, per_minute=own.guesses_per_minute),
        initial_balance=own.initial_balance,
        reserved={LOCAL.account, settings.ledger.operator_account, *settings.auth.keys},
        max_hashing=own.max_hashing,
        registers=is_open if own.open_registration is None else own.open_registration,
    )
    desk = TaskDesk(
        context.plane,
        context.ids,
        context.clock,
        house_rate=own.house_rate_per_minute,
        unpacked_bytes=settings.node.programs.max_archive_bytes,
    )
    files = TaskFiles(context.plane, context.clock)
    tasks = TaskService(context.plane, callers, desk, files, Reasons(context.plane, context.clock))
    nodes = NodeService(context.plane, others=own.show_cluster_nodes)
    worker = TaskWorkerService(context.plane, desk, files, nobody=LOCAL.account)
    links = WorkerLinks(
        context.plane,
        context.attachments,
        context.clock,
        limits=Limits(orders=own.max_dials, dial_timeout_s=own.dial_timeout_s),
        dial=GrpcChannel,
    )
    programs = settings.node.programs
    told = WorkerService(
        context.plane,
        links,
        log_bytes=programs.log_max_bytes,
        unpacked_bytes=min(programs.max_result_bytes, _UNPACKED_BYTES),
    )
    contracts = {**pool.DESCRIPTOR.services_by_name, **taskworker.DESCRIPTOR.services_by_name}
    return FacadeEndpoints(
        run=links.run,
        queues=lambda: (*users.queues(), *links.queues()),
        grpc=_registration(
            Surface(callers, context.clock),
            (
                _Service(contracts["UserService"], Subject.USER, (users.methods(),)),
                _Service(contracts["NodeManagerService"], Subject.NODE, (nodes.methods(), told.node_methods())),
                _Service(contracts["MasterNodeService"], Subject.TASK, (tasks.methods(), told.master_methods())),
                _Service(contracts["WorkerNodeService"], Subject.TASK, (told.worker_methods(),)),
                _Service(contracts["TaskWorkerService"], Subject.TASK, (worker.methods(),)),
            ),
        ),
    )


def _registration(surface: Surface, services: Sequence[_Service]) -> Any:
    handlers = [surface.service(each.contract, ChainMap(*map(dict, each.methods)), each.subject) for each in services]

    def register(server: Any) -> Sequence[str]:
        server.add_generic_rpc_handlers(handlers)
        return [each.contract.full_name for each in services]

    return register


FACADE: Final = Facade(
    name=NAME,
    summary="HiveMind: users, tasks and worker nodes over gRPC",
    lease=LEASE,
    open=_open,
    queues=frozenset(Queue),
)
