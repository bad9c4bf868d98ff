"""Who this machine is, for as long as its state directory lives (Ray's ids change at every restart)."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

from arcray import state_directory
from arcray.core.errors import InvalidArgumentError
from arcray.core.ids import NodeId, canonical_uuid
from arcray.core.ports import Ids

__all__ = ["hostname", "machine_node_id"]

_FILE: Final = "node-id"


def machine_node_id(state_dir: Path, ids: Ids, *, role: str = "") -> NodeId:
    """Returns this machine's node id, made and written at the first call. Blocks on the disk.

    The file is per host name, because a state directory may be on a disk that several machines share.

    Args:
        role: tells apart several nodes of one machine, for example two raylets of a test; "" is the machine itself.

    Raises:
        InvalidArgumentError: the file does not hold a UUID; names it.
    """
    directory = state_dir / "node"
    state_directory.make(state_dir)
    state_directory.make_passage(directory)
    path = directory / ".".join(filter(None, (_FILE, hostname(), role)))
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return _make(path, ids)
    except UnicodeDecodeError:
        text = ""
    try:
        return NodeId(canonical_uuid(text))
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{path} holds no node id; remove it to get a new one", field="state_dir") from error


def hostname() -> str:
    """Returns the machine's name."""
    return socket.gethostname() or "localhost"


def _make(path: Path, ids: Ids) -> NodeId:
    """Writes a new id so that two starts at once agree: the first link wins, and both read it."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    node_id = canonical_uuid(ids.new())
    with open(draft, "w", encoding="ascii", opener=state_directory.private) as file:
        file.write(f"{node_id}\n")
    try:
        os.link(draft, path)
    except FileExistsError:
        return NodeId(canonical_uuid(path.read_text(encoding="ascii").strip()))
    finally:
        draft.unlink()
    return NodeId(node_id)
