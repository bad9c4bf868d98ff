"""The client: one method per thing that arcray does. Synchronous, for notebooks, scripts and the command line.

What lives here: paths and bodies of the API. What does not: repeating and errors (``transport.py``).
"""

from __future__ import annotations

import base64
import codecs
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx

from arcray.client.ledger import Accounts, Keys
from arcray.client.operations import Operations
from arcray.client.transport import RetryPolicy, Transport, body_of, new_key
from arcray.client.types import (
    Answer,
    ModelInfo,
    NodeInfo,
    ReservationInfo,
    ResultFile,
    WorkloadInfo,
    WorkOptions,
    demand_body,
)
from arcray.core.errors import ConflictError, DeadlineExceededError, InternalError, InvalidArgumentError
from arcray.core.resources import NO_DEMAND, Demand
from arcray.core.workload import Priority, VolumeMount

__all__ = ["Client"]

_View = TypeVar("_View")
_PAGE = 100
_PLAIN = WorkOptions()


class Client:
    """A connection to one arcray.

    Use it as a context manager, or call ``close``. Every method raises the ``ArcrayError`` that the server's answer
    names, ``UnavailableError`` when there is no server, and ``DeadlineExceededError`` when it does not answer in time.

    Args:
        url: base URL of any gateway.
        api_key: identity, where the server asks for one.
        timeout_s: longest wait for one answer.
        transport: replaces the network, for tests.
        sleep: waits, for tests.

    Attributes:
        accounts, keys: what there is to do with accounts and their credits, and with API keys.
        operations: nodes, quotas, dead letters, simulations: what operators do.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        api_key: str | None = None,
        *,
        timeout_s: float = 60.0,
        retry: RetryPolicy | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._sleep = sleep
        self._transport = Transport(
            self.url, api_key=api_key, timeout_s=timeout_s, retry=retry, transport=transport, sleep=sleep
        )
        self.accounts = Accounts(self._transport)
        self.keys = Keys(self._transport)
        self.operations = Operations(self._transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    # The pool.

    def ready(self) -> bool:
        """Makes sure that the server can take work; returns True.

        Raises:
            UnavailableError: not now; says what is missing.
            InternalError: it is not arcray that answers there.
        """
        if self._get("/readyz").get("status") != "ready":
            raise InternalError(f"{self.url}/readyz answers, but not as arcray does")
        return True

    def version(self) -> Mapping[str, Any]:
        """Returns the versions of the server's parts."""
        return self._get("/version")

    def stats(self) -> Mapping[str, Any]:
        """Returns the counts of everything alive, as ``GET /api/v1/stats`` gives them."""
        return self._get("/api/v1/stats")

    def nodes(self) -> list[NodeInfo]:
        """Returns every machine of the pool."""
        return self._pages("/api/v1/nodes", "nodes", NodeInfo.from_body)

    def node(self, node_id: str) -> NodeInfo:
        """Returns one machine."""
        return NodeInfo.from_body(self._get(f"/api/v1/nodes/{_segment(node_id)}"))

    # Work.

    def submit_program(
        self,
        source: str | bytes | Path,
        *,
        args: Sequence[str] = (),
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        entry_point: str = "",
        options: WorkOptions = _PLAIN,
    ) -> WorkloadInfo:
        """Runs Python code on the pool and returns at once.

        Args:
            source: the code itself; a ``Path`` to a ``.py`` or ``.zip`` file; the bytes of a zip archive.
            entry_point: file of the archive to run.
        """
        body: dict[str, Any] = {"kind": "program", "args": list(args), **_program_source(source)}
        if stdin:
            body["stdin"] = stdin
        if env:
            body["env"] = dict(env)
        if entry_point:
            body["entryPoint"] = entry_point
        return self._submit(body, options)

    def submit_container(
        self,
        image: str,
        *,
        command: Sequence[str] = (),
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        ports: Sequence[int] = (),
        volumes: Sequence[VolumeMount] = (),
        options: WorkOptions = _PLAIN,
    ) -> WorkloadInfo:
        """Runs an image on the pool and returns at once.

        Args:
            command: replaces the image's entry point.
            ports: container ports to publish; the engine chooses the host's.
            volumes: host paths seen inside, from the node's allow-list.
        """
        body: dict[str, Any] = {"kind": "container", "image": image}
        if command:
            body["command"] = list(command)
        if args:
            body["args"] = list(args)
        if env:
            body["env"] = dict(env)
        if ports:
            body["ports"] = [{"containerPort": port} for port in ports]
        if volumes:
            body["volumes"] = [
                {"source": volume.source, "target": volume.target, "readOnly": volume.read_only} for volume in volumes
            ]
        return self._submit(body, options)

    def get(self, workload_id: str) -> WorkloadInfo:
        """Returns one piece of work."""
        return WorkloadInfo.from_body(self._get(_workload(workload_id)))

    def workloads(self, *, limit: int = _PAGE) -> list[WorkloadInfo]:
        """Returns the newest pieces of work, at most ``limit`` of them."""
        return list(islice(self.each_workload(page=min(limit, _PAGE)), limit)) if limit > 0 else []

    def each_workload(self, *, page: int = _PAGE) -> Iterator[WorkloadInfo]:
        """Yields every piece of work, newest first, however many there are: one page is held at a time.

        What is submitted meanwhile is not among them.

        Args:
            page: how many are asked for at once, 1 to 1,000.
        """
        following: str | None = ""
        while following is not None:
            params: dict[str, Any] = {"limit": page} | ({"cursor": following} if following else {})
            body = body_of(self._transport.call("GET", "/api/v1/workloads", params=params))
            yield from map(WorkloadInfo.from_body, body["workloads"])
            following = body["nextCursor"]

    def explain(self, workload_id: str) -> Mapping[str, Any]:
        """Returns what a piece of work waits for: what refused which nodes, who is ahead, what would fit, and when."""
        return self._get(f"{_workload(workload_id)}/explain")

    def stop(self, workload_id: str) -> WorkloadInfo:
        """Ends a piece of work; one that has ended stays as it is."""
        response = self._transport.call("POST", f"{_workload(workload_id)}/stop", repeatable=True)
        return WorkloadInfo.from_body(body_of(response))

    def wait(self, workload_id: str, timeout_s: float | None = None) -> WorkloadInfo:
        """Returns a piece of work once it has ended, well or not.

        Raises:
            DeadlineExceededError: it has not ended in time; it goes on.
        """
        return self._until(
            lambda: self.get(workload_id), lambda view: view.phase.terminal, timeout_s, f"workload {workload_id}"
        )

    def logs(self, workload_id: str) -> str:
        """Returns all that it has printed so far."""
        return self._transport.call("GET", f"{_workload(workload_id)}/logs").text

    def follow_logs(self, workload_id: str) -> Iterator[str]:
        """Yields what it has printed and what it prints, as it comes, until it ends; survives a lost connection."""
        yield from codecs.iterdecode(self._transport.follow(f"{_workload(workload_id)}/logs"), "utf-8", "replace")

    def results(self, workload_id: str) -> list[ResultFile]:
        """Returns the files that a program left as its result, sorted by path."""
        body = self._get(f"{_workload(workload_id)}/results")
        return [ResultFile(path=item["path"], size_bytes=item["sizeBytes"]) for item in body["results"]]

    def result(self, workload_id: str, path: str) -> bytes:
        """Returns the content of one result file."""
        named = quote(path, errors="surrogatepass")  # what is no text is told by the server, as any wrong name is
        return self._transport.call("GET", f"{_workload(workload_id)}/results/{named}").content

    # Reservations.

    def reserve(
        self,
        demand: Demand,
        *,
        parts: int = 1,
        kind: str = "",
        selector: Mapping[str, str] | None = None,
        node_id: str = "",
        ttl_s: float = 300.0,
    ) -> ReservationInfo:
        """Holds a place without a workload, for work that names it later.

        Args:
            parts: how many nodes it is divided over, evenly and all at once; 1 is one node.
            kind: program or container: what its nodes must be able to run; "" is anything.
            ttl_s: after this what is left of it is given back.

        Raises:
            NoCandidatesError: it does not fit now; nothing is held.
        """
        body: dict[str, Any] = {"demand": demand_body(demand), "ttlS": ttl_s}
        if parts != 1:
            body |= {"strategy": "even", "parts": parts}
        if kind:
            body["kind"] = kind
        if selector:
            body["selector"] = dict(selector)
        if node_id:
            body["nodeId"] = node_id
        # The key makes the second arrival of the same request return the reservation of the first.
        headers = {"Idempotency-Key": new_key()}
        response = self._transport.call("POST", "/api/v1/reservations", json=body, headers=headers, repeatable=True)
        return ReservationInfo.from_body(body_of(response))

    def reservation(self, reservation_id: str) -> ReservationInfo:
        """Returns one reservation, ended ones too."""
        return ReservationInfo.from_body(self._get(f"/api/v1/reservations/{_segment(reservation_id)}"))

    def reservations(self, *, limit: int = _PAGE) -> list[ReservationInfo]:
        """Returns the newest reservations, at most ``limit`` of them."""
        return self._pages("/api/v1/reservations", "reservations", ReservationInfo.from_body, limit)

    def release(self, reservation_id: str) -> ReservationInfo:
        """Gives back what is left of a reservation; one that has ended stays as it is."""
        response = self._transport.call("DELETE", f"/api/v1/reservations/{_segment(reservation_id)}")
        return ReservationInfo.from_body(body_of(response))

    # Models.

    def models(self) -> list[ModelInfo]:
        """Returns every registered model."""
        return self._pages("/api/v1/models", "models", ModelInfo.from_body)

    def model(self, name: str) -> ModelInfo:
        """Returns one model."""
        return ModelInfo.from_body(self._get(f"/api/v1/models/{_segment(name)}"))

    def register_model(
        self,
        name: str,
        format: str,  # noqa: A002  the word of the API
        *,
        source: str = "",
        content: bytes | None = None,
        from_workload: tuple[str, str] | None = None,
        target: str = "",
        replicas: int = 1,
        max_concurrency: int | None = None,
        demand: Demand = NO_DEMAND,
    ) -> ModelInfo:
        """Registers a model and starts ``replicas`` copies; returns at once, see ``wait_model``.

        Exactly one of ``source``, ``content`` and ``from_workload`` says where it comes from.

        Args:
            format: python, onnx or openai.
            source: ``module:name`` (python) or base URL (openai).
            content: bytes of the model file (onnx).
            from_workload: id and result path of a program that wrote the file (onnx).
            target: the name that the endpoint knows it by (openai); "" is ``name``.
            max_concurrency: requests in flight that each copy takes; None leaves it to the node.
            demand: what each copy asks of its node.
        """
        body: dict[str, Any] = {"name": name, "format": format, "replicas": replicas}
        if source:
            body["source"] = source
        if content is not None:
            body["content"] = base64.b64encode(content).decode()
        if from_workload is not None:
            body["fromWorkload"] = {"id": from_workload[0], "path": from_workload[1]}
        if target:
            body["target"] = target
        if max_concurrency is not None:
            body["maxConcurrency"] = max_concurrency
        if demand != NO_DEMAND:
            body["demand"] = demand_body(demand)
        # The same registration again changes nothing, so it may be repeated.
        response = self._transport.call("POST", "/api/v1/models", json=body, repeatable=True)
        return ModelInfo.from_body(body_of(response))

    def wait_model(self, name: str, timeout_s: float | None = 120.0) -> ModelInfo:
        """Returns a model once a node answers for it.

        Raises:
            ConflictError: the copies that were being loaded have ended; says why.
            DeadlineExceededError: no node answers in time.
        """
        loading: set[str | None] = set()

        def settled(model: ModelInfo) -> bool:
            copies = {server["id"] for server in model.raw.get("servers", ())}
            if not model.ready_on and loading and not copies:
                own = min(filter(None, loading), default=None)  # the ids of other accounts' copies are not told
                ended = None if own is None else self.get(own)
                reason = "its copies have ended" if ended is None else f"{ended.phase}, {ended.message}"
                raise ConflictError(f"model {name} is not loaded: {reason}")
            loading.update(copies)
            return bool(model.ready_on)

        return self._until(lambda: self.model(name), settled, timeout_s, f"model {name}")

    def remove_model(self, name: str) -> None:
        """Forgets a model and stops its copies."""
        self._transport.call("DELETE", f"/api/v1/models/{_segment(name)}")

    def infer(
        self,
        model: str,
        input: Any = None,  # noqa: A002  the word of the API
        *,
        priority: Priority = Priority.NORMAL,
        context_window_tokens: int = 1,
    ) -> Answer:
        """Asks a model and returns its answer.

        Args:
            input: any JSON; its form is the model's own.

        Raises:
            NoCandidatesError: no node has the model loaded, or all that have are full.
        """
        body = {
            "modelId": model,
            "input": input,
            "priority": priority.name.lower(),
            "contextWindowTokens": context_window_tokens,
        }
        # Sent again after a lost connection, the key makes it join the request that is on its way, not run twice.
        headers = {"Idempotency-Key": new_key()}
        response = self._transport.call("POST", "/api/v1/inference", json=body, headers=headers, repeatable=True)
        return Answer.from_body(body_of(response))

    # Below: how the above is said.

    def _get(self, path: str) -> Mapping[str, Any]:
        return body_of(self._transport.call("GET", path))

    def _pages(
        self, path: str, member: str, view: Callable[[Mapping[str, Any]], _View], limit: int | None = None
    ) -> list[_View]:
        found: list[_View] = []
        while True:
            wanted = _PAGE if limit is None else min(_PAGE, limit - len(found))
            if wanted <= 0:
                return found
            page = body_of(self._transport.call("GET", path, params={"limit": wanted, "offset": len(found)}))
            found += [view(body) for body in page[member]]
            if not page[member] or len(found) >= page["total"]:
                return found

    def _submit(self, body: dict[str, Any], options: WorkOptions) -> WorkloadInfo:
        body.update(options.body())
        # The key makes the second arrival of the same submission return the workload of the first.
        headers = {"Idempotency-Key": new_key()}
        response = self._transport.call("POST", "/api/v1/workloads", json=body, headers=headers, repeatable=True)
        return WorkloadInfo.from_body(body_of(response))

    def _until(
        self, read: Callable[[], _View], done: Callable[[_View], bool], timeout_s: float | None, what: str
    ) -> _View:
        waited_s = 0.0
        pause_s = 0.05
        while True:
            view = read()
            if done(view):
                return view
            if timeout_s is not None and waited_s >= timeout_s:
                raise DeadlineExceededError(f"{what} is not there after {timeout_s:g} s; it may still come")
            self._sleep(pause_s)
            waited_s += pause_s
            pause_s = min(1.0, pause_s * 1.5)


def _segment(text: str) -> str:
    return quote(text, safe="")


def _workload(workload_id: str) -> str:
    return f"/api/v1/workloads/{_segment(workload_id)}"


def _program_source(source: str | bytes | Path) -> dict[str, str]:
    if isinstance(source, Path):
        source = source.read_bytes() if source.suffix == ".zip" else _text(source)
    if isinstance(source, bytes):
        return {"archive": base64.b64encode(source).decode()}
    return {"source": source}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"{path} is not UTF-8 text", field="source") from error
