"""From RPN outputs to proposals: per-level top-k, decode, clip, NMS, the best over all levels.

One image at a time and only ops that TFLite has built in, so that training, Keras inference and export share it. Two
things that the runtimes' NMS kernels do differently cannot matter here:

- Zero-area boxes (TFLite repeats one until the output is full). NMS sees continuous boxes, x2 + 1, and a decoded side
  is at least 1/62.5 of the anchor's; clipping both corners to the image leaves at least the smaller of that and one
  pixel.
- Tied scores. Candidates are first sorted by TOP_K over their logits, which breaks ties by index, and NMS gets their
  rank, which has no ties, as the score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tinydet_tf.boxes import clip, decode


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
    """The proposals of one image, best first.

    Args:
      logits: a level [A] (any shape of A numbers), before the sigmoid: it would only make ties.
      deltas: a level [A, 4] (any shape of 4A numbers).
      anchors: a level float32 [A, 4].
      nms_pre: candidates kept a level.
      iou_threshold: boxes of one level that overlap more are suppressed.

    Returns:
      rois float32 [max_proposals, 4] inclusive pixels, and valid float32 [max_proposals], 1 for the first n rows and 0
      for the padding behind them (whose boxes are copies of the best one).
    """
    scores, boxes, shifts = [], [], []
    for level, (level_logits, level_deltas, level_anchors) in enumerate(zip(logits, deltas, anchors, strict=True)):
        count = len(level_anchors)
        level_logits, level_deltas = tf.reshape(level_logits, [count]), tf.reshape(level_deltas, [count, 4])
        base = tf.constant(level_anchors)
        if count > nms_pre:
            level_logits, index = tf.math.top_k(level_logits, nms_pre)
            level_deltas, base = tf.gather(level_deltas, index), tf.gather(base, index)
            count = nms_pre
        scores.append(level_logits)
        boxes.append(clip(decode(base, level_deltas), image_size))
        # Boxes of different levels do not suppress each other: moved apart, one NMS serves all levels.
        shifts.append(np.full([count, 1], 2.0 * image_size * level, np.float32))
    total = sum(len(s) for s in shifts)
    _, order = tf.math.top_k(tf.concat(scores, 0), total)
    candidates = tf.gather(tf.concat(boxes, 0), order)  # [total, 4]
    shifted = candidates + tf.gather(tf.constant(np.concatenate(shifts)), order)
    shifted += tf.constant([0.0, 0.0, 1.0, 1.0])  # inclusive -> continuous
    rank = tf.constant(np.arange(total, 0, -1, dtype=np.float32))
    selected, count = tf.raw_ops.NonMaxSuppressionV4(
        boxes=shifted,
        scores=rank,
        max_output_size=max_proposals,
        iou_threshold=iou_threshold,
        score_threshold=0.0,
        pad_to_max_output_size=True,
    )
    selected = tf.reshape(selected, [max_proposals])
    valid = tf.cast(tf.range(max_proposals) < count, tf.float32)
    return tf.gather(candidates, selected), valid
