"""Proposals of one image, the boxes of all levels decoded at once: what model.proposals gives for a batch of one.

What guards against zero-area boxes and tied scores is that module's own: `ranked`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tinydet_tf.boxes import RPN_STDS
from tinydet_tf.export.rewrites.positions import Positions
from tinydet_tf.model.proposals import Candidates, ranked


def select_proposals(
    logits: Sequence[tf.Tensor],
    deltas: Sequence[tf.Tensor],
    anchors: Sequence[np.ndarray],
    *,
    ratios: int,
    image_size: int,
    nms_pre: int,
    max_proposals: int,
    iou_threshold: float,
    positions: Positions,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The proposals of one image, best first.

    Args:
      logits, deltas, anchors: as model.proposals.select_proposals, of one image.
      ratios: anchors of a cell.
      image_size, nms_pre, max_proposals, iou_threshold: as there.
      positions: what boxes are computed in.

    Returns:
      rois [max_proposals, 4] in units of `positions`, inclusive, and valid float32 [max_proposals], 1 for the first n
      rows and 0 for the padding behind them (whose boxes are copies of the best one).
    """
    scores, chosen, bases = [], [], []
    for level_logits, level_deltas, level_anchors in zip(logits, deltas, anchors, strict=True):
        count = len(level_anchors)
        level_logits, level_deltas = tf.reshape(level_logits, [count]), tf.reshape(level_deltas, [count, 4])
        if count > nms_pre:
            level_logits, index = tf.math.top_k(level_logits, nms_pre)
            level_deltas = tf.gather(level_deltas, index)
            base = _anchors_at(index, level_anchors, ratios, positions)
        else:
            base = positions.constant(level_anchors)
        scores.append(level_logits)
        chosen.append(level_deltas)
        bases.append(base)
    boxes = positions.decode(tf.concat(bases, 0), tf.concat(chosen, 0), RPN_STDS)
    found = ranked(scores, boxes, image_size=image_size, unit=positions.unit)
    return _best_of(found, max_proposals=max_proposals, iou_threshold=iou_threshold)


def _best_of(found: Candidates, *, max_proposals: int, iou_threshold: float) -> tuple[tf.Tensor, tf.Tensor]:
    """The candidates of one image that no better one suppresses, as `select_proposals` returns them."""
    selected, count = tf.raw_ops.NonMaxSuppressionV4(
        boxes=found.shifted,
        scores=found.rank,
        max_output_size=max_proposals,
        iou_threshold=iou_threshold,
        score_threshold=0.0,
        pad_to_max_output_size=True,
    )
    selected = tf.reshape(selected, [max_proposals])
    valid = tf.cast(tf.range(max_proposals) < count, tf.float32)
    return tf.gather(found.boxes, selected), valid


def _anchors_at(index: tf.Tensor, anchors: np.ndarray, ratios: int, positions: Positions) -> tf.Tensor:
    """The anchors [K, 4] of some indices: exactly those of the level's table.

    Of M's finest level the table would be 0.3 MB of an int8 file of 5 MB; the anchors of a cell, its row and its column
    say the same.
    """
    width = round((len(anchors) // ratios) ** 0.5)
    grid = anchors.reshape(-1, width, ratios, 4)
    own = grid[0, 0]  # [ratios, 4]
    columns, rows = grid[0, :, 0] - own[0], grid[:, 0, 0] - own[0]
    cell = index // ratios
    row = cell // width
    ratio, column = index - cell * ratios, cell - row * width
    parts = ((own, ratio), (columns, column), (rows, row))
    of_ratio, of_column, of_row = (tf.gather(positions.constant(table), at) for table, at in parts)
    return of_ratio + of_column + of_row
