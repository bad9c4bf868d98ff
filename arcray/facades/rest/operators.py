"""Who may change what belongs to everybody: nodes, quotas."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from arcray.core.errors import PermissionDeniedError
from arcray.wire.facade import FacadeContext
from arcray.wire.identity import Identity, Scope

__all__ = ["require_operator"]


def require_operator(context: FacadeContext, connection: HTTPConnection) -> Identity:
    """Returns who calls, who is an operator.

    Raises:
        UnauthenticatedError: the key is missing or wrong.
        PermissionDeniedError: the key is not an operator's.
    """
    identity = context.authenticator.identify(connection)
    if identity.scope is not Scope.ADMIN:
        raise PermissionDeniedError
    return identity
