"""The descriptor of arcray's own API."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from arcray.core.node import LeaseTerms
from arcray.facades.rest.accounts import AccountRoutes
from arcray.facades.rest.dead_letters import DeadLetterRoutes
from arcray.facades.rest.keys import KeyRoutes
from arcray.facades.rest.models import ModelRoutes
from arcray.facades.rest.nodes import NodeRoutes
from arcray.facades.rest.quotas import QuotaRoutes
from arcray.facades.rest.reservations import ReservationRoutes
from arcray.facades.rest.simulations import SimulationRoutes
from arcray.facades.rest.translate import FACADE as NAME
from arcray.facades.rest.workloads import WorkloadRoutes
from arcray.wire.facade import Facade, FacadeContext, FacadeEndpoints

__all__ = ["FACADE"]


def _open(context: FacadeContext) -> FacadeEndpoints:
    router = APIRouter()
    WorkloadRoutes(context).add_to(router)
    ModelRoutes(context).add_to(router)
    AccountRoutes(context).add_to(router)
    KeyRoutes(context).add_to(router)
    ReservationRoutes(context).add_to(router)
    NodeRoutes(context).add_to(router)
    QuotaRoutes(context).add_to(router)
    DeadLetterRoutes(context).add_to(router)
    SimulationRoutes(context).add_to(router)
    return FacadeEndpoints(router=router)


FACADE: Final = Facade(
    name=NAME,
    summary="arcray's own API: programs, containers, models and their operation, accounts and keys over REST",
    lease=LeaseTerms(unhealthy_after_s=15.0, lost_after_s=150.0),  # no machine joins by it
    open=_open,
)
