"""Proposals of one image, the boxes of all levels decoded at once: the same as model.proposals.select_proposals.

What guards against zero-area boxes and tied scores is that function's: NMS sees continuous boxes that have an area, and
ranks instead of scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tinydet_tf.boxes import RPN_STDS, clip
from tinydet_tf.export.rewrites.decoding import centres_and_sizes, decode_at


def select_proposals(
    logits: Sequence[tf.Tensor],
    deltas: Sequence[tf.Tensor],
    anchors: Sequence[np.ndarray],
    *,
    image_size: int,
    nms_pre: int,
    max_proposals: int,
    iou_threshold: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """As model.proposals.select_proposals: rois [max_proposals, 4] and valid [max_proposals]."""
    scores, chosen, centres, sizes, shifts = [], [], [], [], []
    for level, (level_logits, level_deltas, level_anchors) in enumerate(zip(logits, deltas, anchors, strict=True)):
        count = len(level_anchors)
        level_logits, level_deltas = tf.reshape(level_logits, [count]), tf.reshape(level_deltas, [count, 4])
        geometry = centres_and_sizes(level_anchors)
        centre, size = tf.constant(geometry[:, :4]), tf.constant(geometry[:, 4:])
        if count > nms_pre:
            level_logits, index = tf.math.top_k(level_logits, nms_pre)
            level_deltas, centre, size = (tf.gather(t, index) for t in (level_deltas, centre, size))
            count = nms_pre
        scores.append(level_logits)
        chosen.append(level_deltas)
        centres.append(centre)
        sizes.append(size)
        # Boxes of different levels do not suppress each other: moved apart, one NMS serves all levels.
        shifts.append(np.full([count, 1], 2.0 * image_size * level, np.float32))
    total = sum(len(s) for s in shifts)
    _, order = tf.math.top_k(tf.concat(scores, 0), total)
    boxes = decode_at(tf.concat(centres, 0), tf.concat(sizes, 0), tf.concat(chosen, 0), RPN_STDS)
    boxes = clip(boxes, image_size)
    # Inclusive -> continuous.
    shifted = boxes + (np.concatenate(shifts) + np.array([0, 0, 1, 1], np.float32))
    candidates = tf.gather(boxes, order)
    rank = tf.constant(np.arange(total, 0, -1, dtype=np.float32))
    selected, count = tf.raw_ops.NonMaxSuppressionV4(
        boxes=tf.gather(shifted, order),
        scores=rank,
        max_output_size=max_proposals,
        iou_threshold=iou_threshold,
        score_threshold=0.0,
        pad_to_max_output_size=True,
    )
    selected = tf.reshape(selected, [max_proposals])
    valid = tf.cast(tf.range(max_proposals) < count, tf.float32)
    return tf.gather(candidates, selected), valid
