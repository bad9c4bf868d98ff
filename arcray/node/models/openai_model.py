"""OpenAI-compatible endpoints (vLLM, Ollama): the input is the request's body, the answer the response's.

An object with ``messages``, or a list, goes to chat completions; an object with ``prompt``, or a text, to completions.

Source: OpenAI API reference, "Create chat completion" and "Create completion".
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import httpx

from arcray.node.models.frames import LoadSpec

__all__ = ["OpenAiModel"]

_RETRY_S: Final = 0.5
_EXCERPT: Final = 500


class OpenAiModel:
    """One pool of connections to one endpoint. Its time-outs are the callers': each request is cancelled at its own."""

    def __init__(self, spec: LoadSpec) -> None:
        base = spec.source.rstrip("/")
        self._base = base if base.endswith("/v1") else f"{base}/v1"
        self._model = spec.target or spec.model_id
        key = spec.env.get("OPENAI_API_KEY", "")
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=spec.slots, max_keepalive_connections=spec.slots),
            timeout=httpx.Timeout(None, connect=10.0),
            trust_env=False,
        )

    async def wait_until_up(self) -> None:
        """Returns once the endpoint answers anything at all; an engine may take minutes to load its weights."""
        while True:
            try:
                await self._client.get(f"{self._base}/models", timeout=10.0)
            except httpx.TransportError:
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def predict(self, value: Any) -> Any:
        """Answers one input with the endpoint's own JSON.

        Raises:
            ValueError: the input is of no known shape.
            RuntimeError: the endpoint refused it or is away.
        """
        path, body = _request(value)
        try:
            response = await self._client.post(
                f"{self._base}/{path}", json={**body, "model": self._model, "stream": False}
            )
        except httpx.HTTPError as error:
            raise RuntimeError(f"the endpoint is away: {error or type(error).__name__}") from error
        if response.is_error:
            raise RuntimeError(f"the endpoint answered {response.status_code}: {response.text[:_EXCERPT]}")
        return response.json()


def _request(value: Any) -> tuple[str, dict[str, Any]]:
    """Returns the path below ``/v1`` and the body."""
    match value:
        case {"messages": _}:
            return "chat/completions", value
        case {"prompt": _}:
            return "completions", value
        case str():
            return "completions", {"prompt": value}
        case [_, *_]:
            return "chat/completions", {"messages": value}
        case _:
            raise ValueError("send an object with messages or prompt, a list of messages, or a text")
