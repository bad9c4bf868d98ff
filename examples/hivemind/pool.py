"""A HiveMind pool as a user of it sees it: the protocol's own calls, each with what it refuses as an error."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

import grpc

from arcray.core.errors import UnavailableError
from arcray.facades.hivemind.contract import nodepool_pb2 as messages
from examples.digits.promises import require

__all__ = ["Pool", "User"]

_TIMEOUT_S: Final = 30.0


class Pool:
    """A connection to a pool. Use it as a context manager.

    Args:
        address: ``host:port``.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def user(self, name: str) -> User:
        """Registers a user under a new name that begins so, and logs them in."""
        user = User(self, f"{name}-{secrets.token_hex(3)}", secrets.token_urlsafe())
        user.join()
        return user

    def health(self, node_id: str) -> str:
        """Returns how a machine does: healthy, offline or not_found."""
        return str(self.call("NodeManagerService", "HealthCheck", node_id=node_id).status)

    def call(self, service: str, method: str, token: str = "", **fields: Any) -> Any:
        """Calls a method; returns its answer, and raises what it refuses.

        Args:
            token: of the user who calls, in the metadata.

        Raises:
            UnwellError: it was refused.
            UnavailableError: there is no answer.
        """
        contract = messages.DESCRIPTOR.services_by_name[service].methods_by_name[method]
        request: Callable[..., Any] = getattr(messages, contract.input_type.name)
        response: Any = getattr(messages, contract.output_type.name)
        stub: Any = self._channel.unary_unary(
            f"/{contract.containing_service.full_name}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        try:
            answer = stub(request(**fields), timeout=_TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            told: Any = error  # is the call as well, which the stubs do not say
            raise UnavailableError(f"{self.address} does not answer {method}: {told.details()}") from error
        require(getattr(answer, "success", True), f"{method}: {getattr(answer, 'message', '')}")
        return answer


class User:
    """A user of a pool.

    Attributes:
        name, password: what they log in with.
    """

    def __init__(self, pool: Pool, name: str, password: str) -> None:
        self.name = name
        self.password = password
        self._pool = pool
        self._token = ""

    def join(self) -> None:
        """Registers, and logs in."""
        shown = {"username": self.name, "password": self.password}
        self._pool.call("UserService", "Register", **shown)
        self._token = self._pool.call("UserService", "Login", **shown).token

    def balance(self) -> int:
        """Returns the credits that they may spend."""
        return int(self._ask("UserService", "GetBalance", username=self.name).balance)

    def upload(self, task_id: str, program: bytes, **wanted: int) -> None:
        """Hands a task in.

        Args:
            program: Python source, or a zip archive of it.
            wanted: what it asks of its machine, as fields of the request.
        """
        self._ask("MasterNodeService", "UploadTask", task_id=task_id, task_data=program, user_id=self.name, **wanted)

    def poll(self, task_id: str) -> tuple[str, list[str]]:
        """Returns a task's status and the last lines of its output."""
        answer = self._ask("MasterNodeService", "PollTaskStatus", task_id=task_id)
        return answer.status, list(answer.output)

    def result(self, task_id: str) -> bytes:
        """Returns a zip of what a task left."""
        return bytes(self._ask("MasterNodeService", "GetTaskResult", task_id=task_id).result_data)

    def tasks(self) -> dict[str, Any]:
        """Returns the user's tasks, by id: their nodes and times."""
        return {task.task_id: task for task in self._ask("MasterNodeService", "GetAllTasks").tasks}

    def _ask(self, service: str, method: str, **fields: Any) -> Any:
        return self._pool.call(service, method, self._token, **fields)
