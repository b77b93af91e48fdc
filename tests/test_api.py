"""The commands as functions, and a run on pictures, beside what the commands do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinydet_tf
from commands import Command
from tinydet_lite import Detections, Detector
from tinydet_lite.errors import UserError
from tinydet_tf import api
from tinydet_tf.data.digits import digits_folder
from tinydet_tf.weights import keep_threshold

SETTINGS = {
    "model.backbone": "shallow", "model.input_size": 64, "train.batch_size": 2, "train.epochs": 1,
    "train.nms_pre": 100, "train.proposals": 50, "train.rcnn_samples": 16, "train.learning_rate": 1e-4,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("digits"), num_train=4, num_val=2)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = api.train(data=data, output=folder, settings=SETTINGS, verbose=0)
    assert result["last"]["epoch"] == 1
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> api.Exported:
    """In float32, where another export of that name left its calibration."""
    folder = tmp_path_factory.mktemp("files")
    of_another = folder / "float32.calibration.json"
    of_another.write_text("{}")
    exported = api.export(run, folder / "float32.tflite")
    assert not of_another.exists()
    return exported


def picture(data: Path) -> Path:
    return next((data / "val" / "images").iterdir())


def assert_same(found: Detections, expected: Detections) -> None:
    for name in ("boxes", "scores", "class_ids"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.names == expected.names


def test_a_run_is_called_with_pictures(run: Path, data: Path) -> None:
    detector = tinydet_tf.load_detector(run, score_threshold=0.0)
    assert isinstance(detector, Detector) and detector.runtime == "Keras" and detector.labels == tuple("0123456789")
    found = detector.predict(picture(data))
    assert len(found) == 100
    pixels = Image.open(picture(data)).convert("RGB")
    for image in (pixels, np.asarray(pixels)):
        assert_same(detector(image), found)
    assert_same(detector.predict(picture(data)).above(0.05), found.above(0.05))
    # Without a threshold it is the measured one, else the .tflite's default.
    measured = tinydet_tf.load_detector(run).info.suggested_threshold
    assert tinydet_tf.load_detector(run).score_threshold == (0.3 if measured is None else measured)


def test_the_file_finds_what_the_run_finds(run: Path, exported: api.Exported, data: Path) -> None:
    assert exported.path.read_bytes() == exported.quantized.model and exported.quantized.calibration is None
    file = api.load_detector(exported.path, score_threshold=0.0)
    assert file.runtime != "Keras" and file.info.input_size == 64
    raw = file.raw(picture(data))["class_probs"].max(axis=(0, 1))
    ours = api.load_detector(run, score_threshold=0.0).raw(picture(data))["class_probs"].max(axis=(0, 1))
    # The network is hardly trained, so that order and boxes are ties; the best of each class is none.
    np.testing.assert_allclose(raw, ours, atol=1e-4)


def test_evaluate_is_the_command(run: Path, data: Path, command: Command, tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    assert command("evaluate.py", "--model", run, "--json", numbers).code == 0
    written = json.loads(numbers.read_text())
    assert {name: written[name] for name in ("AP", "AR100")}.items() <= api.evaluate(run, str(data)).metrics.items()
    assert api.evaluate(run, limit=1).num_images == 1
    assert api.evaluate("digits", data, limit=1).num_images == 1


def test_int8_takes_the_runs_own_images(run: Path, tmp_path: Path) -> None:
    exported = api.export(run, tmp_path / "int8.tflite", format="int8", calibration_images=2, threshold=0.25)
    assert exported.threshold == 0.25 and (tmp_path / "int8.calibration.json").is_file()
    detector = api.load_detector(exported.path)
    assert detector.info.quantization == "int8" and detector.score_threshold == 0.25
    assert detector.info.calibration.startswith("2 of 4 images")


def test_fewer_proposals(run: Path, exported: api.Exported, data: Path, tmp_path: Path) -> None:
    """The best ones are left, so that the outputs are the first rows of what all proposals give."""
    fewer = api.export(run, tmp_path / "x.tflite", proposals=12)
    few, all_of_them = (api.load_detector(file.path).raw(picture(data)) for file in (fewer, exported))
    assert few["boxes"].shape == (1, 12, 4) and len(all_of_them["boxes"][0]) > 12
    for name, values in few.items():
        np.testing.assert_allclose(values, all_of_them[name][:, :12], atol=1e-3)
    tasks = api.export(run, tmp_path / "tasks.tflite", postprocess="tasks", proposals=3)
    assert tasks.config.model.proposals_test == 3


def test_detect_takes_a_run(run: Path, data: Path, command: Command, tmp_path: Path) -> None:
    keep_threshold(run, 0.01)
    done = command("detect.py", "--model", run, "--source", picture(data), "--output", tmp_path / "found")
    assert done.code == 0, done.err
    assert "score at least 0.01" in done.out
    report = json.loads((tmp_path / "found" / "detections.json").read_text())
    expected = api.load_detector(run).predict(picture(data))
    assert len(expected) > 0 and len(report["images"][0]["detections"]) == len(expected)
    tiles = command(
        "detect.py", "--model", run, "--source", picture(data), "--output", tmp_path / "t", "--tiles", "2x2"
    )
    assert tiles.code == 0, tiles.err


def test_what_cannot_be(run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="proposals_test is 500000; 4 levels"):
        api.export(run, tmp_path / "x.tflite", proposals=500_000)
    with pytest.raises(UserError, match="the run's own configuration"):
        api.train(output=run, resume=True, variant="S")
    with pytest.raises(UserError, match="does not exist"):
        api.load_detector(tmp_path / "absent")
    with pytest.raises(UserError, match="--data and --seed choose images for --format int8 and int16; float32 needs"):
        api.export(run, tmp_path / "x.tflite", data=str(data), seed=0)
    with pytest.raises(UserError, match="0 calibration images"):
        api.export(run, tmp_path / "x.tflite", format="int8", calibration_images=0)
    with pytest.raises(UserError, match="does not end in"):
        api.export(tmp_path / "absent", tmp_path / "x.onnx")  # before anything is read
    assert not (tmp_path / "x.tflite").exists()
    exported = api.export(run, tmp_path / "y.tflite")
    with pytest.raises(UserError, match="does not say what data"):
        api.evaluate(exported.path)


@pytest.mark.slow
def test_resume(run: Path) -> None:
    assert api.train(output=run, resume=True, settings={"train.epochs": 2}, verbose=0)["last"]["epoch"] == 2
