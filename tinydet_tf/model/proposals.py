"""From RPN outputs to proposals: per-level top-k, decode, clip, NMS, the best over all levels.

NMS of a batch is one op that runs on all CPU threads. (It has no GPU kernel; about a megabyte goes to the CPU and
back.) B images, L levels, T candidates of all levels. The exported graph shares `ranked`, see
tinydet_tf.export.rewrites.proposals. The NMS kernels of different runtimes disagree on two things, which cannot matter:

- Zero-area boxes (TFLite repeats one until the output is full). NMS sees continuous boxes, x2 + 1, and a decoded side
  is at least 1/62.5 of the anchor's; clipping both corners to the image leaves at least the smaller of that and one
  pixel.
- Tied scores. Candidates are first sorted by TOP_K over their logits, which breaks ties by index, and NMS gets their
  rank, which has no ties, as the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tinydet_tf.boxes import clip, decode


class Candidates(NamedTuple):
    """The candidates of all levels, best first.

    boxes: [..., T, 4] inclusive; shifted: float32 [..., T, 4] continuous, levels moved apart; levels: int32 [..., T];
    rank: float32 [T], T to 1.
    """

    boxes: tf.Tensor
    shifted: tf.Tensor
    levels: tf.Tensor
    rank: tf.Tensor


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
    """The proposals of each image, best first.

    Args:
      logits: for each level [B, A] (any shape of B * A numbers), before the sigmoid, which would only make ties.
      deltas: for each level [B, A, 4] (any shape of B * 4A numbers).
      anchors: for each level float32 [A, 4].
      nms_pre: how many candidates each level keeps.
      iou_threshold: boxes of one level that overlap more are suppressed.

    Returns:
      rois float32 [B, max_proposals, 4] inclusive pixels, and valid float32 [B, max_proposals], 1 for the first n rows
      and 0 for the padding behind them (whose boxes are copies of the best one).
    """
    scores, boxes = [], []
    for level_logits, level_deltas, level_anchors in zip(logits, deltas, anchors, strict=True):
        count = len(level_anchors)
        level_logits = tf.reshape(level_logits, [-1, count])
        level_deltas = tf.reshape(level_deltas, [-1, count, 4])
        base = tf.constant(level_anchors)
        if count > nms_pre:
            level_logits, index = tf.math.top_k(level_logits, nms_pre)
            level_deltas, base = tf.gather(level_deltas, index, batch_dims=1), tf.gather(base, index)
        scores.append(level_logits)
        boxes.append(clip(decode(base, level_deltas), image_size))
    found = ranked(scores, tf.concat(boxes, -2), image_size=image_size)
    # The op takes levels for classes: it compares a candidate only with candidates of the same level.
    of_level = found.levels[..., None] == np.arange(len(anchors), dtype=np.int32)  # [B, T, L]
    _, rank, _, count = tf.image.combined_non_max_suppression(
        found.shifted[:, :, None],
        tf.where(of_level, found.rank[:, None], -1.0),
        max_output_size_per_class=max_proposals,
        max_total_size=max_proposals,
        iou_threshold=iou_threshold,
        score_threshold=0.0,
        clip_boxes=False,
    )
    valid = tf.range(max_proposals) < count[:, None]
    selected = tf.where(valid, found.rank.shape[0] - tf.cast(rank, tf.int32), 0)
    return tf.gather(found.boxes, selected, batch_dims=1), tf.cast(valid, tf.float32)


def ranked(scores: Sequence[tf.Tensor], boxes: tf.Tensor, *, image_size: int, unit: int = 1) -> Candidates:
    """Sorts candidates, best first.

    Args:
      scores: for each level [..., K], K its number of candidates.
      boxes: [..., T, 4], of all levels in the same order.
      image_size: pixels of a side.
      unit: how many units of `boxes`, in which what comes out is as well, make a pixel.
    """
    counts = [level.shape[-1] for level in scores]
    levels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)  # [T]
    # Boxes of different levels do not suppress each other: moved apart, one NMS serves all levels.
    shifts = 2 * image_size * unit * levels[:, None]
    _, order = tf.math.top_k(tf.concat(scores, -1), len(levels))
    best = tf.gather(boxes, order, batch_dims=boxes.shape.rank - 2)
    shifted = best + tf.gather(tf.constant(shifts, boxes.dtype), order)
    shifted += tf.constant([0, 0, unit, unit], boxes.dtype)  # inclusive -> continuous
    rank = tf.constant(np.arange(len(levels), 0, -1, dtype=np.float32))
    return Candidates(best, tf.cast(shifted, tf.float32), tf.gather(tf.constant(levels), order), rank)
