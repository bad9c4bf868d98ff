"""OpenAI-compatible endpoints (vLLM, Ollama): the input is the request's body, the answer the response's.

An object with ``messages``, or a list, goes to chat completions; an object with ``prompt``, or a text, to completions.

Source: OpenAI API reference, "Create chat completion" and "Create completion".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import httpx

from arcray.node.models.frames import LoadSpec

__all__ = ["OpenAiModel"]

_RETRY_S: Final = 0.5
_SERVER_ERROR: Final = 500
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
        # Of its own, for requests may hold every connection of the other one for minutes.
        self._prober = httpx.AsyncClient(
            headers=self._client.headers,
            limits=httpx.Limits(max_connections=1),
            timeout=httpx.Timeout(spec.probe_timeout_s),
            trust_env=False,
        )
        self._probe_s = spec.probe_s
        self._probe_timeout_s = spec.probe_timeout_s
        self._doubted = asyncio.Event()

    async def wait_until_up(self) -> None:
        """Returns once the endpoint serves; an engine may take minutes to load its weights."""
        while True:
            if not await self._probe():
                return
            await asyncio.sleep(_RETRY_S)

    async def watch(self, tell: Callable[[str], None]) -> None:
        """Looks at the endpoint now and then, and as soon as a request could not reach it; runs until cancelled.

        Args:
            tell: told why it does not serve once it has failed twice in a row, and "" when it serves again.
        """
        away = False
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S if away else self._probe_s):
                    await self._doubted.wait()
            self._doubted.clear()
            reason = await self._probe()
            if reason and not away:
                await asyncio.sleep(_RETRY_S)
                reason = await self._probe()
            if bool(reason) is not away:
                away = bool(reason)
                tell(reason)

    async def _probe(self) -> str:
        """Returns why the endpoint does not serve, "" when it does.

        Whatever it answers but a fault of its own will do: not every engine lists its models, or lists them to us.
        """
        try:
            async with (
                asyncio.timeout(self._probe_timeout_s),
                self._prober.stream("GET", f"{self._base}/models") as response,
            ):
                fault = response.status_code >= _SERVER_ERROR
                return f"the endpoint answers {response.status_code}" if fault else ""
        except TimeoutError:
            return f"the endpoint does not answer within {self._probe_timeout_s:g} s"
        except httpx.HTTPError as error:
            return f"the endpoint is away: {error or type(error).__name__}"

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
            self._doubted.set()
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
