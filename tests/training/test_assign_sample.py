"""Assignment against the numpy reference; sampling by what it promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import references
from tinydet_tf.assign import AssignedBoxes, assign
from tinydet_tf.training.step.sample import RPN_SEED, random_priority, sample

RPN: dict[str, Any] = {"positive_iou": 0.5, "negative_iou": 0.3, "best_iou": 0.3}
RCNN: dict[str, Any] = {"positive_iou": 0.5, "negative_iou": 0.5, "best_iou": None}


def run(
    boxes: np.ndarray,
    gt: np.ndarray,
    *,
    usable: np.ndarray | None = None,
    padding: int = 0,
    crowd: np.ndarray | None = None,
    crowd_padding: int = 1,
    **options: Any,
) -> AssignedBoxes:
    mask = np.arange(len(gt) + padding) < len(gt)
    # Padded rows are filled with boxes that would match if they counted.
    filler = np.resize(boxes, [padding, 4])
    crowd = np.zeros([0, 4], np.float32) if crowd is None else crowd
    crowd_mask = np.arange(len(crowd) + crowd_padding) < len(crowd)
    crowd_filler = np.resize(boxes, [crowd_padding, 4])
    return assign(
        tf.constant(boxes),
        tf.constant(np.ones(len(boxes), bool) if usable is None else usable),
        tf.constant(np.concatenate([gt, filler]).astype(np.float32).reshape(-1, 4)),
        tf.constant(mask),
        tf.constant(np.concatenate([crowd, crowd_filler]).astype(np.float32)),
        tf.constant(crowd_mask),
        **options,
    )


def as_list(result: AssignedBoxes) -> list[int]:
    positive, negative, matched = (t.numpy() for t in result)
    assert not (positive & negative).any()
    return [int(m) if p else -1 if n else -2 for p, n, m in zip(positive, negative, matched, strict=True)]


def random_boxes(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low, side = rng.integers(0, 40, [n, 2]), rng.integers(4, 30, [n, 2])
    return np.concatenate([low, low + side], 1).astype(np.float32)


@pytest.mark.parametrize("options", [RPN, RCNN], ids=["rpn", "rcnn"])
@pytest.mark.parametrize("seed", range(4))
def test_matches_reference(seed: int, options: dict[str, Any]) -> None:
    boxes, gt = random_boxes(120, seed), random_boxes(9, seed + 100)
    usable = np.random.default_rng(seed).random(120) < 0.8
    expected = references.assign(boxes, usable, gt, **options)
    assert as_list(run(boxes, gt, usable=usable, padding=5, **options)) == expected
    assert len(set(expected)) > 3


def test_empty_ground_truth_is_all_background() -> None:
    boxes = random_boxes(10, 0)
    assert as_list(run(boxes, np.zeros([0, 4]), padding=3, **RPN)) == [-1] * 10


def test_a_ground_truth_keeps_all_its_best_anchors_and_the_later_one_wins() -> None:
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9], [30, 30, 39, 39]], np.float32)
    one = np.array([[0, 0, 9, 24]], np.float32)  # IoU 0.4 with the first two: below positive, but its best
    assert as_list(run(boxes, one, **RPN)) == [0, 0, -1]
    two = np.array([[0, 0, 9, 24], [0, 0, 24, 9]], np.float32)
    assert as_list(run(boxes, two, **RPN)) == [1, 1, -1]
    far = np.array([[0, 0, 9, 34]], np.float32)  # best IoU 0.286: nobody's
    assert as_list(run(boxes, far, **RPN)) == [-1, -1, -1]


def test_negatives_in_a_crowd_are_ignored_and_positives_stay() -> None:
    boxes = np.array([[0, 0, 9, 9], [20, 20, 29, 29], [50, 50, 59, 59]], np.float32)
    crowd = np.array([[0, 0, 40, 40]], np.float32)
    gt = np.array([[0, 0, 9, 9]], np.float32)
    assert as_list(run(boxes, gt, crowd=crowd, **RPN)) == [0, -2, -1]


def tied_boxes(n: int, seed: int) -> np.ndarray:
    """On a coarse grid, so that many are equal and many IoUs tie."""
    rng = np.random.default_rng(seed)
    low, side = 8 * rng.integers(0, 4, [n, 2]), 8 * rng.integers(1, 3, [n, 2])
    return np.concatenate([low, low + side - 1], 1).astype(np.float32)


@pytest.mark.parametrize("options", [RPN, RCNN], ids=["rpn", "rcnn"])
@pytest.mark.parametrize("rows", [1, 2, 7, 23, 30, 31, 1000])
@pytest.mark.parametrize("traced", [False, True], ids=["eager", "traced"])
def test_ties_and_padding_are_the_same_in_pieces(rows: int, options: dict[str, Any], traced: bool) -> None:
    """23 objects, many of which are one another's equals, and 7 padded rows, so many rows at a time."""
    boxes, gt = tied_boxes(90, 1), tied_boxes(23, 2)
    usable = np.random.default_rng(3).random(90) < 0.8
    crowd = np.array([[0, 0, 7, 15], [100, 0, 107, 7], [8, 8, 23, 31]], np.float32)

    def call() -> AssignedBoxes:
        return run(
            boxes, gt, usable=usable, padding=7, crowd=crowd, crowd_padding=20, piece=rows * len(boxes), **options
        )

    expected = references.assign(boxes, usable, gt, **options)
    # A negative that lies by half in a crowd is ignored.
    sides = np.minimum(boxes[:, None, 2:], crowd[:, 2:]) - np.maximum(boxes[:, None, :2], crowd[:, :2]) + 1
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, 1)
    covered = (np.prod(np.maximum(sides, 0), 2) >= 0.5 * areas[:, None]).any(1)
    expected = [-2 if e == -1 and c else e for e, c in zip(expected, covered, strict=True)]
    assert as_list(tf.function(call)() if traced else call()) == expected
    assert -1 in expected and -2 in expected and len(set(expected)) > 8


