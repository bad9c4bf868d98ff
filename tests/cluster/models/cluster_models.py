"""Models that the cluster tests load by name; they run in model processes of the node."""

from __future__ import annotations

import threading
from typing import Any


def echo(value: Any) -> Any:
    """Answers its input."""
    return value


def slow(value: Any) -> Any:
    """Answers after so many seconds."""
    threading.Event().wait(value["seconds"])
    return value
