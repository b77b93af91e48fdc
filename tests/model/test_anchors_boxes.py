"""Anchors against numbers worked out by hand; box arithmetic against the numpy reference."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

import references
from tinydet_tf import boxes
from tinydet_tf.anchors import base_anchors, level_anchors
from tinydet_tf.config import VARIANTS


def test_base_anchors_by_hand() -> None:
    # S, stride 8: side 18, centre 3.5. Ratio 1: 3.5 -+ 8.5. Ratio 0.5 (h:w): w 25.46, h 12.73, rounded.
    np.testing.assert_array_equal(
        base_anchors(18.0, 8, (0.5, 1.0, 2.0)), [[-9, -2, 16, 9], [-5, -5, 12, 12], [-2, -9, 9, 16]]
    )


def test_anchors_are_in_the_order_of_the_outputs() -> None:
    anchors = level_anchors(5, 64, 2.25, (0.5, 1.0, 2.0))
    assert anchors.shape == (75, 4)
    base = base_anchors(144.0, 64, (0.5, 1.0, 2.0))
    row, column, ratio = 2, 3, 1
    expected = base[ratio] + [column * 64, row * 64, column * 64, row * 64]
    np.testing.assert_array_equal(anchors[(row * 5 + column) * 3 + ratio], expected)


def test_anchor_sides_of_the_variants() -> None:
    sides = {v: [round(c.anchor_scale * s, 2) for s in c.strides] for v, c in VARIANTS.items()}
    assert sides["S"] == [18.0, 36.0, 72.0, 144.0]
    assert sides["M"] == [12.8, 25.6, 51.2, 102.4, 204.8]
    assert sides["L"][0] == 20.48 and sides["L"][-1] == 327.68


def random_boxes(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low, side = rng.uniform(0, 300, [n, 2]), rng.uniform(0, 50, [n, 2])
    return np.concatenate([low, low + side], 1).astype(np.float32)


def test_decode_matches_reference() -> None:
    anchors = random_boxes(50)
    deltas = np.random.default_rng(1).normal(size=[50, 4]).astype(np.float32) * 3
    for stds in (boxes.RPN_STDS, boxes.RCNN_STDS):
        expected = [references.decode(a, d, stds) for a, d in zip(anchors, deltas, strict=True)]
        # Measured 1.2e-4 on sides of up to 3,000 pixels.
        np.testing.assert_allclose(boxes.decode(anchors, deltas, stds), expected, rtol=1e-5, atol=5e-4)


def test_encode_is_the_inverse_of_decode() -> None:
    anchors, targets = random_boxes(50), random_boxes(50, 1)
    targets[0, 2:] = targets[0, :2]  # one pixel
    deltas = boxes.encode(anchors, targets, boxes.RCNN_STDS)
    np.testing.assert_allclose(boxes.decode(anchors, deltas, boxes.RCNN_STDS), targets, atol=2e-4)  # measured 3.1e-5


def test_extreme_deltas_stay_finite() -> None:
    wild = tf.constant([[1e4, -1e4, 1e4, -1e4]])
    box = boxes.decode(tf.constant([[0.0, 0.0, 15.0, 15.0]]), wild).numpy()[0]
    assert np.isfinite(box).all()
    assert abs((box[2] - box[0] + 1) - 1000) < 0.1 and (box[3] - box[1] + 1) > 0  # 16 * 62.5


def test_iou_matches_reference() -> None:
    a, b = random_boxes(20), random_boxes(30, 1)
    b[:10] = a[:10] + 3
    expected = [[references.iou(x, y) for y in b] for x in a]
    np.testing.assert_allclose(boxes.iou(tf.constant(a)[:, None], tf.constant(b)[None]), expected, atol=1e-5)
    over_a = boxes.iou(tf.constant([[0.0, 0, 9, 9]]), tf.constant([[5.0, 0, 100, 100]]), over_a=True)
    assert float(over_a[0]) == 0.5
