"""Trains a classifier of handwritten digits. Runs on the pool as a program; knows nothing of arcray.

The data is real: 1,797 digits of 8x8 pixels, shipped with scikit-learn. What it leaves in ``$ARCRAY_RESULT_DIR``:

* ``model.onnx``: the classifier; input ``pixels`` [n, 64] float32, outputs ``label`` [n] int64 and ``probabilities``;
* ``heldout.json``: the digits it has never seen, ``{"pixels": [[...]], "labels": [...]}``;
* ``metrics.json``: its own accuracy on them, for comparison with what the loaded model answers.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

HELD_OUT = 540  # of 1,797


def main() -> None:
    """Trains, measures, exports."""
    # Any split will do; the seed makes two runs comparable.
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    digits = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        digits.data, digits.target, test_size=HELD_OUT, random_state=seed, stratify=digits.target
    )
    print(f"digits: {len(train_y)} to train on, {len(test_y)} held out", flush=True)

    began = time.perf_counter()
    network = MLPClassifier(hidden_layer_sizes=(64,), learning_rate_init=0.01, max_iter=500, random_state=seed)
    classifier = make_pipeline(MinMaxScaler(), network).fit(train_x, train_y)
    fit_s = time.perf_counter() - began
    accuracy = float(classifier.score(test_x, test_y))
    print(f"trained in {fit_s:.2f} s; accuracy on the held-out digits {accuracy:.4f}", flush=True)

    model = to_onnx(
        classifier,
        initial_types=[("pixels", FloatTensorType([None, train_x.shape[1]]))],
        # Without it the probabilities come as a list of dictionaries, which is no tensor.
        options={"zipmap": False},
    )
    results = Path(os.environ["ARCRAY_RESULT_DIR"])
    (results / "model.onnx").write_bytes(model.SerializeToString())
    (results / "heldout.json").write_text(json.dumps({"pixels": test_x.tolist(), "labels": test_y.tolist()}))
    (results / "metrics.json").write_text(
        json.dumps({"accuracy": accuracy, "trained_on": len(train_y), "held_out": len(test_y), "fit_s": fit_s})
    )
    print(f"wrote {', '.join(sorted(path.name for path in results.iterdir()))}", flush=True)


if __name__ == "__main__":
    main()
