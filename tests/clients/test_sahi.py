"""SAHI, in an environment of its own, runs the model that comes with tinydet_lite through tinydet_lite.sahi."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from environments import python_with
from references import iou
from tinydet_lite.models import DIGITS

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
digits = pytest.importorskip("tinydet_tf.data.digits")

pytestmark = pytest.mark.slow

PACKAGES = ("sahi==0.12.8", "ai-edge-litert")
OURS = Path(__file__).resolve().parents[2] / "tflite"
PROGRAM = """
import json, sys
import numpy as np
from PIL import Image
from sahi.predict import get_prediction, get_sliced_prediction
from tinydet_lite import Detector
from tinydet_lite.sahi import TinyDetDetectionModel

def theirs(result):
    return [[*one.bbox.to_xyxy(), one.score.value, one.category.name] for one in result.object_prediction_list]

def ours(threshold, picture):
    found = Detector(sys.argv[1], num_threads=1, score_threshold=threshold)(picture)
    return [[*one.box, one.score, one.name] for one in found]

picture = np.asarray(Image.open(sys.argv[2]))
grey = Image.fromarray(picture).convert("L")
model = TinyDetDetectionModel(model_path=sys.argv[1], confidence_threshold=0.2)
loaded = TinyDetDetectionModel(model=Detector(sys.argv[1], num_threads=1), category_mapping=model.category_mapping)
json.dump({
    "pairs": [
        [theirs(get_prediction(picture, model)), ours(0.2, picture)],
        [theirs(get_prediction(picture, model, confidence_threshold=0.05)), ours(0.05, picture)],
        [theirs(get_prediction(picture, loaded)), ours(0.3, picture)],
        [theirs(get_prediction(grey, model)), ours(0.2, grey)],
    ],
    "sliced": [
        theirs(get_sliced_prediction(picture, model, slice_height=320, slice_width=320, batch_size=size, verbose=0))
        for size in (1, 3)
    ],
    "torch": "torch" in sys.modules,
}, sys.stdout)
"""


@pytest.fixture(scope="module")
def sahi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with SAHI and a runtime."""
    return python_with(tmp_path_factory.mktemp("sahi"), ["--no-compile", *PACKAGES])


def test_one_pass_is_the_detectors_and_slices_find_more(sahi: Path, tmp_path: Path) -> None:
    split = digits.digits_folder(tmp_path, num_train=1, num_val=1, image_size=(960, 640), density=0.3) / "val"
    truths = [
        (str(truth["category_id"] - 1), (x, y, x + w, y + h))
        for truth in json.loads((split / "instances.json").read_text())["annotations"]
        for x, y, w, h in [truth["bbox"]]
    ]
    picture = next((split / "images").iterdir())
    done = subprocess.run(
        [str(sahi), "-c", PROGRAM, str(DIGITS), str(picture)],
        env={**os.environ, "PYTHONPATH": str(OURS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert not answer["torch"]

    def hits(found: list[Any]) -> int:
        return sum(any(row[5] == name and iou(row[:4], box) >= 0.5 for row in found) for name, box in truths)

    for theirs, ours in answer["pairs"]:
        assert ours and theirs == ours
    sliced = answer["sliced"][0]
    assert answer["sliced"][1] == sliced
    print(f"{len(truths)} digits: one pass {hits(answer['pairs'][0][0])}, slices {hits(sliced)}")
    assert hits(sliced) >= 2 * hits(answer["pairs"][0][0])
    # No worse than every other digit: boxes are where the slices are, not where they were in them.
    assert hits(sliced) >= len(truths) / 2
