"""Lowering: turns a payload that a node cannot run into one that it can, or says why not. A table.

``features`` and ``wanted`` express the same table as tokens, so that placement can filter nodes without knowing
payloads: a node is capable when it offers at least one of the tokens that the payload wants.
"""

from __future__ import annotations

from typing import Final, assert_never

from arcray.core.errors import UnsupportedError
from arcray.core.node import DriverCapabilities
from arcray.core.workload import Container, Inference, ModelServer, Payload, Program

__all__ = ["features", "lower", "wanted"]

_CONTAINER: Final = "container"
_PROGRAM: Final = "program"
_RUNNER: Final = "program-in-container"
_INFERENCE: Final = "inference"


def features(capabilities: DriverCapabilities) -> frozenset[str]:
    """Returns the tokens that a node offers."""
    offered = {f"model:{model_format}" for model_format in capabilities.models}
    if capabilities.containers:
        offered.add(_CONTAINER)
        if capabilities.runner_image:
            offered.add(_RUNNER)
    if capabilities.programs:
        offered.add(_PROGRAM)
    if capabilities.inference:
        offered.add(_INFERENCE)
    return frozenset(offered)


def wanted(payload: Payload) -> frozenset[str]:
    """Returns the tokens of which a node must offer at least one."""
    match payload:
        case Container():
            return frozenset({_CONTAINER})
        case Program():
            return frozenset({_PROGRAM, _RUNNER})
        case Inference():
            return frozenset({_INFERENCE})
        case ModelServer():
            return frozenset({f"model:{payload.model.format}"})
        case _:
            assert_never(payload)


def lower(payload: Payload, capabilities: DriverCapabilities) -> Payload:
    """Returns what the node is asked to run.

    A program stays a program where the node takes programs: a node that has only a runner image starts the image
    itself, because the program's files must be handed to it there.

    Raises:
        UnsupportedError: no row of the table leads to this node; says what it lacks.
    """
    if wanted(payload) & features(capabilities):
        return payload
    raise UnsupportedError(f"the node offers none of: {', '.join(sorted(wanted(payload)))}", field="payload")
