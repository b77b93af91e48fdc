"""tflite-runtime 2.14, in an environment of its own: the same files give the same detections as under LiteRT."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

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
from tinydet_tf.export.schemes import FORMATS

pytestmark = pytest.mark.slow

SIZE = 192
NAMES = tuple(f"thing {index}" for index in range(6))
PICTURES = 6
LEAST_SCORE = 0.05  # below it there is the noise of 200 proposals
#: The newest Python that tflite-runtime 2.14 has wheels for.
PYTHON = (3, 11)
PROGRAM = """
import json, sys
import numpy as np
from tinydet_lite import Detector
detector = Detector(sys.argv[1], num_threads=1, score_threshold=0.0)
found = [detector(picture) for picture in np.load(sys.argv[2])]
json.dump([detector.runtime] + [[f.boxes.tolist(), f.scores.tolist(), f.class_ids.tolist()] for f in found], sys.stdout)
"""
#: Format -> (pixels, score, share of detections that may have no partner within these). Where proposals are nearly
#: equal NMS keeps another: a few of a hundred in floats. The kernels of the two runtimes round integers differently in
#: every layer too, which shifts a box by pixels: most detections have a partner all the same. Here: float32 and float16
#: 3.1e-5 pixels and 3.7e-6, none apart; int16 0.0062 and 0.0011, none; of dynamic 0.10 are apart, of int8 0.13.
TOLERANCES = {
    "float32": (0.02, 1e-3, FEW),
    "float16": (0.02, 1e-3, FEW),
    "dynamic": (4.0, 0.1, 0.25),
    "int8": (4.0, 0.1, 0.25),
    "int16": (0.05, 5e-3, FEW),
}

Found = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]


@pytest.fixture(scope="module")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with tflite-runtime 2.14, numpy 1 and tinydet_lite."""
    base = sys.executable if sys.version_info[:2] <= PYTHON else shutil.which("python3.11")
    if base is None:
        pytest.skip("tflite-runtime 2.14 needs Python 3.11 or older, and there is none")
    # Without dependencies: tinydet-lite's own would bring ai-edge-litert.
    tflite = Path(__file__).resolve().parents[2] / "tflite"
    packages = (["tflite-runtime==2.14.0", "numpy<2", "pillow"], ["--no-deps", str(tflite)])
    return python_with(tmp_path_factory.mktemp("environment"), *packages, base=base)


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    return noise(PICTURES, SIZE)


@pytest.fixture(scope="module")
def detector(pictures: NDArray[np.uint8]):
    return spread_detector(pictures, len(NAMES))


def partners(found: Found, other: Found) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(pixels, score) between each detection and the one of the same class in `other` that is most like it."""
    pixels, scores = [], []
    for box, score, class_id in zip(*found, strict=True):
        if score < LEAST_SCORE:
            continue
        same = other[2] == class_id
        distances = np.abs(other[0][same] - box).max(1, initial=0.0)
        differences = np.abs(other[1][same] - score)
        if not len(distances):
            pixels.append(np.inf), scores.append(np.inf)
            continue
        nearest = (distances + 100 * differences).argmin()
        pixels.append(distances[nearest]), scores.append(differences[nearest])
    return np.array(pixels), np.array(scores)


@pytest.mark.parametrize("quantization", FORMATS)
def test_same_detections(quantization, old_python, detector, pictures, tmp_path):
    config = Config(variant="S", model=VARIANTS["S"], class_names=NAMES, category_ids=tuple(range(1, len(NAMES) + 1)))
    samples = CalibrationImages(pictures, tuple(range(PICTURES)), tuple(map(str, range(PICTURES))), "noise", 1)
    path = tmp_path / "model.tflite"
    path.write_bytes(convert(detector, config, quantization=quantization, samples=samples))
    np.save(tmp_path / "pictures.npy", pictures)
    new = Detector(path, num_threads=1, score_threshold=0.0)
    assert new.runtime == "ai_edge_litert"
    done = subprocess.run(
        [str(old_python), "-c", PROGRAM, str(path), str(tmp_path / "pictures.npy")],
        env=without_our_paths(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    runtime, *others = json.loads(done.stdout)
    assert runtime == "tflite_runtime" and len(others) == PICTURES
    pixels, scores = [], []
    for picture, other in zip(pictures, others, strict=True):
        found = new(picture)
        arrays = tuple(np.asarray(part, np.float64) for part in other)
        near = partners((found.boxes, found.scores, found.class_ids), arrays)
        pixels.append(near[0])
        scores.append(near[1])
    distances, differences = np.concatenate(pixels), np.concatenate(scores)
    assert len(distances) > 10 * PICTURES  # there is something to compare
    limit, score_limit, share = TOLERANCES[quantization]
    apart = (distances > limit) | (differences > score_limit)
    print(
        f"{quantization}: {len(distances)} detections, apart {apart.mean():.4f}, "
        f"the others' {distances[~apart].max(initial=0):.3g} pixels and {differences[~apart].max(initial=0):.3g}"
    )
    assert apart.mean() <= share
