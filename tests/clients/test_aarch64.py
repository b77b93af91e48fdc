"""The Raspberry Pis' binaries of both runtimes, under qemu: the wrapper finds there what it finds on x86."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clients import aarch64
from partners import FEW
from random_detectors import convert, spread_detector
from tinydet_lite.models import DIGITS

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
pytest.importorskip("tinydet_tf", reason="the float file is exported with it")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="qemu-user is for Linux"),
]

PACKAGE = Path(__file__).resolve().parents[2] / "tflite"
PICTURES = 2
SIZE = 128  # of the float model: emulation takes ten times as long and more
LEAST_SCORE = 0.1
TIMEOUT = 120
#: Runtime and file -> (pixels, score, share of detections that may have no partner within these). detections.json has
#: two digits of a pixel and four of a score. Of floats a few are apart where
#: NMS chooses otherwise; integer kernels round differently in every layer, which an x86 processor's own may do among
#: themselves, and most detections have a partner all the same. Here, alike on both CPUs: float32 0 pixels and 1e-4
#: (tflite-runtime 0); of int8 0.016 are apart, the others' 3.73 pixels and 0.0813 (2.67 and 0.0697). With the same
#: network calibrated instead of trained for int8: LiteRT 0 and 0; of tflite-runtime's 0.141 apart.
#: The float16 file is computed in float16 there and in float32 here: 0.025 apart (tflite-runtime 0.040), the others'
#: 0.47 pixels and 0.0451.
TOLERANCES = {
    ("ai_edge_litert", "float32"): (0.05, 1e-3, FEW),
    ("ai_edge_litert", "int8"): (4.0, 0.1, 0.25),
    ("tflite_runtime", "float32"): (0.05, 1e-3, FEW),
    ("tflite_runtime", "int8"): (4.0, 0.1, 0.25),
    ("ai_edge_litert", "float16"): (2.0, 0.1, 0.15),
    ("tflite_runtime", "float16"): (2.0, 0.1, 0.15),
}


@pytest.fixture(scope="module")
def emulated() -> Path:
    try:
        return aarch64.root()
    except aarch64.Unavailable as reason:
        pytest.skip(f"no aarch64: {reason}")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of scenes of digits, as PNG: JPEG decoders may differ."""
    from tinydet_tf.data.digits import digits_folder

    made = digits_folder(tmp_path_factory.mktemp("digits"), num_train=1, num_val=PICTURES) / "val" / "images"
    folder = tmp_path_factory.mktemp("pictures")
    for file in sorted(made.iterdir()):
        Image.open(file).save(folder / f"{file.stem}.png")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> dict[str, Path]:
    """The int8 file that comes with tinydet-lite, and float ones of random weights whose scores are spread."""
    from tinydet_tf.config import VARIANTS, Config

    names = tuple("abcdef")
    batch = np.stack([Image.open(file).convert("RGB").resize((SIZE, SIZE)) for file in sorted(pictures.iterdir())])
    built = spread_detector(batch, len(names))
    config = Config(variant="S", model=VARIANTS["S"], class_names=names, category_ids=tuple(range(1, len(names) + 1)))
    paths = {"int8": DIGITS}
    for name in ("float32", "float16"):
        paths[name] = tmp_path_factory.mktemp("models") / f"{name}.tflite"
        paths[name].write_bytes(convert(built, config, quantization=name))
    return paths


Found = dict[str, list[tuple[str, float, NDArray[np.float64]]]]


def _arguments(model: Path, pictures: Path, output: Path) -> list[str]:
    options = ["--threshold", str(LEAST_SCORE), "--threads", "1", "--no-drawn", "--output", str(output)]
    return ["-m", "tinydet_lite", "detect", "--model", str(model), "--source", str(pictures), *options]


def _read(output: Path) -> Found:
    report = json.loads((output / "detections.json").read_text())
    return {
        image["file"]: [(found["name"], found["score"], np.array(found["box"])) for found in image["detections"]]
        for image in report["images"]
    }


@pytest.fixture(scope="module")
def here(models: dict[str, Path], pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """File -> what this machine's LiteRT finds."""
    found = {}
    for name, model in models.items():
        output = tmp_path_factory.mktemp("here")
        command = [sys.executable, *_arguments(model, pictures, output)]
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE), "TINYDET_RUNTIME": "ai_edge_litert"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        assert done.returncode == 0, done.stderr
        found[name] = _read(output)
        assert sum(map(len, found[name].values())) >= 10, "nothing to compare"
    return found


@pytest.mark.parametrize("cpu", aarch64.CPUS)
@pytest.mark.parametrize("runtime", aarch64.WHEELS)
def test_same_detections_as_on_x86(runtime, cpu, emulated, models, pictures, here, tmp_path):
    for name, model in models.items():
        # The other CPU adds dot products of int8, and arithmetic in float16.
        if cpu != {"float32": "cortex-a72", "float16": "cortex-a76"}.get(name, cpu):
            continue
        output = tmp_path / name
        done = aarch64.run_python(_arguments(model, pictures, output), runtime, cpu, [PACKAGE], TIMEOUT)
        assert done.returncode == 0, f"{runtime} on {cpu}, {name}: {done.stderr[-2000:]}"
        distances, differences = _differences(here[name], _read(output))
        limit, score_limit, share = TOLERANCES[runtime, name]
        apart = (distances > limit) | (differences > score_limit)
        print(
            f"{runtime} on {cpu}, {name}: {len(distances)} detections, apart {apart.mean():.3f}, the others' "
            f"{distances[~apart].max(initial=0):.3g} pixels and {differences[~apart].max(initial=0):.3g}"
        )
        assert apart.sum() <= max(1, share * len(apart))


def _differences(ours: Found, theirs: Found) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(pixels, score) between each of our detections and the most alike of theirs in the same picture and class."""
    assert set(ours) == set(theirs)
    rows = []
    for file, detections in ours.items():
        for name, score, box in detections:
            # One that is just above the threshold here may be just below it there.
            if score < 1.5 * LEAST_SCORE:
                continue
            others = [
                (np.abs(other[2] - box).max(), abs(other[1] - score)) for other in theirs[file] if other[0] == name
            ]
            rows.append(min(others, key=lambda pair: pair[0] + 100 * pair[1], default=(np.inf, np.inf)))
    assert rows
    return np.array(rows)[:, 0], np.array(rows)[:, 1]
