"""Start and end: ``up`` brings a whole arcray to readiness in this process's Ray, ``down`` takes it away again.

What lives here: the order of things and what runs beside what. Starting is mostly waiting for processes, so the
scheduler actor starts while Serve does, and this process imports the gateway while Ray starts.
"""

from __future__ import annotations

import concurrent.futures
import http.client
import importlib
import logging
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import count
from typing import Any, Final

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from arcray.config import Settings
from arcray.core.errors import DeadlineExceededError, InvalidArgumentError, UnavailableError
from arcray.drivers.ray_actor import NAMESPACE
from arcray.runtime.ports_check import claim_ports
from arcray.runtime.scheduler_handle import SCHEDULER

__all__ = ["APPLICATION", "Arcray", "up"]

_log = logging.getLogger(__name__)

APPLICATION: Final = "arcray"
"""Name of the Serve application."""

_GATEWAY: Final = "arcray.gateway.app"  # deployed by its import path, as `serve deploy` does: it is a layer above

_READY_TIMEOUT_S: Final = 120.0
_POLL_S: Final = 0.05
_LOOKS_PER_STATUS: Final = 20  # Serve is asked once a second, the listener more often
_STOP_TIMEOUT_S: Final = 20.0
_GRAFANA: Final = "http://127.0.0.1:3001"  # Ray's default is port 3000, which a protocol owns


def up(
    settings: Settings,
    *,
    address: str | None = None,
    dashboard: bool = True,
    ray_options: Mapping[str, Any] | None = None,
) -> Arcray:
    """Starts arcray and returns once it serves.

    Args:
        address: of a running Ray cluster to join ("auto" finds the local one); None starts one in this process.
        dashboard: whether a Ray that is started here has its dashboard.
        ray_options: further arguments of ``ray.init``.

    Raises:
        ConflictError: a port is held by another process, or by another arcray that may still be starting.
        InvalidArgumentError: what was given is no address.
        UnavailableError: Ray cannot be reached or started.
        DeadlineExceededError: it did not become ready in time; says what was missing.
    """
    deployed = address is not None and _join_ray(address, ray_options or {})
    with ExitStack() as claims, concurrent.futures.ThreadPoolExecutor(1) as beside:
        if not deployed:
            claims.enter_context(claim_ports(settings.gateway))
        imported = beside.submit(importlib.import_module, _GATEWAY)  # takes half a second, while Ray starts processes
        if address is None:
            _start_ray(dashboard, ray_options or {})
        arcray = Arcray(settings, owns_ray=address is None, ports=claims.pop_all())
        try:
            gateway = imported.result()
            _start_scheduler(settings)
            serve.start(
                proxy_location="HeadOnly",
                http_options={"host": settings.gateway.host, "port": settings.gateway.serve_port},
            )
            target = gateway.app(gateway.GatewayArgs(settings=settings.model_dump(mode="json")))
            # Where nothing served before, our own probe tells sooner than Serve's, which looks once a second.
            serve.run_many(
                [serve.RunTarget(target, name=APPLICATION, route_prefix="/")], wait_for_applications_running=deployed
            )
            _wait_ready(settings)
        except BaseException:
            arcray.abandon()
            raise
    return arcray


class Arcray:
    """A running arcray.

    Args:
        owns_ray: whether Ray ends with it.
        ports: its claims to them, given up at its end.
    """

    def __init__(self, settings: Settings, *, owns_ray: bool, ports: ExitStack) -> None:
        self._settings = settings
        self._owns_ray = owns_ray
        self._ports = ports

    @property
    def url(self) -> str:
        """Where its HTTP API is reached."""
        return f"http://{self._settings.gateway.authority}"

    def down(self) -> int:
        """Ends it: the gateway drains, nodes end programs and models and tell, the scheduler commits, then Ray.

        Containers run on, so that arcray can be upgraded under work that takes days: the next ``up`` from the same
        state directory goes on with them. Those that were asked to end do end.

        Returns:
            How many containers run on, of the nodes that could still be asked.
        """
        with self._ports:
            return self._end() if ray.is_initialized() else 0

    def abandon(self) -> None:
        """Ends what has started of it; why not all of it could is told by whoever calls, and not hidden by this."""
        try:
            self.down()
        except Exception:  # noqa: BLE001 - it would take the place of the reason
            _log.exception("not everything ended well")

    def _end(self) -> int:
        left = 0
        try:
            _delete_application()
            for name in sorted(_our_actors(), key=lambda each: each == SCHEDULER):  # the scheduler last
                left += _stop_actor(name)
        except RayError as error:
            _log.warning("not everything ended well", extra={"reason": str(error)})
        finally:
            if self._owns_ray:
                _stop_serve()
            ray.shutdown()
        return left


