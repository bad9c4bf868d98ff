"""Rules about what an operator says of a node: cordons, and labels over its own."""

from __future__ import annotations

from typing import Final

from arcray.core import events as ev
from arcray.core.commands import LabelNode, SetNodeScheduling
from arcray.core.errors import InvalidArgumentError
from arcray.core.handlers.drains import call_off_drain
from arcray.core.handlers.nodes import check_gpus, known_node, set_scheduling
from arcray.core.labels import check_labels
from arcray.core.turn import Turn

__all__ = ["on_label_node", "on_set_node_scheduling"]

_MOST_LABELS: Final = 256


def on_set_node_scheduling(turn: Turn, command: SetNodeScheduling) -> None:
    """Cordons or uncordons a node or some of its GPUs; saying it twice changes nothing."""
    node = known_node(turn, command.node_id)
    if command.cordoned:
        check_gpus(node, command.gpus)
    set_scheduling(turn, node, cordoned=command.cordoned, gpus=command.gpus)
    if not command.cordoned:
        call_off_drain(turn, node, command.gpus)


def on_label_node(turn: Turn, command: LabelNode) -> None:
    """Sets and removes labels; what the machine says of itself shows again where nothing lies over it."""
    node = known_node(turn, command.node_id)
    check_labels(command.labels)
    own = node.registration.labels
    merged = {**node.relabelled, **command.labels}
    kept = {key: merged[key] for key in sorted(merged) if merged[key] != own.get(key)}
    if len(kept) > _MOST_LABELS:
        raise InvalidArgumentError(f"a node may have {_MOST_LABELS} of these", field="labels")
    if kept != dict(node.relabelled):
        turn.emit(ev.NodeRelabelled(node_id=node.id, labels=kept, at=turn.now))
