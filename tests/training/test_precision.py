"""Mixed precision: near float32's training, float32 weights, and float16's steps without a finite gradient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tinydet_lite.errors import UserError
from tinydet_tf.config import TrainConfig, model_config
from tinydet_tf.model.detector import TinyDet
from tinydet_tf.training.run import make_optimizer
from tinydet_tf.training.trainer import LOSSES, Batch, Trainer

SIZE, STEPS = 128, 3


def trainer_of(precision: str) -> Trainer:
    keras.utils.set_random_seed(0)
    recipe = TrainConfig(
        precision=precision, nms_pre=200, proposals=100, rcnn_samples=32, rpn_samples=64, optimizer="sgd", ema=0.9
    )
    detector = TinyDet(model_config("S", input_size=SIZE), 4, precision=precision)
    trainer = Trainer(detector, recipe)
    trainer.compile(optimizer=make_optimizer(recipe, 0.003))
    return trainer


def some_batch() -> Batch:
    """Two images with three boxes."""
    boxes = np.zeros([2, 4, 4], np.float32)
    boxes[0, :2], boxes[1, 0] = [[20, 20, 60, 50], [5, 70, 25, 90]], [64, 3, 90, 30]
    mask = boxes.any(-1)
    return {
        "images": tf.constant(np.random.default_rng(0).uniform(0, 255, [2, SIZE, SIZE, 3]).astype(np.float32)),
        "gt_boxes": tf.constant(boxes),
        "gt_classes": tf.constant(np.where(mask, 1, -1).astype(np.int32)),
        "gt_mask": tf.constant(mask),
        "crowd_boxes": tf.zeros([2, 1, 4]),
        "crowd_mask": tf.zeros([2, 1], tf.bool),
        "seeds": tf.constant([[0, 3], [1, 3]]),
    }


def test_near_float32() -> None:
    batch = some_batch()
    losses, outputs = {}, {}
    for precision in ("float32", "mixed_bfloat16", "mixed_float16"):
        trainer = trainer_of(precision)
        assert keras.mixed_precision.global_policy().name == "float32"
        assert trainer.detector.pyramid.get_layer("lateral0").compute_dtype == precision.removeprefix("mixed_")
        if precision == "mixed_float16":
            trainer.optimizer._loss_scale._current_loss_scale.assign(256.0)  # or the first steps are left out
        for _ in range(STEPS):
            results = trainer.train_step(batch)
        losses[precision] = np.array([float(results[name]) for name in LOSSES])
        assert {w.dtype for w in trainer.detector.get_weights()} == {np.dtype(np.float32)}
        # What is exported and evaluated elsewhere: the same weights in a plain detector.
        plain = TinyDet(trainer.detector.config, 4)
        plain.set_weights(trainer.detector.get_weights())
        found, expected = (detector.rpn(detector.features(batch["images"])) for detector in (trainer.detector, plain))
        assert all(t.dtype == tf.float32 for t in (*found[0], *found[1]))
        spread = max(float(tf.math.reduce_std(t)) for t in expected[0])
        outputs[precision] = max(
            float(tf.reduce_max(tf.abs(a - b))) for a, b in zip(found[0], expected[0], strict=True)
        ) / max(spread, 1e-6)
    for precision in ("mixed_bfloat16", "mixed_float16"):
        print(precision, losses[precision] / losses["float32"], outputs)
        np.testing.assert_allclose(losses[precision], losses["float32"], rtol=0.1, atol=0.02)
    assert outputs["float32"] < 1e-4


def test_float16_leaves_out_a_step_that_is_not_finite(tmp_path: Path) -> None:
    """Weights, moving average and momentum stay; the scale is halved, and a checkpoint keeps it."""
    trainer = trainer_of("mixed_float16")
    batch = some_batch()
    optimizer = trainer.optimizer
    scale = float(optimizer.loss_scale)
    optimizer._loss_scale._current_loss_scale.assign(3e38)  # no gradient fits float16
    before = [w.numpy() for w in trainer.detector.trainable_variables]
    slots = [v.numpy() for v in optimizer.inner_optimizer.variables]
    results = trainer.train_step(batch)
    assert np.isfinite(float(results["loss"]))
    for now, then in zip(trainer.detector.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(now.numpy(), then)
    changed = [
        v.name for v, s in zip(optimizer.inner_optimizer.variables, slots, strict=True) if (v.numpy() != s).any()
    ]
    assert changed == ["iteration:0"]
    assert float(optimizer.loss_scale) == pytest.approx(1.5e38)

    optimizer._loss_scale._current_loss_scale.assign(scale / 4)
    path = tf.train.Checkpoint(model=trainer).save(str(tmp_path / "backup"))
    resumed = trainer_of("mixed_float16")
    tf.train.Checkpoint(model=resumed).restore(path).expect_partial()
    assert float(resumed.optimizer.loss_scale) == scale / 4
    resumed.train_step(batch)
    moved = [
        float(tf.reduce_max(tf.abs(w - b))) for w, b in zip(resumed.detector.trainable_variables, before, strict=True)
    ]
    assert max(moved) > 0.0 and np.isfinite(moved).all()


def test_unknown_precision() -> None:
    with pytest.raises(UserError, match="'float16'; choose one of"):
        TrainConfig(precision="float16")
    with pytest.raises(UserError, match="float32"):
        TrainConfig(precision="mixed_float16", qat=True)