@pytest.mark.parametrize("padding", [0, 5, 40])
def test_no_ground_truth_in_pieces(padding: int) -> None:
    boxes = random_boxes(10, 0)
    assert as_list(run(boxes, np.zeros([0, 4]), padding=padding, piece=30, **RPN)) == [-1] * 10


@pytest.mark.parametrize("options", [RPN, RCNN], ids=["rpn", "rcnn"])
def test_a_thousand_objects(options: dict[str, Any]) -> None:
    boxes, gt = random_boxes(300, 5), random_boxes(1000, 6)
    expected = references.assign(boxes, [True] * 300, gt, **options)
    assert as_list(run(boxes, gt, padding=11, piece=64 * 300, **options)) == expected
    assert as_list(run(boxes, gt, padding=11, **options)) == expected


def test_sample_takes_the_highest_and_fills_up() -> None:
    positive = tf.constant([[True, True, True, False, False, False, False], [False] * 7])
    negative = tf.constant(
        [[False, False, False, True, True, True, False], [True, True, False, False, False, False, False]]
    )
    priority = tf.constant([[0.1, 0.9, 0.5, 0.2, 0.8, 0.4, 9.9], [0.1, 0.2, 9.0, 9.0, 9.0, 9.0, 9.0]])
    chosen = sample(positive, negative, priority, count=4, max_positive=2)
    index, weight, is_positive = (t.numpy() for t in chosen)
    assert index[0].tolist() == [1, 2, 4, 5] and weight[0].tolist() == [1, 1, 1, 1]
    assert is_positive[0].tolist() == [True, True, False, False]
    # Too few: the rest has no weight.
    assert index[1, :2].tolist() == [1, 0] and weight[1].tolist() == [1, 1, 0, 0]
    assert not is_positive[1].any()


def test_sample_of_nothing() -> None:
    none = tf.zeros([1, 5], tf.bool)
    chosen = sample(none, none, tf.ones([1, 5]), count=8, max_positive=4)
    assert chosen.weight.numpy().tolist() == [[0.0] * 5]


def test_random_sampling_prefers_nobody() -> None:
    everyone, nobody = tf.ones([400, 20], tf.bool), tf.zeros([400, 20], tf.bool)
    seeds = tf.stack([tf.range(400), tf.zeros([400], tf.int32)], 1)
    chosen = sample(nobody, everyone, random_priority(seeds, 20, RPN_SEED), count=5, max_positive=2)
    counts = np.bincount(chosen.index.numpy().ravel(), minlength=20)
    assert counts.sum() == 2000 and counts.min() > 60 and counts.max() < 140  # 100 each, deviation 8.7


def test_random_numbers_belong_to_an_image() -> None:
    """Not to its place in the batch, to what was drawn before, or to the global seed."""
    seeds = tf.constant([[1, 2], [3, 4], [5, 6]])
    tf.random.set_seed(0)
    together = random_priority(seeds, 7, RPN_SEED).numpy()
    tf.random.set_seed(1)
    alone = [random_priority(seeds[i : i + 1], 7, RPN_SEED).numpy()[0] for i in (2, 0, 1)]
    np.testing.assert_array_equal(together[[2, 0, 1]], alone)
    assert len(np.unique(together)) == together.size
    np.testing.assert_array_equal(tf.function(random_priority)(seeds, 7, RPN_SEED), together)
