"""What operators do through the client: nodes, quotas, dead letters, simulations. Reached as ``client.operations``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any
from urllib.parse import quote

from arcray.client.transport import Transport, body_of
from arcray.client.types import WorkloadInfo

__all__ = ["Operations"]

_PAGE = 100
_Body = Mapping[str, Any]


class Operations:
    """One method per operation; each returns the body that the server answered.

    Every method raises what ``Client`` says. Nodes and quotas are for operators: other keys get
    ``PermissionDeniedError``.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    # Nodes.

    def nodes(self) -> list[_Body]:
        """Returns cordons, drain and labels of every node."""
        return list(self._pages("/api/v1/node-states", "nodes"))

    def node(self, node_id: str) -> _Body:
        """Returns cordons, drain and labels of a node."""
        return self._get(f"{_node(node_id)}/scheduling")

    def cordon(self, node_id: str, *, gpus: Sequence[int] = ()) -> _Body:
        """Has a node, or some of its GPUs, take no new work."""
        return self._post(f"{_node(node_id)}/cordon", {"gpus": list(gpus)})

    def uncordon(self, node_id: str, *, gpus: Sequence[int] = ()) -> _Body:
        """Has it take work again, and calls a drain off."""
        return self._post(f"{_node(node_id)}/uncordon", {"gpus": list(gpus)})

    def drain(
        self, node_id: str, *, gpus: Sequence[int] = (), deadline_s: float | None = None, grace_s: float = 30.0
    ) -> _Body:
        """Cordons it and moves the old work away; returns at once, see ``node``: ``drained`` says when it has gone.

        Args:
            deadline_s: seconds after which what is left is stopped; None waits for its end.
            grace_s: time between the polite and the certain signal.
        """
        body: dict[str, Any] = {"gpus": list(gpus), "graceS": grace_s}
        if deadline_s is not None:
            body["deadlineS"] = deadline_s
        return self._post(f"{_node(node_id)}/drain", body)

    def label(self, node_id: str, labels: Mapping[str, str | None]) -> _Body:
        """Lays labels over the machine's own; None removes one."""
        path, body = f"{_node(node_id)}/labels", {"labels": dict(labels)}
        return body_of(self._transport.call("PATCH", path, json=body, repeatable=True))

    # What happened.

    def audit(
        self, *, workload: str | None = None, node: str | None = None, since: str | None = None, page: int = _PAGE
    ) -> Iterator[_Body]:
        """Yields what happened to work, oldest first, however much: one page is held at a time.

        Args:
            workload: only to this workload.
            node: only what happened on this node.
            since: only then or later; RFC 3339, such as ``2026-02-03T12:34:56Z``.
            page: how many are asked for at once, 1 to 1,000.
        """
        asked = {"workload": workload, "node": node, "since": since}
        params: dict[str, Any] = {key: value for key, value in asked.items() if value is not None} | {"limit": page}
        following: str | None = ""
        while following is not None:
            cursor = {"cursor": following} if following else {}
            body = body_of(self._transport.call("GET", "/api/v1/audit", params=params | cursor))
            yield from body["events"]
            following = body["nextCursor"]

    # Quotas.

    def quotas(self) -> list[_Body]:
        """Returns the quotas of accounts that have one of their own or hold something."""
        return list(self._pages("/api/v1/quotas", "quotas"))

    def quota(self, account: str) -> _Body:
        """Returns what an account may hold, and holds."""
        return self._get(_quota(account))

    def set_quota(self, account: str, limits: Mapping[str, float | None]) -> _Body:
        """Gives an account a quota.

        Args:
            limits: ``workloads``, ``cpu``, ``memoryMb``, ``gpus``, ``pending``; what is absent is unlimited.
        """
        return body_of(self._transport.call("PUT", _quota(account), json=dict(limits)))

    def reset_quota(self, account: str) -> _Body:
        """Gives an account the default again."""
        return body_of(self._transport.call("DELETE", _quota(account)))

    # Dead letters.

    def dead_letters(self, *, limit: int = _PAGE) -> list[_Body]:
        """Returns the newest pieces of work that ended badly and wait for somebody."""
        return list(islice(self.each_dead_letter(page=min(limit, _PAGE)), limit)) if limit > 0 else []

    def each_dead_letter(self, *, page: int = _PAGE) -> Iterator[_Body]:
        """Yields all of them, newest first, however many there are: one page is held at a time.

        What ends badly or is dealt with meanwhile moves no other one; a page by offset would skip some.

        Args:
            page: how many are asked for at once, 1 to 1,000.
        """
        following: str | None = ""
        while following is not None:
            params: dict[str, Any] = {"limit": page} | ({"cursor": following} if following else {})
            body = body_of(self._transport.call("GET", "/api/v1/dead-letters", params=params))
            yield from body["deadLetters"]
            following = body["nextCursor"]

    def dead_letter(self, workload_id: str) -> _Body:
        """Returns one, with its newest attempts."""
        return self._get(_dead_letter(workload_id))

    def replay(
        self, workload_id: str, edits: Mapping[str, Any] | None = None, *, key: str | None = None
    ) -> WorkloadInfo:
        """Submits it once more.

        Args:
            edits: members of a submission that are different this time, as the API spells them.
            key: idempotency key; None makes every call for this dead letter the same replay.
        """
        headers = {} if key is None else {"Idempotency-Key": key}
        response = self._transport.call(
            "POST", f"{_dead_letter(workload_id)}/replay", json=dict(edits or {}), headers=headers, repeatable=True
        )
        return WorkloadInfo.from_body(body_of(response))

    def discard(self, workload_id: str) -> None:
        """Puts a dead letter away; its record stays."""
        self._transport.call("DELETE", _dead_letter(workload_id))

    # What if.

    def simulate(
        self,
        *,
        add_nodes: Sequence[Mapping[str, Any]] = (),
        remove_nodes: Sequence[str] = (),
        drain_nodes: Sequence[str] = (),
        submit: Sequence[Mapping[str, Any]] = (),
    ) -> _Body:
        """Returns what would happen; changes nothing.

        Args:
            add_nodes: machines as ``{count, cpu, memoryMb, gpus, gpuMemoryMb, labels}`` or ``{count, like}``.
            submit: work as ``{kind, count, demand, selector, ...}``.
        """
        body = {
            "addNodes": [dict(node) for node in add_nodes],
            "removeNodes": list(remove_nodes),
            "drainNodes": list(drain_nodes),
            "submit": [dict(work) for work in submit],
        }
        return body_of(self._transport.call("POST", "/api/v1/simulate", json=body, repeatable=True))

    # Below: how the above is said.

    def _get(self, path: str) -> _Body:
        return body_of(self._transport.call("GET", path))

    def _post(self, path: str, body: _Body) -> _Body:
        # Said twice it means the same.
        return body_of(self._transport.call("POST", path, json=body, repeatable=True))

    def _pages(self, path: str, member: str) -> Iterable[_Body]:
        seen = 0
        while True:
            page = body_of(self._transport.call("GET", path, params={"limit": _PAGE, "offset": seen}))
            yield from page[member]
            seen += len(page[member])
            if not page[member] or seen >= page["total"]:
                return


def _node(node_id: str) -> str:
    return f"/api/v1/nodes/{quote(node_id, safe='')}"


def _quota(account: str) -> str:
    return f"/api/v1/quotas/{quote(account, safe='')}"


def _dead_letter(workload_id: str) -> str:
    return f"/api/v1/dead-letters/{quote(workload_id, safe='')}"
