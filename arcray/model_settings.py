"""What a machine lets models do, as a section of the settings. What else there is to set is in ``config``."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ModelSettings"]


class ModelSettings(BaseModel):
    """Models on this machine.

    Args:
        enabled: whether this machine loads models.
        start_timeout_s: longest load.
        max_concurrency: requests in flight of a copy whose model sets none.
        python_path: directories that ``module:name`` models are imported from, before the environment's own.
        allow: glob patterns of ``module:name`` that may be loaded from elsewhere; a model's process is no sandbox, so
            by default only what is below ``python_path`` and entry points may.
        env: glob patterns of the variables that a model may set in its process. Name only what is read as plain data:
            many a variable (``LD_PRELOAD``, ``PYTHONPATH``, ``OPENSSL_CONF``) has a process load code.
        endpoints: glob patterns of hosts whose OpenAI-compatible endpoints may be models.
        probe_s, probe_timeout_s: time between two looks at the endpoint of a model, and what each may take; one that
            fails twice is not offered until it serves again.
        silence_s: longest time that a model's code may hold the event loop or the interpreter of its process; one that
            gives no sign of life for so long is ended and started again.
        user: name of the user that models run as where the agent is root; "" is the agent's own. It must be able to
            read the Python environment and pass through the state directory.
        max_restarts: restarts of a model process that dies, with back-off, before its workload fails.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    start_timeout_s: float = Field(default=120.0, gt=0)
    max_concurrency: int = Field(default=32, ge=1)
    python_path: tuple[Path, ...] = ()
    allow: tuple[str, ...] = ()
    env: tuple[str, ...] = ("MODEL_*", "OPENAI_API_KEY")
    endpoints: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    user: str = ""
    silence_s: float = Field(default=30.0, gt=0)
    probe_s: float = Field(default=5.0, gt=0)
    probe_timeout_s: float = Field(default=5.0, gt=0)
    max_restarts: int = Field(default=3, ge=0)