def _start_scheduler(settings: Settings) -> None:
    from arcray.runtime.scheduler_actor import create_scheduler  # the gateway's import has brought it

    create_scheduler(settings)


def _start_ray(dashboard: bool, options: Mapping[str, Any]) -> None:
    os.environ.setdefault("RAY_GRAFANA_HOST", _GRAFANA)
    # Ray runs its workers at nice 15. Ours decide and answer for the whole pool: behind any busy program of the same
    # machine they would starve (measured: half the requests per second beside one busy process).
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        ray.init(address="local", include_dashboard=dashboard, namespace=NAMESPACE, **options)
    except (RayError, RuntimeError, ConnectionError) as error:
        raise UnavailableError(f"Ray cannot be started: {error}") from error


def _join_ray(address: str, options: Mapping[str, Any]) -> bool:
    """Joins a Ray cluster; returns whether arcray is deployed there, so that its ports are ours already."""
    try:
        ray.init(address=address, namespace=NAMESPACE, **options)
    except (RayError, RuntimeError, ConnectionError) as error:
        raise UnavailableError(f"no Ray cluster at {address}: {error}") from error
    except ValueError as error:
        raise InvalidArgumentError(f"{address} is no address: {error}", field="address") from error
    return APPLICATION in serve.status().applications


def _wait_ready(settings: Settings) -> None:
    """Returns once the gateway reaches the scheduler."""
    began = time.monotonic()
    looks = count()
    reason = ""
    while time.monotonic() - began < _READY_TIMEOUT_S:
        if next(looks) % _LOOKS_PER_STATUS == 0:
            _raise_if_failed()
        try:
            connection = http.client.HTTPConnection(settings.gateway.authority, timeout=10)
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            reason = answer.read().decode(errors="replace")
            if answer.status == http.HTTPStatus.OK:
                return
        except (OSError, http.client.HTTPException) as error:
            reason = str(error)
        finally:
            connection.close()
        time.sleep(_POLL_S)
    raise DeadlineExceededError(f"arcray is not ready after {_READY_TIMEOUT_S:g} s: {reason}")


def _raise_if_failed() -> None:
    application = serve.status().applications.get(APPLICATION)
    if application is not None and application.status is ApplicationStatus.DEPLOY_FAILED:
        raise UnavailableError(f"the gateway cannot be deployed: {application.message}")


def _delete_application() -> None:
    try:
        serve.delete(APPLICATION)
    except (RayError, RayServeException, RuntimeError) as error:  # the second: Serve has not started, or has ended
        _log.warning("gateway not drained", extra={"reason": str(error)})


def _stop_serve() -> None:
    """Ends Serve as ``serve.shutdown`` does, without the retries of its one call.

    The controller answers that call by ending itself, and says so by no other means. Serve allows infinite retries, so
    Ray takes the end for a failure and prints that the call will be tried again.
    """
    try:
        controller: Any = ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)
    except ValueError:
        return  # it has not started
    try:
        ray.get(controller.graceful_shutdown.options(max_task_retries=0).remote(), timeout=_STOP_TIMEOUT_S)
    except RayActorError:
        pass  # it has ended
    except (RayError, TimeoutError) as error:
        _log.warning("Serve ended without its clean-up", extra={"reason": str(error)})


def _our_actors() -> list[str]:
    named: list[dict[str, str]] = ray.util.list_named_actors(all_namespaces=True)
    return [each["name"] for each in named if each["namespace"] == NAMESPACE and each["name"].startswith("arcray-")]


def _stop_actor(name: str) -> int:
    """Ends an actor; returns how many containers it leaves running."""
    try:
        actor: Any = ray.get_actor(name, NAMESPACE)
        try:
            left: int | None = ray.get(actor.stop.remote(), timeout=_STOP_TIMEOUT_S)  # the scheduler has none
        finally:
            ray.kill(actor, no_restart=True)
    except (RayError, ValueError, TimeoutError) as error:
        _log.warning("actor ended without its clean-up", extra={"actor": name, "reason": str(error)})
        return 0
    return left or 0
