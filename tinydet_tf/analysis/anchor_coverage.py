"""The ground-truth miss-assignment ratio, GTMR: which objects no anchor is trained on (section 3.3, table 2).

A anchors, G ground truths of one image. A ground truth is missed if no positive anchor belongs to it after the
assignment. This includes a ground truth whose best anchor was given to another one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tqdm import tqdm

from tinydet_tf.analysis.anchor_sets import AnchorSet, FloatArray, Frame, anchors_at
from tinydet_tf.analysis.ground_truth import SIZES, ImageBoxes, is_of_size
from tinydet_tf.assign import assign

BoolArray = npt.NDArray[np.bool_]

# `reachable_anchors` makes its windows this many pixels wider, so that rounding never leaves an anchor out.
_SLACK = 0.5


@dataclass(frozen=True)
class Coverage:
    """How many ground truths there are and how many are missed, by size: "all", "small", "medium", "large"."""

    total: dict[str, int]
    missed: dict[str, int]

    def gtmr(self, size: str) -> float | None:
        """The missed objects of this size in percent; None where there are no objects of the size."""
        return 100.0 * self.missed[size] / self.total[size] if self.total[size] else None

    def to_dict(self) -> dict[str, dict[str, float | int | None]]:
        return {"total": {**self.total}, "missed": {**self.missed}, "gtmr": {size: self.gtmr(size) for size in SIZES}}


def coverage(
    anchors: AnchorSet, images: Sequence[ImageBoxes], *, inside: bool = True, progress: bool = False
) -> Coverage:
    """GTMR of a set of anchors.

    Args:
      anchors: the detector.
      images: ground truth.
      inside: True counts only anchors inside the image, as training does; False counts all.
      progress: a bar on stderr, if that is a terminal.
    """
    return count([missed(anchors, image, inside=inside) for image in _bar(images, anchors.name, progress)], images)


def count(misses: Sequence[BoolArray], images: Sequence[ImageBoxes]) -> Coverage:
    """Sums up what `missed` gives: one bool [G] for each image."""
    flat = np.concatenate([np.zeros(0, bool), *misses])
    boxes = np.concatenate([np.zeros([0, 4], np.float32), *(image.boxes for image in images)])
    of_size = {size: is_of_size(boxes, size) for size in SIZES}
    return Coverage(
        {size: int(which.sum()) for size, which in of_size.items()},
        {size: int((which & flat).sum()) for size, which in of_size.items()},
    )


def missed(anchors: AnchorSet, image: ImageBoxes, *, inside: bool = True) -> BoolArray:
    """Which ground truths of one image no anchor answers for: bool [G].

    Args:
      anchors, inside: see `coverage`.
    """
    if not len(image.boxes):
        return np.zeros(0, bool)
    frame = anchors.resize(image.width, image.height)
    gt_boxes = anchors.gt_boxes(frame, image.boxes)
    # The same as of all anchors; for 250,000 of them it takes a thousandth of the time and memory.
    boxes = reachable_anchors(anchors, frame, gt_boxes)
    usable = is_inside(boxes, frame) if inside else np.ones(len(boxes), bool)
    if not usable.any():
        return np.ones(len(gt_boxes), bool)
    positive, matched = _assigner(anchors.positive_iou, anchors.best_iou)(boxes, usable, gt_boxes)
    covered = np.zeros(len(gt_boxes), bool)
    covered[matched.numpy()[positive.numpy()]] = True
    return np.asarray(~covered)


def is_inside(boxes: FloatArray, frame: Frame) -> BoolArray:
    """Which anchors [A, 4] do not leave the image: bool [A]."""
    last = np.array([frame.width - 1, frame.height - 1], np.float32)
    return np.asarray((boxes[:, :2] >= 0).all(1) & (boxes[:, 2:] <= last).all(1))


def reachable_anchors(anchors: AnchorSet, frame: Frame, gt_boxes: FloatArray) -> FloatArray:
    """Every anchor whose IoU with some ground truth could reach the lower threshold, and few others: float32 [a, 4].

    An anchor that reaches the threshold with no ground truth is neither positive nor the best one of any, so an
    assignment without it gives the ground truths the same anchors.

    An IoU of t needs an intersection of at least t times the larger area. The overlap along x is then at least this
    intersection over the smaller height, and along y over the smaller width. That limits how far apart the centres may
    be: a window of cells for each ground truth and base anchor.

    Args:
      gt_boxes: float32 [G, 4], inclusive pixels of the network's input.
    """
    threshold = min(anchors.positive_iou, anchors.best_iou)
    gt = gt_boxes.astype(np.float64)
    gt_side, gt_centre = gt[:, 2:] - gt[:, :2] + 1.0, (gt[:, 2:] + gt[:, :2]) / 2  # [G, 2]
    levels = []
    for cells, stride, base in zip(anchors.cells(frame), anchors.strides, anchors.bases, strict=True):
        side = (base[:, 2:] - base[:, :2] + 1.0).astype(np.float64)  # [R, 2]
        centre = (base[:, 2:] + base[:, :2]).astype(np.float64) / 2
        smaller = np.minimum(gt_side[:, None], side[None])  # [G, R, 2]
        larger_area = np.maximum(gt_side.prod(1)[:, None], side.prod(1)[None])  # [G, R]
        # [..., ::-1]: the overlap along x is bounded by the smaller height, that along y by the smaller width.
        overlap = threshold * larger_area[..., None] / smaller[..., ::-1]  # [G, R, 2]
        reach = (gt_side[:, None] + side[None]) / 2 - overlap + _SLACK
        offset = gt_centre[:, None] - centre[None]
        first = np.ceil((offset - reach) / stride)  # [G, R, 2], column and row
        last = np.floor((offset + reach) / stride)
        possible = (overlap <= smaller + _SLACK).all(-1) & (first <= last).all(-1)  # [G, R]
        start = np.clip(first, 0, None).astype(np.int64)
        stop = np.clip(last + 1, 0, None).astype(np.int64)
        chosen = np.zeros([*cells, len(base)], bool)
        for g, r in np.argwhere(possible):
            (x0, y0), (x1, y1) = start[g, r], stop[g, r]
            chosen[y0:y1, x0:x1, r] = True
        levels.append(anchors_at(np.stack(np.nonzero(chosen)), stride, base))
    return np.concatenate(levels)


@functools.cache
def _assigner(positive_iou: float, best_iou: float) -> Any:
    """The RPN's assignment as a graph.

    It takes anchors float32 [A, 4], usable bool [A] and ground truths float32 [G, 4], and gives positive bool [A] and
    matched int32 [A].
    """

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 4], tf.float32),
            tf.TensorSpec([None], tf.bool),
            tf.TensorSpec([None, 4], tf.float32),
        ],
        autograph=False,
    )
    def call(boxes: tf.Tensor, usable: tf.Tensor, gt_boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        assignment = assign(
            boxes,
            usable,
            gt_boxes,
            tf.ones(tf.shape(gt_boxes)[:1], tf.bool),
            tf.zeros([1, 4]),
            tf.zeros([1], tf.bool),
            positive_iou=positive_iou,
            negative_iou=best_iou,
            best_iou=best_iou,
        )
        return assignment.positive, assignment.matched

    return call


def _bar(images: Sequence[ImageBoxes], name: str, progress: bool) -> Any:
    return tqdm(images, desc=name, unit="image", disable=None if progress else True, leave=False)
