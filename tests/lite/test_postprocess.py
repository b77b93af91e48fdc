"""Soft-NMS against the slow reference, exactly; scaling, clipping, thresholds, values that are no numbers."""

import numpy as np
import pytest

from tinydet_lite.errors import UserError
from tinydet_lite.metadata import NmsSettings
from tinydet_lite.postprocess import postprocess, soft_nms

from . import references


def _random_case(seed, proposals=200, classes=5, spread=300.0, sharpness=2.0):
    """Boxes that overlap a lot, and softmax rows [P, C + 1]."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, spread, (proposals, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 120, (proposals, 2))], axis=1).astype(np.float32)
    logits = sharpness * rng.normal(size=(proposals, classes + 1))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return boxes, probs.astype(np.float32)


def assert_same(result, expected):
    proposals, class_ids, scores = result
    assert list(zip(proposals.tolist(), class_ids.tolist(), strict=True)) == [(p, c) for _, p, c in expected]
    np.testing.assert_array_equal(scores, np.float32([score for score, _, _ in expected]))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("classes", "sharpness"), [(1, 1.0), (5, 2.0), (20, 0.3), (80, 3.0)])
def test_soft_nms_equals_the_reference(seed, classes, sharpness):
    boxes, probs = _random_case(seed, 60, classes, 150.0, sharpness)
    expected = references.soft_nms(boxes.astype(float), probs[:, 1:].astype(float))
    assert expected
    assert_same(soft_nms(boxes, probs[:, 1:]), expected)


@pytest.mark.parametrize("seed", range(6))
def test_equal_scores_are_ordered_by_proposal_then_class(seed):
    """Few distinct scores and repeated boxes: ties everywhere, also after decay."""
    rng = np.random.default_rng(seed)
    boxes = rng.integers(0, 4, (40, 4)).astype(np.float32) + np.float32([0, 0, 6, 6])
    scores = rng.choice([0.0, 0.25, 0.5, 1.0], (40, 6))
    for limit in (7, 100, 1000):
        expected = references.soft_nms(boxes, scores, max_detections=limit)
        assert_same(soft_nms(boxes, scores, NmsSettings(max_detections=limit)), expected)
    tied = soft_nms(np.array([[0, 0, 5, 5], [90, 90, 99, 99]]), np.array([[0.0, 0.5], [0.5, 0.5]]))
    assert list(zip(*tied[:2], strict=True)) == [(0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    "settings",
    [
        {"score_threshold": 0.0, "min_score": 0.0},
        {"score_threshold": 0.0, "min_score": 0.3},
        {"iou_threshold": 0.0},
        {"iou_threshold": 1.0},
        {"max_detections": 1},
        {"max_detections": 1000},
    ],
)
def test_settings_mean_what_the_reference_says(settings):
    boxes, probs = _random_case(7, 50, 4, 60.0)
    assert_same(
        soft_nms(boxes, probs[:, 1:], NmsSettings(**settings)), references.soft_nms(boxes, probs[:, 1:], **settings)
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.02, 0.1, 0.3, 0.7])
def test_final_threshold_is_the_same_as_filtering_afterwards(seed, threshold):
    boxes, probs = _random_case(seed)
    everything = postprocess(boxes, probs, (640, 480), 320)
    direct = postprocess(boxes, probs, (640, 480), 320, final_threshold=threshold)
    filtered = everything.above(threshold)
    assert direct.to_dicts() == filtered.to_dicts()
    np.testing.assert_array_equal(direct.scores, filtered.scores)
    np.testing.assert_array_equal(direct.boxes, filtered.boxes)


def test_final_threshold_keeps_an_equal_float32_score():
    """float32(0.7) lies below the double 0.7; a user who asks for 0.7 still wants it."""
    probs = np.float32([[0.3, 0.7]])
    assert len(postprocess(np.float32([[0, 0, 9, 9]]), probs, (10, 10), 10, final_threshold=0.7)) == 1


def test_hand_written_decay():
    """Two boxes of 10 x 10 pixels, 8 x 10 shared: IoU 80/120. A third apart, a fourth of another class."""
    boxes = np.float32([[0, 0, 9, 9], [2, 0, 11, 9], [9, 0, 18, 9], [0, 0, 9, 9]])
    probs = np.float32([[0, 0.9, 0], [0, 0.6, 0], [0, 0.5, 0], [0, 0, 0.8]])
    found = postprocess(boxes, probs, (20, 20), 20, labels=("a", "b"))
    assert found.names == ("a", "b", "a", "a")
    np.testing.assert_allclose(found.scores, [0.9, 0.8, 0.5, 0.6 / 3], rtol=1e-6)
    np.testing.assert_array_equal(found.boxes[0], [0, 0, 10, 10])
    np.testing.assert_array_equal(found.boxes[2], [9, 0, 19, 10])


def test_a_duplicate_vanishes():
    boxes = np.float32([[0, 0, 9, 9], [0, 0, 9, 9]])
    found = postprocess(boxes, np.float32([[0, 0.9], [0, 0.8]]), (20, 20), 20)
    assert len(found) == 1


def test_boxes_scale_back_x_and_y_apart_and_are_clipped():
    """Boxes are inclusive while they are scaled: x 16..31 of 64 becomes 64..124 of 256, then 125."""
    boxes = np.float32([[16, 8, 31, 15], [-5, -9, 63, 70]])
    found = postprocess(boxes, np.float32([[0, 0.9, 0], [0, 0, 0.8]]), (256, 32), 64)
    np.testing.assert_array_equal(found.boxes, [[64, 4, 125, 8.5], [0, 0, 253, 32]])
    assert found.boxes.dtype == np.float32


def test_overlap_is_measured_in_source_pixels():
    """The one pixel that inclusive means is little in a large picture: the same boxes overlap less."""
    boxes = np.float32([[0, 0, 1, 1], [1, 0, 2, 1]])
    probs = np.float32([[0, 0.9], [0, 0.8]])
    # At 4 x 4: 2x2 pixels each, 1x2 shared: 1/3. At 4000 x 4000: 1001x1001 each, 1x1001 shared: next to
    # nothing.
    small = postprocess(boxes, probs, (4, 4), 4, NmsSettings(iou_threshold=0.3))
    large = postprocess(boxes, probs, (4000, 4000), 4, NmsSettings(iou_threshold=0.3))
    np.testing.assert_allclose(small.scores, [0.9, 0.8 * 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(large.scores, [0.9, 0.8], rtol=1e-6)


def test_padding_and_background_give_nothing():
    probs = np.zeros((200, 81), np.float32)
    probs[:, 0] = 1
    assert len(postprocess(np.zeros((200, 4), np.float32), probs, (640, 480), 320)) == 0
    assert len(postprocess(np.zeros((0, 4), np.float32), np.zeros((0, 81), np.float32), (640, 480), 320)) == 0


def test_values_that_are_not_finite_are_dropped(recwarn):
    boxes, probs = _random_case(3, 40, 4)
    good = postprocess(boxes[20:], probs[20:], (320, 320), 320)
    for row, value in enumerate([np.nan, np.inf, -np.inf]):
        boxes[row, row] = value
        probs[3 + row] = value
    boxes[6:20] = np.nan
    probs[6:20, 1] = np.inf
    found = postprocess(boxes, probs, (320, 320), 320)
    assert len(found) == len(good) > 0
    np.testing.assert_array_equal(found.scores, good.scores)
    np.testing.assert_array_equal(found.boxes, good.boxes)
    nothing = postprocess(np.full((200, 4), np.nan), np.full((200, 81), np.nan), (320, 320), 320)
    assert len(nothing) == 0
    assert not recwarn.list


def test_boxes_of_which_nothing_is_visible_are_dropped():
    boxes = np.float32([[400, 10, 500, 20], [10, -90, 20, -50], [30, 10, 20, 40], [3e38, 0, 3e38, 3e38]])
    probs = np.tile(np.float32([0, 0.9]), (4, 1))
    assert len(postprocess(boxes, probs, (320, 320), 320)) == 0


def test_detections_are_valid_on_noise():
    boxes, probs = _random_case(0, 200, 80, 300.0, 0.5)
    found = postprocess(boxes - 20, probs, (333, 77), 320)
    assert len(found) == 100
    assert (np.diff(found.scores) <= 0).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    assert found.boxes.min() >= 0
    assert (found.boxes <= (333, 77, 333, 77)).all()
    assert found.names == tuple(str(class_id) for class_id in found.class_ids)


def test_untrained_networks_give_a_hundred():
    """Every class of every proposal is a candidate, all equally likely."""
    boxes, _ = _random_case(0, 200, 1)
    probs = np.full((200, 81), 1 / 81, np.float32)
    found = postprocess(boxes, probs, (640, 480), 320)
    assert len(found) == 100


@pytest.mark.parametrize(
    ("boxes", "probs", "size", "labels", "message"),
    [
        ((3, 5), (3, 4), (9, 9), None, r"boxes \[3, 5\]"),
        ((3, 4), (2, 4), (9, 9), None, r"class_probs \[2, 4\]"),
        ((1, 3, 4), (1, 3, 4), (9, 9), None, r"expected \[P, 4\]"),
        ((3, 4), (3, 4), (0, 9), None, "0 x 9"),
        ((3, 4), (3, 4), (9, 9), ("a",), "1 labels came for 3 classes"),
    ],
)
def test_shapes_that_do_not_fit(boxes, probs, size, labels, message):
    with pytest.raises(UserError, match=message):
        postprocess(np.zeros(boxes), np.zeros(probs), size, 32, labels=labels)
