"""ONNX files by the real onnxruntime, and OpenAI-compatible endpoints by a real HTTP server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from arcray.node.models.frames import LoadSpec
from arcray.node.models.loaders import load
from arcray.node.models.openai_model import OpenAiModel

if TYPE_CHECKING:
    from pathlib import Path

sklearn = pytest.importorskip("sklearn", reason="scikit-learn trains the model; install arcray[demo]")
skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx writes the model; install arcray[demo]")


def spec(**fields: Any) -> LoadSpec:
    defaults: dict[str, Any] = {
        "model_id": "m", "format": "onnx", "source": "", "target": "", "slots": 4, "threads": 1, "gpu": False,
    }  # fmt: skip
    return LoadSpec(**(defaults | fields))


class Digits:
    def __init__(self, path: Path, *, zipmap: bool) -> None:
        from skl2onnx.common.data_types import FloatTensorType
        from sklearn.datasets import load_digits
        from sklearn.linear_model import LogisticRegression

        x, self.y = load_digits(return_X_y=True)
        self.x = (x / 16).astype(np.float32)
        self.fitted = LogisticRegression(max_iter=100).fit(self.x[:500], self.y[:500])
        exported = skl2onnx.to_onnx(
            self.fitted, initial_types=[("pixels", FloatTensorType([None, 64]))], options={"zipmap": zipmap}
        )
        path.write_bytes(exported.SerializeToString())
        call = load(spec(source=str(path))).call
        assert call is not None
        self.call = call


@pytest.mark.parametrize("zipmap", [False, True])
def test_onnx_classifier_answers_as_the_fitted_model_does(tmp_path: Path, zipmap: bool) -> None:
    """Trains for a few tenths of a second."""
    digits = Digits(tmp_path / "digits.onnx", zipmap=zipmap)
    answer = digits.call(digits.x[1000:1010].tolist())
    assert (
        answer["label" if "label" in answer else "output_label"] == digits.fitted.predict(digits.x[1000:1010]).tolist()
    )
    json.dumps(answer)
    (probabilities,) = (value for name, value in answer.items() if "prob" in name)
    row = probabilities[0].values() if zipmap else probabilities[0]
    assert list(row) == pytest.approx(digits.fitted.predict_proba(digits.x[1000:1001])[0].tolist(), abs=1e-4)
    by_name = digits.call({"pixels": digits.x[1000:1010].tolist()})
    assert by_name == answer
    single = digits.call(digits.x[1000].tolist())
    assert next(iter(single.values())) == next(iter(answer.values()))[:1]


def test_onnx_input_that_does_not_fit_says_how(tmp_path: Path) -> None:
    digits = Digits(tmp_path / "digits.onnx", zipmap=False)
    with pytest.raises(ValueError, match=r"unknown inputs \['image'\]; the model has \['pixels'\]"):
        digits.call({"image": [1]})
    with pytest.raises(ValueError, match="missing inputs"):
        digits.call({})
    with pytest.raises(ValueError, match="input pixels: "):
        digits.call(["a", "b"])


def test_onnx_model_that_was_given_a_gpu_does_not_run_on_the_processor(tmp_path: Path) -> None:
    Digits(tmp_path / "digits.onnx", zipmap=False)  # which onnxruntime of this environment does run there
    with pytest.raises(RuntimeError, match=r"was given a GPU .* install onnxruntime-gpu"):
        load(spec(source=str(tmp_path / "digits.onnx"), gpu=True))


@pytest.fixture
async def endpoint() -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """Answers every request with what it got; refuses the prompt "boom"."""
    seen: list[dict[str, Any]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next((int(line.split(":")[1]) for line in head.lower().splitlines() if "content-length" in line), 0)
        body = json.loads(await reader.readexactly(length) or b"{}")
        seen.append({"path": head.split()[1], "body": body, "head": head})
        status = "500 Oops" if body.get("prompt") == "boom" else "200 OK"
        answer = json.dumps({"echo": body}).encode()
        writer.write(
            f"HTTP/1.1 {status}\r\ncontent-length: {len(answer)}\r\nconnection: close\r\n\r\n".encode() + answer
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen


@pytest.mark.parametrize(
    ("value", "path", "body"),
    [
        ("hi", "/v1/completions", {"prompt": "hi"}),
        ({"prompt": "hi", "stream": True}, "/v1/completions", {"prompt": "hi"}),
        ({"messages": [{"role": "user"}]}, "/v1/chat/completions", {"messages": [{"role": "user"}]}),
        ([{"role": "user"}], "/v1/chat/completions", {"messages": [{"role": "user"}]}),
    ],
)
async def test_openai_input_goes_where_its_shape_says(
    endpoint: tuple[str, list[dict[str, Any]]], value: Any, path: str, body: dict[str, Any]
) -> None:
    url, seen = endpoint
    model = OpenAiModel(spec(source=url, target="llama", env={"OPENAI_API_KEY": "k"}))
    await model.wait_until_up()
    assert await model.predict(value) == {"echo": {**body, "model": "llama", "stream": False}}
    assert [each["path"] for each in seen] == ["/v1/models", path]
    assert "authorization: bearer k" in seen[-1]["head"].lower()


async def test_openai_errors_say_what_the_endpoint_said(endpoint: tuple[str, list[dict[str, Any]]]) -> None:
    model = OpenAiModel(spec(source=f"{endpoint[0]}/v1/"))
    with pytest.raises(RuntimeError, match=r"the endpoint answered 500: .*boom"):
        await model.predict("boom")
    with pytest.raises(ValueError, match="send an object with messages or prompt"):
        await model.predict(7)
    with pytest.raises(RuntimeError, match="the endpoint is away"):
        await OpenAiModel(spec(source="http://127.0.0.1:1")).predict("hi")
