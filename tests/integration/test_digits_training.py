"""The program of the main job by itself, as a sandbox would run it. Takes two seconds: it trains."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime

TRAIN = Path(__file__).parents[2] / "examples/digits/train.py"


def test_exported_model_knows_the_digits_it_has_not_seen(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(TRAIN)],
        env={"ARCRAY_RESULT_DIR": str(tmp_path), "HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"},
        check=True,
        timeout=100,
    )
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "heldout.json", "metrics.json"}
    heldout = json.loads((tmp_path / "heldout.json").read_text())
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    labels, _ = session.run(None, {"pixels": np.asarray(heldout["pixels"], dtype=np.float32)})
    accuracy = float(np.mean(labels == np.asarray(heldout["labels"])))
    assert len(heldout["labels"]) == metrics["held_out"] >= 500
    assert accuracy > 0.95
    assert abs(accuracy - metrics["accuracy"]) < 0.005  # the exported model computes in single precision
