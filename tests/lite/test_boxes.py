"""The two box conventions, and the overlap of inclusive boxes counted pixel by pixel."""

import numpy as np
import pytest

from tinydet_lite.boxes import inclusive_iou, to_continuous, to_inclusive


def test_conversion_keeps_the_area_of_known_pixels():
    # Pixels 2..5 across and 1..1 down: four wide, one high.
    continuous = np.array([[2, 1, 6, 2]], np.float32)
    inclusive = to_inclusive(continuous)
    np.testing.assert_array_equal(inclusive, [[2, 1, 5, 1]])
    assert inclusive.dtype == np.float32
    np.testing.assert_array_equal(to_continuous(inclusive), continuous)


def test_conversion_keeps_empty_and_padded_shapes():
    assert to_inclusive(np.zeros((0, 4), np.float32)).shape == (0, 4)
    assert to_continuous(np.zeros((2, 5, 4), np.float32)).shape == (2, 5, 4)


def test_conversion_takes_tensors():
    tf = pytest.importorskip("tensorflow")
    boxes = to_inclusive(tf.constant([[0.0, 0.0, 10.0, 20.0]]))
    assert isinstance(boxes, tf.Tensor)
    np.testing.assert_array_equal(boxes.numpy(), [[0, 0, 9, 19]])
    np.testing.assert_array_equal(to_continuous(boxes).numpy(), [[0, 0, 10, 20]])


def test_iou_counts_pixels():
    """On whole-pixel boxes inclusive IoU is the share of common pixels, which can be counted."""
    rng = np.random.default_rng(0)
    low = rng.integers(0, 12, (30, 2))
    boxes = np.concatenate([low, low + rng.integers(0, 8, (30, 2))], axis=1)
    masks = np.zeros((30, 24, 24), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1 : y2 + 1, x1 : x2 + 1] = True
    expected = [[(a & b).sum() / (a | b).sum() for b in masks] for a in masks]
    np.testing.assert_array_equal(inclusive_iou(boxes, boxes), expected)


def test_iou_of_boxes_without_area_is_zero():
    boxes = [[5, 5, 3, 9], [0, 0, 9, 9], [5, 5, 4, 4]]  # the last: width and height 0
    iou = inclusive_iou(boxes, boxes)
    np.testing.assert_array_equal(iou, [[0, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert inclusive_iou(np.zeros((0, 4)), boxes).shape == (0, 3)


def test_iou_never_exceeds_one():
    """Soft-NMS multiplies by 1 - IoU; a rounding above 1 would make a score negative."""
    rng = np.random.default_rng(1)
    boxes = np.sort(rng.uniform(0, 1e4, (400, 2, 2)), axis=1).reshape(-1, 4)
    nearly = boxes * (1 + rng.uniform(-1e-15, 1e-15, boxes.shape))
    assert inclusive_iou(boxes, nearly).max() <= 1.0
    assert (np.diag(inclusive_iou(boxes, nearly)) > 1 - 1e-10).all()  # measured: 1 - 2.3e-12
