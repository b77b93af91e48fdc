"""Weights on disk: what a run starts from, by name and shape, from a detector or a backbone alone."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest

from tinydet_lite.errors import UserError
from tinydet_tf.config import Config, model_config
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.training.run.train import report_start
from tinydet_tf.weights import initialize, load_detector, save_backbone, save_weights

SMALL = {"input_size": 64}


def detector(classes: int, **overrides: object) -> tuple[TinyDet, Config]:
    model = model_config("S", **{**SMALL, **overrides})
    names = tuple(f"thing{i}" for i in range(classes))
    return TinyDet(model, classes), Config(class_names=names, category_ids=tuple(range(classes)), model=model)


def values(layer: object) -> list[np.ndarray]:
    return layer.get_weights()  # type: ignore[attr-defined]


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
    np.testing.assert_array_equal(
        values(target.pyramid.get_layer("block16_project"))[0], values(source.pyramid.get_layer("block16_project"))[0]
    )
    with pytest.raises(UserError, match="holds a backbone alone; train a detector from it"):
        load_detector(file)


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    source, config = detector(5)
    for save, name in ((save_weights, "a.weights.h5"), (save_backbone, "b.weights.h5")):
        save(source, config, tmp_path / name)
        target = TinyDet(model_config("M", **SMALL), 5)
        with pytest.raises(UserError, match=r"has the backbone mobilenetv3_d \(TinyDet-S\), .*; add --variant S, or"):
            initialize(target, tmp_path / name, variant="M")
    save_weights(source, dataclasses.replace(config, variant="M"), tmp_path / "c.weights.h5")
    target = TinyDet(model_config("M", **SMALL), 5)
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
