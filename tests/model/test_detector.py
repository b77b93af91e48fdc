"""The whole network: parameters, shapes, one image against a batch, and what the public methods promise."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tinydet_tf
from partners import assert_same_rows, first
from tinydet_lite.errors import UserError
from tinydet_tf.model.detector import TinyDet

#: Trainable ones with 80 classes (docs/reference.md, "Counting"): batch normalization's moving statistics do not count.
PARAMETERS = {"S": 2_573_037, "M": 5_120_706, "L": 5_120_706}


@pytest.fixture(scope="module")
def detector() -> TinyDet:
    keras.utils.set_random_seed(0)
    return tinydet_tf.build_detector("S", num_classes=7)


def images(batch: int, size: int) -> np.ndarray:
    coarse = np.random.default_rng(0).uniform(0, 255, [batch, size // 16, size // 16, 3]).astype(np.float32)
    return np.asarray(tf.image.resize(coarse, [size, size]))


@pytest.mark.parametrize("variant", PARAMETERS)
def test_parameters_and_shapes(variant: str) -> None:
    built = tinydet_tf.build_detector(variant)
    assert sum(int(np.prod(w.shape)) for w in built.trainable_weights) == PARAMETERS[variant]
    size = built.config.input_size
    features = built.features(images(1, size))
    sides = [size // s for s in built.config.strides]
    assert [tuple(f.shape) for f in features] == [(1, s, s, 245) for s in sides]
    logits, deltas = built.rpn(features)
    assert [tuple(t.shape) for t in logits] == [(1, s, s, 3) for s in sides]
    assert [tuple(t.shape) for t in deltas] == [(1, s, s, 12) for s in sides]
    class_logits, box_deltas = built.rcnn(features, np.array([[0, 10, 10, 50, 60], [0, 0, 0, 9, 9]], np.float32))
    assert class_logits.shape == (2, 81) and box_deltas.shape == (2, 4)
    outputs = built(images(1, size))
    assert outputs["rois"].shape == outputs["boxes"].shape == (1, 200, 4)
    assert outputs["class_probs"].shape == (1, 200, 81)


def test_one_image_is_its_row_of_the_batch(detector: TinyDet) -> None:
    batch = images(3, 320)
    together = detector(batch)
    for i in range(3):
        alone = detector(batch[i : i + 1])
        # Kernels may sum a batch otherwise than one image.
        of_batch = {name: together[name].numpy()[i] for name in ("boxes", "class_probs")}
        assert_same_rows(first(alone), of_batch, pixels=2e-3, probability=2e-3)


def test_outputs_are_probabilities_and_boxes_in_the_image(detector: TinyDet) -> None:
    outputs = {name: value.numpy() for name, value in detector(images(2, 320)).items()}
    np.testing.assert_allclose(outputs["class_probs"].sum(-1), 1, atol=1e-5)
    for name in ("rois", "boxes"):
        assert outputs[name].min() >= 0 and outputs[name].max() <= 319


def test_padding_is_background() -> None:
    """A tiny image has fewer anchors than 200 proposals."""
    small = tinydet_tf.build_detector("S", num_classes=2, input_size=64, proposal_nms_iou=0.3)
    probs = small(images(1, 64))["class_probs"].numpy()[0]
    rois, valid = small.proposals(*small.rpn(small.features(images(1, 64))))
    count = int(valid.numpy().sum())
    assert 0 < count < 200
    np.testing.assert_array_equal(probs[count:], np.tile([1, 0, 0], [200 - count, 1]))
    assert (probs[:count, 0] < 1).all()
    assert rois.shape == (1, 200, 4)


def test_uint8_equals_float(detector: TinyDet) -> None:
    pixels = images(1, 320).astype(np.uint8)
    for a, b in zip(detector.features(pixels), detector.features(pixels.astype(np.float32)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_config_round_trip(detector: TinyDet) -> None:
    again = TinyDet.from_config(detector.get_config())
    assert again.config == detector.config and again.num_classes == detector.num_classes
    assert [w.shape for w in again.weights] == [w.shape for w in detector.weights]


def test_no_rois(detector: TinyDet) -> None:
    features = detector.features(images(1, 320))
    logits, deltas = detector.rcnn(features, tf.zeros([0, 5]))
    assert logits.shape == (0, 8) and deltas.shape == (0, 4)


def test_training_mode_updates_batch_norm_only_in_training(detector: TinyDet) -> None:
    moving = [w for w in detector.non_trainable_weights if "moving_mean" in w.name]
    before = [w.numpy() for w in moving]
    detector.features(images(2, 320))
    assert all((w.numpy() == b).all() for w, b in zip(moving, before, strict=True))
    detector.features(images(2, 320), training=True)
    assert any((w.numpy() != b).any() for w, b in zip(moving, before, strict=True))


def test_sc_convs_keep_the_signal_alive() -> None:
    """With Xavier over all 245 channels the RPN's inputs start 3,000 times too small and it hardly learns."""
    keras.utils.set_random_seed(0)
    built = tinydet_tf.build_detector("M", num_classes=2)
    features = built.features(images(2, 320), training=True)
    logits, _ = built.rpn(features)
    assert all(0.3 < float(tf.math.reduce_std(f)) < 10 for f in features)  # measured 1.3 to 3.8
    assert all(float(tf.math.reduce_std(t)) > 0.03 for t in logits)  # measured 0.15 to 0.46


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"variant": "X"}, "variant 'X' does not exist; choose one of S, M, L"),
        ({"input_sice": 320}, "unknown config key 'model.input_sice'; did you mean 'input_size'?"),
        ({"input_size": 300}, "input_size is 300; it must be a multiple of 64, the coarsest stride (nearest: 320)"),
        ({"psroi_reduce": "median"}, "psroi_reduce is 'median'; choose 'max' (published) or 'mean'"),
        ({"rpn_groups": 3}, "channels is 245; it must be a multiple of 49"),
    ],
)
def test_wrong_arguments(overrides: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"variant": "S", **overrides}
    with pytest.raises(UserError) as error:
        tinydet_tf.build_detector(**arguments)  # type: ignore[arg-type]
    assert message in str(error.value)
