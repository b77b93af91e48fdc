"""Which ground truth a box answers for: the max-IoU assignment of both stages (docs/reference.md, "Training").

A boxes of one image, G ground-truth rows (padded), K crowd rows (padded). Inclusive pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tinydet_tf.boxes import pairwise_iou

#: A negative that lies this far inside a crowd region is left out: whatever it shows may well be an object.
CROWD_OVERLAP = 0.5


class AssignedBoxes(NamedTuple):
    """positive, negative: bool [A], never both; neither is ignored. matched: int32 [A], meaningful for positives."""

    positive: tf.Tensor
    negative: tf.Tensor
    matched: tf.Tensor


def assign(
    boxes: tf.Tensor,
    usable: tf.Tensor,
    gt_boxes: tf.Tensor,
    gt_mask: tf.Tensor,
    crowd_boxes: tf.Tensor,
    crowd_mask: tf.Tensor,
    *,
    positive_iou: float,
    negative_iou: float,
    best_iou: float | None,
) -> AssignedBoxes:
    """Assigns boxes to ground truth.

    Args:
      boxes: float32 [A, 4], anchors or proposals.
      usable: bool [A]; the others are ignored (anchors that leave the image, padded proposals).
      gt_boxes, gt_mask: float32 [G, 4], bool [G].
      crowd_boxes, crowd_mask: float32 [K, 4], bool [K].
      positive_iou: a box with at least this IoU is positive.
      negative_iou: one below this with every ground truth is negative.
      best_iou: each ground truth keeps its best boxes, all that tie, if their IoU is at least this; where two claim
        the same box the later one has it. None: no such rule.
    """
    iou = tf.where(gt_mask[None] & usable[:, None], pairwise_iou(boxes, gt_boxes), -1.0)  # [A, G]
    highest = tf.reduce_max(iou, 1)
    matched = tf.argmax(iou, 1, output_type=tf.int32)
    positive = usable & (highest >= positive_iou)
    negative = usable & (highest < negative_iou)
    if best_iou is not None:
        best = tf.reduce_max(iou, 0)  # [G]
        claims = (iou == best[None]) & (best[None] >= best_iou)  # [A, G]
        claimed = tf.reduce_any(claims, 1)
        order = tf.range(tf.shape(gt_boxes)[0])
        matched = tf.where(claimed, tf.reduce_max(tf.where(claims, order[None], 0), 1), matched)
        positive, negative = positive | claimed, negative & ~claimed
    covered = tf.where(crowd_mask[None], pairwise_iou(boxes, crowd_boxes, over_a=True), 0.0)  # [A, K]
    negative &= ~tf.reduce_any(covered >= CROWD_OVERLAP, 1)
    return AssignedBoxes(positive, negative, matched)
