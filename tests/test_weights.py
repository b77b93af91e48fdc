"""Weights on disk: what a run starts from, by name and shape, from a detector or a backbone alone."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import logging
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf

from scenes import dataset_of
from tinydet_lite.detections import Detections
from tinydet_lite.errors import UserError
from tinydet_lite.models import DIGITS
from tinydet_tf.cli.evaluate import suggestion
from tinydet_tf.config import Config, model_config
from tinydet_tf.keras_detector import open_detector
from tinydet_tf.matching import OperatingPoint
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.run_files import model_path
from tinydet_tf.training.run.callbacks import CocoValidation
from tinydet_tf.training.run.start import report_start
from tinydet_tf.training.run.train import RunTrainer
from tinydet_tf.weights import (
    initialize,
    keep_threshold,
    load_detector,
    read_config,
    read_threshold,
    save_backbone,
    save_weights,
)

SMALL = {"input_size": 64, "backbone": "shallow"}


def detector(classes: int, **overrides: object) -> tuple[TinyDet, Config]:
    model = model_config("S", **{**SMALL, **overrides})
    names = tuple(f"thing{i}" for i in range(classes))
    return TinyDet(model, classes), Config(class_names=names, category_ids=tuple(range(classes)), model=model)


def values(layer: object) -> list[np.ndarray]:
    return layer.get_weights()  # type: ignore[attr-defined]


@pytest.mark.parametrize("attribute", [None, "tinydet_sha256"])
def test_arrays_that_would_fill_the_memory(attribute: str | None, tmp_path: Path) -> None:
    file = tmp_path / "bomb.weights.h5"
    with h5py.File(file, "w") as content:
        content.create_dataset("layers/conv/vars/0", (2**42,), np.float32)  # declared, not written
        if attribute is not None:
            content.attrs[attribute] = "0" * 64
    assert file.stat().st_size < 10_000
    with pytest.raises(UserError, match="its arrays would take 17592186044416 bytes, more than 64 times"):
        load_detector(file, variant="S")


def test_a_run_may_have_the_name_of_a_model_that_comes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    assert model_path("digits") == DIGITS
    save_weights(*detector(2), Path("digits/best.weights.h5"))
    assert model_path("digits") == Path("digits")


def test_an_unknown_tflite_is_tried_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime may crash over a file that is sound, and would take the evaluation with it."""

    def crash(path: Path) -> None:
        raise UserError(f"{path} cannot be run")

    monkeypatch.setattr("tinydet_lite.guard.trial.try_model", crash)
    file = tmp_path / "x.tflite"
    file.write_bytes(DIGITS.read_bytes())
    with pytest.raises(UserError, match=r"x\.tflite cannot be run"):
        open_detector(file)
    assert open_detector("digits").labels == tuple("0123456789")


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    source, config = detector(2)
    source.variables[3].assign(tf.fill(source.variables[3].shape, np.nan))
    save_weights(source, config, tmp_path / "x.weights.h5")
    with pytest.raises(UserError, match=r"x\.weights\.h5: .* holds what is no finite number"):
        load_detector(tmp_path / "x.weights.h5")


def test_a_configuration_nested_too_deeply(tmp_path: Path) -> None:
    source, config = detector(2)
    save_weights(source, config, tmp_path / "x.weights.h5")
    for text in ("[" * 3000, np.float64(3.0)):
        with h5py.File(tmp_path / "x.weights.h5", "r+") as content:
            content.attrs["tinydet_config"] = text
        with pytest.raises(UserError, match="its configuration is damaged"):
            load_detector(tmp_path / "x.weights.h5")


def test_a_file_is_what_is_in_it_whatever_its_name(tmp_path: Path) -> None:
    (source, config), (target, _) = detector(5), detector(5)
    save_weights(source, config, tmp_path / "five.weights.h5")
    for name in ("renamed.h5", "WEIGHTS", "five.weights.h5.bak"):
        file = Path(shutil.copy(tmp_path / "five.weights.h5", tmp_path / name))
        loaded, _ = load_detector(file)
        for got, expected in zip(loaded.get_weights(), source.get_weights(), strict=True):
            np.testing.assert_array_equal(got, expected)
        assert initialize(target, file, variant="S").left == ()
        file.write_bytes(file.read_bytes()[:20000])
        with pytest.raises(UserError, match=re.escape(name)):
            load_detector(file)


