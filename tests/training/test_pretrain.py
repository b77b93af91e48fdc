"""Folders of images a class, and a backbone that learns from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from commands import Command
from tinydet_lite.preprocess import as_rgb_array, resize_to
from tinydet_tf.config import model_config
from tinydet_tf.data.class_folders import MIN_AREA, class_batches, random_window, read_class_folders
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.training.run import pretrain
from tinydet_tf.training.run.pretrain import BACKBONE, METRICS, classifier
from tinydet_tf.weights import initialize

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("columns", "dots", "rows")


def write_images(folder: Path, classes: Sequence[str] = CLASSES, count: int = 2, side: int = 64, seed: int = 0) -> Path:
    """Stripes and dots of any two colours: colour says nothing about the class."""
    rng = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            y, x = np.mgrid[: side + index % 5, :side] * (2 * np.pi / rng.uniform(6, 12)) + rng.uniform(0, 6)
            wave = {"columns": np.sin(x), "dots": 2 * np.sin(x) * np.sin(y), "rows": np.sin(y)}[name][..., None]
            ground, ink = rng.integers(0, 100, 3), rng.integers(156, 256, 3)
            pixels = np.where(wave > 0, ink, ground).astype(np.uint8)
            Image.fromarray(pixels[..., :: int(rng.choice([1, -1]))]).save(folder / name / f"{index:03}.png")
    return folder


@pytest.mark.slow
def test_it_learns_and_the_weights_arrive_in_a_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    data, run = write_images(tmp_path / "data", count=64), tmp_path / "run"
    networks: list[Any] = []

    def build(*args: Any, **kwargs: Any) -> Any:
        networks.append(classifier(*args, **kwargs))
        return networks[-1]

    monkeypatch.setattr(pretrain, "classifier", build)
    done = command(
        "pretrain_backbone.py", "--data", data, "--variant", "S", "--val-fraction", "0.25", "--epochs", "5",
        "--batch-size", "16", "--learning-rate", "0.003", "--input-size", "64", "--output", run,
    )  # fmt: skip
    out = done.out
    assert done.code == 0, done.err
    assert "3 classes, 144 images to train on, 48 to validate on; backbone mobilenetv3_d, 64x64" in out
    assert f"--variant S --init {run / BACKBONE} --data DIR" in out
    metrics = json.loads((run / METRICS).read_text())
    assert metrics["classes"] == list(CLASSES) and len(metrics["history"]) == 5
    best = max(metrics["history"], key=lambda entry: (entry["val_accuracy"], -entry["val_loss"]))
    assert metrics["best"] == best
    assert best["val_accuracy"] > 0.6  # a third by chance; measured 0.94

    # In a detector the weights are what they were in the run: the run's own last layer tells the classes apart by them.
    detector = TinyDet(model_config("S", input_size=64), 5)
    fresh, head = accuracy(detector, data), networks[0].get_layer("classes").get_weights()
    result = initialize(detector, run / BACKBONE, variant="S")
    assert {name.split("_")[0].rstrip("0123456789") for name in result.taken} == {"stem", "block"}
    assert accuracy(detector, data, head) > 0.6 > 0.4 > fresh  # measured 0.94; fresh 0.33


def accuracy(detector: TinyDet, folder: Path, head: list[np.ndarray] | None = None) -> float:
    """Of a classifier on a detector's backbone, on the validation images."""
    network = classifier(detector, 3, dropout=0.0)
    if head is not None:
        network.get_layer("classes").set_weights(head)
    images = read_class_folders(folder, val_fraction=0.25).val
    batches = class_batches(images, 3, input_size=64, batch_size=len(images.paths), training=False)
    [(pixels, labels)] = batches.as_numpy_iterator()
    return float((network(pixels).numpy().argmax(-1) == labels.argmax(-1)).mean())


def test_the_classifier_is_the_detectors_own_backbone_behind_its_own_normalization() -> None:
    detector = TinyDet(model_config("S", input_size=64), 1)
    network = classifier(detector, 3, dropout=0.5)
    ramp = np.mgrid[:64, :64].sum(0)[..., None] * [2, 1, 0]
    images = np.stack([np.zeros_like(ramp), 255 - ramp, ramp]).astype(np.uint8)
    # `features` is handed a pyramid that ends before the FPN: the numbers are those that the detector computes.
    pyramid, detector.pyramid = detector.pyramid, detector.backbone_model()
    vectors = detector.features(tf.constant(images))[-1].numpy().mean((1, 2))
    detector.pyramid = pyramid
    dense = network.get_layer("classes")
    expected = vectors @ dense.kernel.numpy() + dense.bias.numpy()
    scale = np.abs(expected).max()
    assert np.ptp(expected, axis=0).max() > 0.3 * scale
    np.testing.assert_allclose(
        network(images).numpy() / scale, expected / scale, rtol=0, atol=1e-4
    )  # sixty layers of rounding; here 4e-7


def test_splits_hold_each_image_once_and_every_class(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "a", count=7)
    (folder / "columns" / "notes.txt").write_text("no image")
    (folder / ".hidden").mkdir()
    data = read_class_folders(folder, val_fraction=0.01, seed=1)
    assert data.class_names == CLASSES
    assert data.val.labels == (0, 1, 2) and len(data.train.paths) == 18
    assert not set(data.train.paths) & set(data.val.paths)
    assert data == read_class_folders(folder, val_fraction=0.01, seed=1)
    assert data != read_class_folders(folder, val_fraction=0.01, seed=2)
    assert len(read_class_folders(folder, val_fraction=0.99).train.paths) == 3

    both = tmp_path / "b"
    write_images(both / "train", count=3)
    write_images(both / "val", count=1)
    data = read_class_folders(both)
    assert [len(data.train.paths), len(data.val.paths)] == [9, 3]
    assert all(
        path.parent.name == CLASSES[label] for path, label in zip(data.train.paths, data.train.labels, strict=True)
    )


