"""ONNX files by onnxruntime: JSON in, JSON out.

A list is the model's only input; an object names its inputs. One dimension too few is taken as a batch of one. The
answer is an object by output name; a classifier's ZipMap (a list of dictionaries) is handed through.

A model that was given a GPU runs on it or not at all: on the processor it would answer too, slowly, while nobody else
can have its GPU. TensorRT is not asked for: it builds an engine at each load, for minutes.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnxruntime

from arcray.node.models.frames import LoadSpec

__all__ = ["OnnxModel"]

_GPU: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"

_DTYPES: Final[dict[str, Any]] = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}


class OnnxModel:
    """One session; onnxruntime lets several threads run it at once.

    Raises:
        RuntimeError: it was given a GPU, and onnxruntime here cannot use it.
    """

    def __init__(self, spec: LoadSpec) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = spec.threads
        options.inter_op_num_threads = 1
        # Spinning threads burn the cores that other models of this machine need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = (_GPU, _CPU) if spec.gpu else (_CPU,)
        providers = [each for each in wanted if each in onnxruntime.get_available_providers()]
        self._session = onnxruntime.InferenceSession(spec.source, options, providers=providers)
        if spec.gpu and _GPU not in self._session.get_providers():
            raise RuntimeError(
                "it was given a GPU that onnxruntime here cannot use; install onnxruntime-gpu in place of onnxruntime "
                "and the CUDA libraries of its version, or register the model without gpus"
            )
        self._inputs = {each.name: (_dtype(each), len(each.shape)) for each in self._session.get_inputs()}
        self._outputs = [each.name for each in self._session.get_outputs()]

    def predict(self, value: Any) -> dict[str, Any]:
        """Answers one input.

        Raises:
            ValueError: the input does not fit the model; says how.
        """
        feed = {name: self._tensor(name, entry) for name, entry in self._by_name(value).items()}
        answers = self._session.run(self._outputs, feed)
        return {name: _plain(answer) for name, answer in zip(self._outputs, answers, strict=True)}

    def _by_name(self, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            if unknown := value.keys() - self._inputs.keys():
                raise ValueError(f"unknown inputs {sorted(unknown)}; the model has {sorted(self._inputs)}")
            if missing := self._inputs.keys() - value.keys():
                raise ValueError(f"missing inputs {sorted(missing)}")
            return value
        if len(self._inputs) != 1:
            raise ValueError(f"the model has {len(self._inputs)} inputs; send an object with {sorted(self._inputs)}")
        return {next(iter(self._inputs)): value}

    def _tensor(self, name: str, value: Any) -> Any:
        dtype, rank = self._inputs[name]
        try:
            array = np.asarray(value, dtype=dtype)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"input {name}: {error}") from error
        return array[None] if rank and array.ndim == rank - 1 else array


def _dtype(node: Any) -> Any:
    if node.type not in _DTYPES:
        raise ValueError(f"input {node.name} has type {node.type}, which JSON cannot carry")
    return _DTYPES[node.type]


def _plain(answer: Any) -> Any:
    """Returns an output as JSON can carry it."""
    if isinstance(answer, np.ndarray | np.generic):
        return answer.tolist()
    if isinstance(answer, dict):
        return {str(key): _plain(entry) for key, entry in answer.items()}
    if isinstance(answer, list | tuple):
        return [_plain(entry) for entry in answer]
    return answer
