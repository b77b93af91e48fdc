"""What a run starts from: weights that come along, those of --init, or random ones; and what is in those files."""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest

from tinydet_lite.errors import UserError
from tinydet_tf import starts
from tinydet_tf.config import VARIANTS, Config, DataConfig, TrainConfig, load_config, model_config
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.recipes import CONFIGS
from tinydet_tf.starts import start_file
from tinydet_tf.training.run.start import begin
from tinydet_tf.weights import load_detector, save_compact, save_weights


def test_whom_they_are_for() -> None:
    """The network as it is; another input and other anchors are learnt anew, another meaning of the weights is not."""
    file = start_file(model_config("S"))
    assert file is not None and file.name == "mobilenetv3_d.weights.h5"
    for change in ({"input_size": 512}, {"anchor_scale": 1.5}, {"proposals_test": 100}):
        assert start_file(model_config("S", **change)) == file
    for change in ({"align": False}, {"psroi_reduce": "mean"}, {"fpn_groups": [1, 1, 1, 1]}, {"backbone": "shallow"}):
        assert start_file(model_config("S", **change)) is None


def test_a_run_starts_from_them_unless_told_otherwise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = model_config("S", input_size=64)
    file = start_file(model)
    assert file is not None
    theirs, _ = load_detector(file)

    def started(config: Config, classes: int = 3) -> TinyDet:
        detector = TinyDet(config.model, classes)
        begin(detector, config)
        return detector

    def same(detector: TinyDet, other: TinyDet, part: str) -> bool:
        pairs = zip(getattr(detector, part).get_weights(), getattr(other, part).get_weights(), strict=True)
        return all(np.array_equal(ours, theirs) for ours, theirs in pairs)

    with caplog.at_level(logging.INFO):
        ours = started(Config(model=model))
    assert same(ours, theirs, "pyramid") and same(ours, theirs, "rpn_head")
    assert "have seen the digits" in caplog.text and "--set train.start=random" in caplog.text
    # The classes are others, so their scores alone are fresh.
    assert ours.rcnn_head.get_layer("rcnn_score").get_weights()[0].shape[-1] == 4
    for names, equal in (("abcdefghij", False), ("0123456789", True)):  # ten others are no digits
        ten = started(Config(model=model, class_names=tuple(names)), 10)
        for name, taken in (("rcnn_score", equal), ("rcnn_box", True)):
            ours, of_digits = (d.rcnn_head.get_layer(name).get_weights()[0] for d in (ten, theirs))
            assert np.array_equal(ours, of_digits) is taken, (names, name)
    random = started(Config(model=model, train=TrainConfig(start="random")))
    assert not same(random, theirs, "pyramid")
    given = tmp_path / "given.weights.h5"
    save_weights(random, Config(model=model, class_names=("a", "b", "c")), given)
    assert same(started(Config(model=model, train=TrainConfig(start=str(given)))), random, "pyramid")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        started(Config(model=model_config("S", input_size=64, backbone="shallow")))
    assert "none" not in caplog.text and "no others come along" in caplog.text


def test_what_is_in_them() -> None:
    """They can be used as they are, and say nothing of the machine that made them."""
    files = sorted(starts.FOLDER.glob("*.weights.h5"))
    assert files
    for file in files:
        assert file.stat().st_size < 12e6
        detector, config = load_detector(file)
        assert config.data == DataConfig() and config.class_names == tuple("0123456789")
        assert config.model == VARIANTS[config.variant] or config.model.backbone.startswith("edge")
        assert all(np.isfinite(w).all() for w in detector.get_weights())
        with h5py.File(file) as content:
            assert not [value for value in content.attrs.values() if "/" in str(value)]


def test_half_the_bytes(tmp_path: Path) -> None:
    detector = TinyDet(model_config("S", input_size=64), 2)
    data = DataConfig(root=str(tmp_path))
    config = Config(model=detector.config, class_names=("a", "b"), data=data)
    save_weights(detector, config, tmp_path / "whole.weights.h5", threshold=0.5)
    save_compact(tmp_path / "whole.weights.h5", tmp_path / "half.weights.h5")
    copy, its = load_detector(tmp_path / "half.weights.h5")
    assert its.data == DataConfig() and its.class_names == ("a", "b")
    assert (tmp_path / "half.weights.h5").stat().st_size < 0.6 * (tmp_path / "whole.weights.h5").stat().st_size
    for ours, theirs in zip(copy.get_weights(), detector.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2**-11, atol=2**-24)
    with pytest.raises(UserError, match="does not exist"):
        save_compact(tmp_path / "no.weights.h5", tmp_path / "x.weights.h5")


def test_an_unknown_start() -> None:
    with pytest.raises(UserError, match=r"train\.start is 'coco'; choose 'digits' or 'random', or give --init"):
        load_config(assignments=["train.start=coco"])


def test_the_papers_recipes_begin_with_random_weights() -> None:
    for file in (*CONFIGS.glob("tinydet_[sml].yaml"), *CONFIGS.glob("ablations/*.yaml"), CONFIGS / "digits_s.yaml"):
        assert load_config(file).train.start == "random", file
    assert load_config(variant="S").train.start == load_config("tinydet_s_edge").train.start == "digits"
