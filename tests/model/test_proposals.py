"""Proposals against the numpy reference, with ties, clipping and boxes that would have no area."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import references
from tinydet_tf.anchors import all_anchors
from tinydet_tf.model.proposals import select_proposals

SIZE = 128
OPTIONS: dict[str, Any] = {"image_size": SIZE, "nms_pre": 200, "max_proposals": 60, "iou_threshold": 0.7}
ANCHORS = all_anchors((16, 8, 4, 2), (8, 16, 32, 64), 2.25, (0.5, 1.0, 2.0))


def random_outputs(seed: int, spread: float = 0.4) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    logits = [rng.normal(size=len(a)).astype(np.float32) for a in ANCHORS]
    deltas = [(rng.normal(size=a.shape) * spread).astype(np.float32) for a in ANCHORS]
    return logits, deltas


def check(logits: list[np.ndarray], deltas: list[np.ndarray], **changes: Any) -> np.ndarray:
    options = {**OPTIONS, **changes}
    rois, valid = (
        values[0]
        for values in select_proposals([x[None] for x in logits], [x[None] for x in deltas], ANCHORS, **options)
    )
    expected = references.select_proposals(logits, deltas, ANCHORS, **options)
    count = int(valid.numpy().sum())
    assert count == len(expected)
    assert valid.numpy().tolist() == [1.0] * count + [0.0] * (options["max_proposals"] - count)
    np.testing.assert_allclose(rois.numpy()[:count], expected, atol=1e-3)  # measured 1.5e-5
    return rois.numpy()


@pytest.mark.parametrize("seed", range(3))
def test_matches_reference(seed: int) -> None:
    check(*random_outputs(seed))


@pytest.mark.parametrize("changes", [{}, {"max_proposals": 1000, "iou_threshold": 0.05}], ids=["full", "too few"])
def test_a_batch_gives_what_its_images_give(changes: dict[str, Any]) -> None:
    options = {**OPTIONS, **changes}
    outputs = [random_outputs(0), random_outputs(1, 1.0), no_area_outputs()]
    tied = [np.full(len(a), 2.0, np.float32) for a in ANCHORS]
    outputs.append((tied, random_outputs(2)[1]))
    logits, deltas = ([tf.stack(level) for level in zip(*kind, strict=True)] for kind in zip(*outputs, strict=True))
    rois, valid = tf.function(lambda a, b: select_proposals(a, b, ANCHORS, **options))(logits, deltas)
    for image in range(len(outputs)):
        one = [[x[image : image + 1] for x in values] for values in (logits, deltas)]
        expected = select_proposals(one[0], one[1], ANCHORS, **options)
        np.testing.assert_array_equal(valid[image], expected[1][0])
        # Measured 1.6e-5 at 320 pixels: exp of a whole batch and of one image round differently.
        np.testing.assert_allclose(rois[image], expected[0][0], atol=1e-3)


def test_fewer_than_asked_for() -> None:
    logits, _ = random_outputs(0)
    rois = check(logits, [np.zeros_like(a) for a in ANCHORS], max_proposals=1000, iou_threshold=0.05)
    assert np.isfinite(rois).all()


def test_all_scores_tied() -> None:
    """Plain ties, and ties of the sigmoid alone (logits of 40 and 50 are both 1.0): the better logit wins."""
    _, deltas = random_outputs(1)
    check([np.full(len(a), 2.0, np.float32) for a in ANCHORS], deltas)
    rng = np.random.default_rng(0)
    check([rng.choice([40.0, 50.0, 60.0], len(a)).astype(np.float32) for a in ANCHORS], deltas)


def no_area_outputs() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The best candidates are pushed far out of the image: clipped, they are lines and points on its border."""
    logits, deltas = random_outputs(2)
    for level in range(4):
        deltas[level][::3, 0] = 40.0  # to the right
        deltas[level][1::3, 1] = -40.0  # up
        deltas[level][::5] = [-50.0, 60.0, -9.0, -9.0]  # a corner, and as small as a delta can make it
        logits[level][::3] += 20.0
    return logits, deltas


def test_boxes_outside_the_image_keep_an_area() -> None:
    rois = check(*no_area_outputs())
    assert (rois[:, 2:] - rois[:, :2] + 1 > 0).all()


def test_the_naive_form_does_lose_proposals() -> None:
    """Why boxes keep an area: NMS on inclusive corners, fed one line of a box, gives little else in TFLite
    (tests/export/test_rewrites.py looks at it in the runtime)."""
    boxes = np.array([[5, 5, 5, 20]] + [[20.0 * i, 30, 20 * i + 10, 40] for i in range(6)], np.float32)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([7, 4]), tf.TensorSpec([7])])
    def naive(boxes: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
        return tf.raw_ops.NonMaxSuppressionV4(
            boxes=boxes, scores=scores, max_output_size=6, iou_threshold=0.7, score_threshold=0.0,
            pad_to_max_output_size=True,
        )[0]  # fmt: skip

    converter = tf.lite.TFLiteConverter.from_concrete_functions([naive.get_concrete_function()], naive)
    interpreter = Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        value = boxes if len(detail["shape"]) == 2 else np.linspace(0.9, 0.1, 7).astype(np.float32)
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    selected = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert len(set(selected.tolist())) < 6, "this runtime no longer repeats zero-area boxes: simplify proposals.py"
