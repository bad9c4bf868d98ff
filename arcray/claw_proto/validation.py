"""The document's rules for what may be run. The first that is broken is told, as ``field: reason``.

The document says that an image has a valid format; which it is, and that names of variables have one, is what the
protocol's first implementation checks. Of that dialect the resources have limits of their own.

Source: claw-proto API Reference, "Validation".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from arcray.claw_proto import messages, original
from arcray.claw_proto.errors import ValidationError
from arcray.claw_proto.types import WorkloadSpec

__all__ = [
    "MAX_CPU_CORES",
    "MAX_CPU_MILLICORES",
    "MAX_GPU_COUNT",
    "MAX_GPU_MEMORY_MB",
    "MAX_LOG_LINES",
    "MAX_MEMORY_MB",
    "MAX_ORIGINAL_MEMORY_MB",
    "ValidationError",
    "validate_env",
    "validate_image",
    "validate_node_message",
    "validate_original_spec",
    "validate_port",
    "validate_workload_spec",
]

MAX_GPU_COUNT: Final = 64
MAX_GPU_MEMORY_MB: Final = 1_048_576
MAX_CPU_MILLICORES: Final = 1_024_000
MAX_MEMORY_MB: Final = 4_194_304
MAX_CPU_CORES: Final = 1024
MAX_ORIGINAL_MEMORY_MB: Final = 1_024_000
MAX_LOG_LINES: Final = 10_000
_MAX_PORT: Final = 65_535

_SPACE: Final = re.compile(r"\s")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DIGESTS: Final = ("sha256:", "sha512:")
_SHOWN: Final = 64


def validate_workload_spec(spec: WorkloadSpec) -> None:
    """Checks a specification of the document.

    Raises:
        ValidationError: it breaks a rule; names the field.
    """
    validate_image(spec.image)
    _check_range("gpu_count", spec.gpu_count, MAX_GPU_COUNT)
    _check_range("gpu_memory_mb", spec.gpu_memory_mb, MAX_GPU_MEMORY_MB)
    _check_range("cpu_millicores", spec.cpu_millicores, MAX_CPU_MILLICORES)
    _check_range("memory_mb", spec.memory_mb, MAX_MEMORY_MB)
    for port in spec.ports:
        validate_port(port)
    validate_env(name for name, _ in spec.env)


def validate_original_spec(spec: original.WorkloadSpec) -> None:
    """Checks a specification of the first implementation.

    Raises:
        ValidationError: it breaks a rule; names the field.
    """
    validate_image(spec.image)
    _check_range("memory_mb", spec.memory_mb, MAX_ORIGINAL_MEMORY_MB)
    _check_range("cpu_cores", spec.cpu_cores, MAX_CPU_CORES)
    _check_range("gpu_count", spec.gpu_count, MAX_GPU_COUNT)
    validate_env(name for name, _ in spec.env)


def validate_node_message(message: messages.NodeMessage | original.NodeMessage) -> None:
    """Checks what a node says.

    Raises:
        ValidationError: it breaks a rule; names the field.
    """
    if isinstance(message, messages.WorkloadLogs) and len(message.lines) > MAX_LOG_LINES:
        raise ValidationError(f"must be at most {MAX_LOG_LINES} lines, got {len(message.lines)}", field="lines")


def validate_image(image: str) -> None:
    """Checks the name of an image: ``nginx``, ``localhost:5000/app:v1``, ``nginx@sha256:…``.

    Raises:
        ValidationError: it is no name of an image.
    """
    name = image.rpartition("/")[2]
    digest = name.partition("@")[2] if "@" in name else None
    if not image:
        reason = "must not be empty"
    elif _SPACE.search(image):
        reason = "must have no white space"
    elif image.startswith((":", "@")):
        reason = "must not begin with ':' or '@'"
    elif image.endswith((":", "/")):
        reason = "must not end with ':' or '/'"
    elif digest is not None and not digest.startswith(_DIGESTS):
        reason = "must have a digest that begins with 'sha256:' or 'sha512:'"
    else:
        return
    raise ValidationError(reason, field="image")


def validate_port(port: int) -> None:
    """Checks a port of a container.

    Raises:
        ValidationError: there is no such port.
    """
    if not 1 <= port <= _MAX_PORT:
        raise ValidationError(f"must each be between 1 and {_MAX_PORT}, got {port}", field="ports")


def validate_env(names: Iterable[str]) -> None:
    """Checks names of variables.

    Raises:
        ValidationError: one is none.
    """
    for name in names:
        if not _VARIABLE.fullmatch(name):
            raise ValidationError(
                f"must have names of letters, digits and '_' that begin with no digit, got {name[:_SHOWN]!r}",
                field="env",
            )


def _check_range(field: str, value: int | None, high: int) -> None:
    if value is not None and not 0 <= value <= high:
        raise ValidationError(f"must be between 0 and {high}, got {value}", field=field)