def test_batches(tmp_path: Path) -> None:
    data = read_class_folders(write_images(tmp_path / "a", count=7), seed=1)
    plain = class_batches(data.val, 3, input_size=32, batch_size=2, training=False)
    images, labels = (np.concatenate(part) for part in zip(*plain.as_numpy_iterator(), strict=True))
    assert images.dtype == np.uint8 and labels.tolist() == np.eye(3).tolist()
    for image, path in zip(images, data.val.paths, strict=True):
        np.testing.assert_array_equal(image, resize_to(as_rgb_array(path), 32))

    def epochs(seed: int) -> list[list[np.ndarray]]:
        training = class_batches(data.train, 3, input_size=32, batch_size=4, training=True, seed=seed)
        return [[image for image, _ in training.as_numpy_iterator()] for _ in range(2)]

    first, again, other = epochs(5), epochs(5), epochs(6)
    assert [batch.shape for batch in first[0]] == [(4, 32, 32, 3)] * 4  # 18 images
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1]) and not np.array_equal(first, other)


def test_random_windows_stay_inside_and_cover_enough() -> None:
    rng = np.random.default_rng(0)
    windows = np.array([random_window(60, 40, rng) for _ in range(500)])
    assert (windows >= 0).all() and (windows[:, 2] <= 60).all() and (windows[:, 3] <= 40).all()
    sides = windows[:, 2:] - windows[:, :2]
    areas = sides.prod(1) / 2400
    assert MIN_AREA * 0.86 < areas.min() < 0.3 and areas.max() > 0.85
    ratios = sides[:, 0] / sides[:, 1] / 1.5
    assert 0.74 < ratios.min() < 0.8 and 1.25 < ratios.max() < 1.34


@pytest.mark.parametrize("training", [False, True])
def test_images_that_cannot_be_used_are_left_out(
    training: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = read_class_folders(write_images(tmp_path / "a", count=4)).train
    images.paths[2].write_bytes(b"no image")
    batches = class_batches(images, 3, input_size=32, batch_size=4, training=training)
    labels = np.concatenate([labels for _, labels in batches.as_numpy_iterator()])
    assert sorted(labels.argmax(1).tolist()) == sorted(np.delete(images.labels, 2).tolist())
    (told,) = (record.getMessage() for record in caplog.records)
    assert f"skipping 1 of 9 images: {images.paths[2]} is not an image" in told


def test_bad_input(tmp_path: Path, command: Command) -> None:
    good = write_images(tmp_path / "good")
    (tmp_path / "empty").mkdir()
    write_images(tmp_path / "one", CLASSES[:1])
    (write_images(tmp_path / "hollow") / "void").mkdir()
    write_images(tmp_path / "single", count=1)
    write_images(tmp_path / "half" / "train")
    write_images(tmp_path / "unlike" / "train")
    write_images(tmp_path / "unlike" / "val", CLASSES[:2])
    write_images(tmp_path / "whole" / "train")
    broken = sorted(write_images(tmp_path / "whole" / "val").rglob("*.png"))
    for file in broken[:4]:
        file.write_bytes(file.read_bytes()[:60])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    run = tmp_path / "run"

    for data, extra, words in (
        ("absent", (), "absent is no folder"),
        ("empty", (), "empty holds no folder; expected a folder of images for each of at least 2 classes"),
        ("one", (), "one holds the one class 'columns'; expected"),
        ("hollow", (), "void holds no image"),
        ("single", (), "columns has 1 image; a class needs 2"),
        ("half", (), "half has train/ and no val/"),
        ("unlike", (), "class 'rows' is in one of train/ and val/ alone"),
        ("whole", ("--val-fraction", "0.5"), "has a val/ of its own"),
        ("whole", (), f"4 of 6 images of {tmp_path / 'whole' / 'val'} cannot be used"),
        ("good", ("--val-fraction", "1"), "--val-fraction is 1.0; give a number between 0 and 1"),
        ("good", ("--batch-size", "4"), "--batch-size is 4, the training split has 3 images"),
        ("good", ("--epochs", "0"), "--epochs is 0; it must be positive"),
        ("good", ("--learning-rate", "nan"), "--learning-rate is nan; it must be positive"),
        ("good", ("--seed", "-1"), "--seed: '-1' is no seed"),
        ("good", ("--input-size", "224"), "input_size is 224; it must be a multiple of 64"),
        ("good", ("--variant", "XL"), "variant 'XL' does not exist"),
        ("good", ("--output", tmp_path / "taken"), "taken is not empty; give a new folder"),
    ):
        arguments = {"--input-size": 64, "--batch-size": 2, "--epochs": 1, "--output": run}
        arguments |= dict(zip(extra[::2], extra[1::2], strict=True))
        flat = [item for pair in arguments.items() for item in pair]
        done = command("pretrain_backbone.py", "--data", tmp_path / data, *flat)
        done.assert_refused(words)
        assert done.err.strip().splitlines()[-1].startswith("pretrain_backbone.py: error: ")
        assert not run.exists()
    assert read_class_folders(good).class_names == CLASSES
