"""MediaPipe's own ObjectDetector, in an environment of its own, reads the tasks form and finds what our Detector does.

It resizes otherwise than we do, so the pictures have the input's size. It cuts boxes to whole pixels and makes one
detection of several classes with the same box.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from environments import python_with, without_our_paths
from partners import FEW
from random_detectors import convert, noise, spread_detector
from tinydet_lite import Detector

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
pytest.importorskip("tensorflow", reason="the files are exported with TensorFlow")
pytest.importorskip("tinydet_tf")
from tinydet_tf.config import VARIANTS, Config
from tinydet_tf.export.calibration import CalibrationImages

pytestmark = pytest.mark.slow

SIZE, PICTURES = 192, 4
NAMES = ("person", "traffic light", "Tür", "dog")
PACKAGE = "mediapipe==1.2.3"
LEAST_SCORE = 0.05
#: Format -> (pixels of x, y, width and height, each of which it cuts to a whole number; score; share of detections that
#: may have no partner within these). Where proposals are nearly equal NMS keeps another: a few of a hundred in
#: float32. Integer kernels round differently in every layer: LiteRT's own with and without XNNPACK leave 0.14 of a
#: trained model's detections apart. Here: float32 0.9993 pixels, 3e-8, none apart; int8 0.17 apart.
TOLERANCES = {"float32": (1.02, 1e-3, FEW), "int8": (4.0, 0.1, 0.3)}
PROGRAM = """
import json, sys
import mediapipe as mp
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

options = vision.ObjectDetectorOptions(
    base_options=BaseOptions(model_asset_path=sys.argv[1]),
    score_threshold=float(sys.argv[3]),
)
found = []
with vision.ObjectDetector.create_from_options(options) as detector:
    for picture in np.load(sys.argv[2]):
        result = detector.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=picture))
        found.append([
            [box.origin_x, box.origin_y, box.width, box.height, kind.score, kind.category_name]
            for one in result.detections for box in [one.bounding_box] for kind in one.categories
        ])
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def mediapipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with MediaPipe and nothing of ours."""
    return python_with(tmp_path_factory.mktemp("mediapipe"), [PACKAGE])


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    return noise(PICTURES, SIZE)


@pytest.fixture(scope="module")
def trained(pictures: NDArray[np.uint8]) -> Any:
    return spread_detector(pictures, len(NAMES), steps=10)


@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_same_detections(
    quantization: str, mediapipe: Path, trained: Any, pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    config = Config(variant="S", model=VARIANTS["S"], class_names=NAMES, category_ids=(1, 2, 3, 4))
    samples = CalibrationImages(pictures, tuple(range(PICTURES)), tuple(map(str, range(PICTURES))), "noise", 1)
    path = tmp_path / "model.tflite"
    path.write_bytes(convert(trained, config, quantization=quantization, postprocess="tasks", samples=samples))
    np.save(tmp_path / "pictures.npy", pictures)

    done = subprocess.run(
        [str(mediapipe), "-c", PROGRAM, str(path), str(tmp_path / "pictures.npy"), str(LEAST_SCORE)],
        env=without_our_paths(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    others = json.loads(done.stdout)
    assert len(others) == PICTURES
    detector = Detector(path, score_threshold=LEAST_SCORE)
    pixels, scores = [], []
    for picture, other in zip(pictures, others, strict=True):
        found = detector(picture)
        if quantization == "float32":
            assert abs(len(found) - len(other)) <= FEW * len(found)
        for one in found:
            x1, y1, x2, y2 = one.box
            box = np.array([x1, y1, x2 - x1, y2 - y1])
            same = [(np.abs(box - row[:4]).max(), abs(one.score - row[4])) for row in other if row[5] == one.name]
            pixel, score = min(same, key=lambda pair: pair[0] + 100 * pair[1], default=(np.inf, np.inf))
            pixels.append(pixel)
            scores.append(score)
    distances, differences = np.array(pixels), np.array(scores)
    limit, score_limit, share = TOLERANCES[quantization]
    apart = (distances > limit) | (differences > score_limit)
    print(
        f"{quantization}: {len(distances)} detections, apart {apart.mean():.4f}, "
        f"the others' {distances[~apart].max(initial=0):.4f} pixels and {differences[~apart].max(initial=0):.2g}"
    )
    assert len(distances) > 10 * PICTURES
    assert apart.mean() <= share
