"""Tries out one classifier of handwritten digits. A HiveMind task; knows nothing of arcray.

What it tries is in ``candidate.json`` beside it, ``{"C": 10.0}``. The data is real: 1,797 digits of 8x8 pixels, shipped
with scikit-learn. It leaves ``score.json`` in ``$ARCRAY_RESULT_DIR``: ``{"C": 10.0, "accuracy": [...]}``, of each fold.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

FOLDS = 5


def main() -> None:
    """Trains on four fifths and measures on the last, five times."""
    candidate = json.loads(Path(__file__).with_name("candidate.json").read_text(encoding="utf-8"))
    digits = load_digits()
    accuracy = []
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=7).split(digits.data, digits.target)
    for number, (train, test) in enumerate(folds, start=1):
        classifier = SVC(C=candidate["C"]).fit(digits.data[train], digits.target[train])
        accuracy.append(float(classifier.score(digits.data[test], digits.target[test])))
        print(f"C={candidate['C']:g}, fold {number} of {FOLDS}: {accuracy[-1]:.4f}", flush=True)
    results = Path(os.environ["ARCRAY_RESULT_DIR"])
    (results / "score.json").write_text(json.dumps(candidate | {"accuracy": accuracy}), encoding="utf-8")


if __name__ == "__main__":
    main()