def test_all_but_the_class_scores_come_from_another_class_count(tmp_path: Path) -> None:
    source, config = detector(5)
    file = tmp_path / "five.weights.h5"
    save_weights(source, config, file)
    target, _ = detector(3, input_size=128)
    result = initialize(target, file, variant="S")
    assert result.left == ("rcnn_score",)
    for part in ("pyramid", "rpn_head", "rcnn_head"):
        for layer in getattr(target, part).layers:
            if layer.name == "rcnn_score":
                continue
            for ours, theirs in zip(values(layer), values(getattr(source, part).get_layer(layer.name)), strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_a_layer_of_another_shape_stays_fresh(tmp_path: Path) -> None:
    source, config = detector(5)
    file = tmp_path / "a.weights.h5"
    save_weights(source, config, file)
    target, _ = detector(5, fpn_groups=[49, 5, 1, 1])
    before = values(target.pyramid.get_layer("fpn0_pointwise"))[0]
    assert initialize(target, file, variant="S").left == ("fpn0_pointwise",)
    np.testing.assert_array_equal(values(target.pyramid.get_layer("fpn0_pointwise"))[0], before)


def test_a_backbone_alone_starts_a_detector_and_is_no_detector(tmp_path: Path) -> None:
    source, config = detector(5)
    file = tmp_path / "backbone.weights.h5"
    save_backbone(source, config, file)
    target, _ = detector(3)
    result = initialize(target, file, variant="S")
    assert set(result.taken) == {layer.name for layer in source.backbone_model().layers if layer.variables}
    assert {name.split("_")[0].rstrip("0123") for name in result.left} == {"lateral", "fpn", "rpn", "rcnn"}
    last = [layer for layer in result.taken if layer.endswith("_project")][-1]
    np.testing.assert_array_equal(values(target.pyramid.get_layer(last))[0], values(source.pyramid.get_layer(last))[0])
    with pytest.raises(UserError, match="holds a backbone alone; train a detector from it"):
        load_detector(file)


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    source, config = detector(5, backbone="mobilenetv3_d")
    for save, name in ((save_weights, "a.weights.h5"), (save_backbone, "b.weights.h5")):
        save(source, config, tmp_path / name)
        target = TinyDet(model_config("M", input_size=64), 5)
        with pytest.raises(UserError, match=r"has the backbone mobilenetv3_d \(TinyDet-S\), .*; add --variant S, or"):
            initialize(target, tmp_path / name, variant="M")
    save_weights(source, dataclasses.replace(config, variant="M"), tmp_path / "c.weights.h5")
    target = TinyDet(model_config("M", input_size=64), 5)
    with pytest.raises(UserError, match=r"add --set model.backbone=mobilenetv3_d, or give weights of this backbone"):
        initialize(target, tmp_path / "c.weights.h5", variant="M")


def test_what_the_weights_were_trained_with_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Everything matches by name and shape, and means something else."""
    source, config = detector(3)
    file = tmp_path / "a.weights.h5"
    save_weights(source, config, file)
    save_backbone(source, config, tmp_path / "backbone.weights.h5")
    free = {"input_size": 128, "nms_pre_test": 900, "proposals_test": 100, "proposal_nms_iou": 0.6}
    same, _ = detector(3, **free)
    result = initialize(same, file, variant="S")
    assert (result.different, result.left) == ({}, ())
    with caplog.at_level(logging.INFO):
        report_start(result, file, config.class_names)
    assert [record.levelname for record in caplog.records] == ["INFO"]

    caplog.clear()
    other = {"align": False, "anchor_scale": 4.0, "anchor_ratios": (0.4, 1.0, 2.5), "psroi_reduce": "mean"}
    changed, _ = detector(3, **free, **other, roi_levels=3, roi_finest=20.0)
    result = initialize(changed, file, variant="S")
    assert result.left == () and set(result.different) == {*other, "roi_levels", "roi_finest"}
    report_start(result, file, ("thing1", "thing0", "thing2"))
    (told,) = (record.getMessage() for record in caplog.records)
    count = len(result.taken)
    assert told.startswith(f"{count} of {count} layers start from {file}, which was trained with other settings: ")
    for text in (
        "model.align true (here false)",
        "model.anchor_scale 2.25 (here 4.0)",
        "model.anchor_ratios [0.5, 1.0, 2.0] (here [0.4, 1.0, 2.5])",
        "model.psroi_reduce max (here mean)",
        "model.roi_levels 2 (here 3)",
        "classes thing0, thing1, thing2 (here thing1, thing0, thing2)",
    ):
        assert text in told
    # A backbone knows nothing of anchors.
    assert set(initialize(changed, tmp_path / "backbone.weights.h5", variant="S").different) == {"align"}


@functools.cache
def saved_detector() -> tuple[TinyDet, Config]:
    """One that is only written."""
    return detector(2)


def test_the_threshold_travels_with_the_weights(tmp_path: Path) -> None:
    source, config = saved_detector()
    file = tmp_path / "best.weights.h5"
    save_weights(source, config, file)
    assert read_threshold(file) is None, "as in files from before there was one"
    save_weights(source, config, file, threshold=0.42)
    assert read_threshold(file) == read_threshold(tmp_path) == 0.42
    assert keep_threshold(tmp_path, 0.5) == file and read_threshold(file) == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["best.weights.h5"]
    kept = read_config(file)  # checks the sum, which is of the weights
    assert kept is not None and kept.class_names == config.class_names
    for wrong in (1.5, float("nan"), "half"):
        with h5py.File(file, "r+") as content:
            content.attrs["tinydet_threshold"] = wrong
        with pytest.raises(UserError, match=r"its score threshold is .*not a number from 0 to 1"):
            read_threshold(file)
    file.write_bytes(b"none")
    with pytest.raises(UserError, match="is damaged"):
        read_threshold(file)


def test_training_keeps_the_threshold_of_the_weights_that_it_was_measured_with(tmp_path: Path) -> None:
    """An ant found at 0.8, one invented at 0.4: F1 is 1 from 0.41 to 0.80, whose middle is 0.60."""
    source, config = saved_detector()
    data = dataset_of(tmp_path / "data", [{"box": [10, 10, 20, 20], "category": 3}], names={3: "ant", 17: "bee"})
    boxes = np.array([[10, 10, 30, 30], [90, 90, 110, 110]], np.float32)
    found = Detections(boxes, np.array([0.8, 0.4], np.float32), np.zeros(2, np.int32), ("ant", "ant"))
    nothing = Detections.empty()
    shown = iter([found, nothing, nothing, *[nothing] * 3])  # the three pictures, twice
    callback = CocoValidation(
        lambda: lambda _: next(shown), ("ant", "bee"), data, every=2, epochs=4, strategy=tf.distribute.get_strategy()
    )
    copy: Any = SimpleNamespace(detector=source)
    trainer = RunTrainer(source, config, copy)
    callback.set_model(trainer)
    file = tmp_path / "best.weights.h5"
    for epoch, expected in enumerate((None, 0.6, None, None)):  # epochs 2 and 4 are validated
        logs: dict[str, Any] = {}
        callback.on_epoch_end(epoch, logs)
        trainer.save_weights(str(file))
        assert read_threshold(file) == expected
        assert logs.get("val_threshold") == expected
        assert ("val_F1" in logs) == bool(epoch % 2)
        if expected:
            assert logs["val_F1"] == 1.0


def test_what_a_report_does_with_its_threshold(tmp_path: Path) -> None:
    """Only weights without one get it, and only from all of val: a test split never tunes the model."""
    file = tmp_path / "best.weights.h5"
    h5py.File(file, "w").close()
    point = OperatingPoint(0.42, 0.8, 0.7, 0.75)

    def told(best: OperatingPoint | None = point, split: str = "val", limit: int | None = None) -> str:
        args = argparse.Namespace(model=tmp_path, split=split, limit=limit)
        return suggestion(args, best, read_threshold(tmp_path))

    for text, words in (
        (told(None), "no threshold is suggested"),
        (told(split="test"), r"of the test split, so the run does not keep it \(.*export --threshold 0.42"),
        (told(limit=5), "of a part of the images, so the run does not keep it"),
    ):
        assert re.search(words, text), text
        assert read_threshold(file) is None
    assert f"kept in {file}" in told() and read_threshold(file) == 0.42
    assert "which the model suggests" in told()
    other = dataclasses.replace(point, threshold=0.6)
    for split in ("val", "test"):
        assert "the model suggests 0.42 and keeps it" in told(other, split) and read_threshold(file) == 0.42
    (tmp_path / "x.tflite").write_bytes(b"any")
    of_a_file = argparse.Namespace(model=tmp_path / "x.tflite", split="val", limit=None)
    assert "the file suggests none and is not changed" in suggestion(of_a_file, point, None)
    assert (tmp_path / "x.tflite").read_bytes() == b"any"
