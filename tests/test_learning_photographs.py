"""Slow: that the network learns photographs by heart. Minutes of training; run by .ci/run.

The digits are in a file of their own, test_learning_digits.py: two processes share the files.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from learning import ROOT, command, keras_and_tflite

IMAGES = 16
EPOCHS = 80


@pytest.mark.slow
def test_learns_16_photographs_by_heart(coco_mini: Path, tmp_path: Path) -> None:
    """Half of the recipe's photographs for half of its epochs, a quarter of its time.

    After 60 epochs AP is 0.70 and APs 0.45 already; a network with a bug stays far below.
    """
    data, run = coco_mini / "dev_train", tmp_path / "run"
    values = (f"train.epochs={EPOCHS}", f"data.limit={IMAGES}")
    command(
        "train.py", "--config", ROOT / "configs/overfit_s.yaml", "--data", data, "--output", run,
        *(part for value in values for part in ("--set", value)),
    )  # fmt: skip
    keras, tflite = keras_and_tflite(run, "--data", data, "--split", "train", "--limit", IMAGES)
    assert keras["AP"] >= 0.60
    assert keras["APs"] >= 0.40
    assert abs(keras["AP"] - tflite["AP"]) <= 0.002
