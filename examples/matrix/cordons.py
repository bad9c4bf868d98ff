"""Having chosen machines alone take new work: most protocols cannot say where theirs is to run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from arcray.client import Client

__all__ = ["only"]


@contextmanager
def only(client: Client, *node_ids: str) -> Iterator[None]:
    """Cordons all other nodes for the time of the block. For a pool of one's own."""
    others = [node["id"] for node in client.operations.nodes() if node["id"] not in node_ids]
    try:
        for node_id in others:
            client.operations.cordon(node_id)
        yield
    finally:
        for node_id in others:
            client.operations.uncordon(node_id)
