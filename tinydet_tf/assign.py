"""Which ground truth a box answers for: the max-IoU assignment of both stages (docs/reference.md, "Training").

A boxes of one image, G ground-truth rows (padded), K crowd rows (padded), N rows of a piece. Inclusive pixels.

An image may have thousands of objects, and a table of A x G numbers would then be larger than all the rest of a step:
the rows are looked at piece by piece. Which result a row gives does not depend on the other pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import tensorflow as tf

from tinydet_tf.boxes import iou

#: A negative that lies this far inside a crowd region is left out: whatever it shows may well be an object.
CROWD_OVERLAP = 0.5
#: The most numbers N x A of a piece: half a megabyte a tensor, and some ten tensors for each image that is assigned at
#: a time. Larger ones take longer, because they leave the processor's cache; smaller ones are many calls.
PIECE = 2**17

_State = TypeVar("_State", bound=tuple[tf.Tensor, ...])


class AssignedBoxes(NamedTuple):
    """positive, negative: bool [A], never both; neither is ignored. matched: int32 [A], meaningful for positives."""

    positive: tf.Tensor
    negative: tf.Tensor
    matched: tf.Tensor


class _Best(NamedTuple):
    """Of the rows so far. highest: float32 [A], the highest IoU, -1 if none; row: int32 [A], the first row that has it;
    claimant: int32 [A], the last row whose best box this is, -1 if none."""

    highest: tf.Tensor
    row: tf.Tensor
    claimant: tf.Tensor


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
    piece: int = PIECE,
) -> AssignedBoxes:
    """Assigns boxes to ground truth.

    Args:
      boxes: float32 [A, 4], anchors or proposals. Where A or G is not static, all rows are one piece.
      usable: bool [A]; the others are ignored (anchors that leave the image, padded proposals).
      gt_boxes, gt_mask: float32 [G, 4], bool [G].
      crowd_boxes, crowd_mask: float32 [K, 4], bool [K].
      positive_iou: a box with at least this IoU is positive.
      negative_iou: one below this with every ground truth is negative.
      best_iou: each ground truth keeps its best boxes, all that tie, if their IoU is at least this; where two claim
        the same box the later one has it. None: no such rule.
      piece: the most numbers N x A that are computed at a time; the result does not depend on it.
    """
    count = boxes.shape[0]
    rows = None if count is None else max(1, piece // max(1, count))
    count = tf.shape(boxes)[0] if count is None else count

    def compare(start: tf.Tensor, gt: tf.Tensor, mask: tf.Tensor, best: _Best) -> _Best:
        # Boxes stand in the last axis: it is long, and vector arithmetic runs along it.
        table = tf.where(mask[:, None] & usable[None], iou(boxes[None], gt[:, None]), -1.0)  # [N, A]
        order = start + tf.range(tf.shape(gt)[0])[:, None]  # [N, 1]
        highest = tf.reduce_max(table, 0)
        # The first row that has it. An argmax takes longer.
        row = tf.reduce_min(tf.where(table == highest[None], order, order[-1:]), 0)
        claimant = best.claimant
        if best_iou is not None:
            best_of_gt = tf.reduce_max(table, 1, keepdims=True)  # [N, 1]
            claims = table == tf.where(best_of_gt >= best_iou, best_of_gt, 2.0)  # no IoU is 2
            claimant = tf.maximum(claimant, tf.reduce_max(tf.where(claims, order, -1), 0))
        better = highest > best.highest  # not where they tie: the first row stays
        return _Best(tf.where(better, highest, best.highest), tf.where(better, row, best.row), claimant)

    nothing = _Best(tf.fill([count], -1.0), tf.zeros([count], tf.int32), tf.fill([count], -1))
    best = _by_pieces(compare, gt_boxes, gt_mask, nothing, rows)
    positive = usable & (best.highest >= positive_iou)
    negative = usable & (best.highest < negative_iou)
    claimed = best.claimant >= 0
    matched = tf.where(claimed, best.claimant, best.row)
    positive, negative = positive | claimed, negative & ~claimed

    def cover(_: tf.Tensor, crowd: tf.Tensor, mask: tf.Tensor, covered: tuple[tf.Tensor]) -> tuple[tf.Tensor]:
        inside = iou(boxes[None], crowd[:, None], over_a=True) >= CROWD_OVERLAP  # [N, A]
        return (covered[0] | tf.reduce_any(mask[:, None] & inside, 0),)

    (covered,) = _by_pieces(cover, crowd_boxes, crowd_mask, (tf.zeros([count], tf.bool),), rows)
    return AssignedBoxes(positive, negative & ~covered, matched)


def _by_pieces(
    step: Callable[[tf.Tensor, tf.Tensor, tf.Tensor, _State], _State],
    boxes: tf.Tensor,
    mask: tf.Tensor,
    state: _State,
    rows: int | None,
) -> _State:
    """The state after `step(index of the first row, boxes [N, 4], mask [N], state)` of each piece up to the last row
    that is real.

    Args:
      boxes, mask: float32 [G, 4], bool [G].
      rows: N, where G is larger; the last piece is filled up with rows that are not real. None: G.
    """
    count = boxes.shape[0]
    if count is None or rows is None or count <= rows:
        return state if count == 0 else step(tf.constant(0), boxes, mask, state)
    missing = -count % rows
    boxes, mask = tf.pad(boxes, [[0, missing], [0, 0]]), tf.pad(mask, [[0, missing]])
    end = tf.reduce_max(tf.where(mask, tf.range(1, count + missing + 1), 0))

    def body(start: tf.Tensor, state: _State) -> tuple[tf.Tensor, _State]:
        piece = tf.slice(boxes, [start, 0], [rows, 4]), tf.slice(mask, [start], [rows])
        return start + rows, step(start, *piece, state)

    # One piece after the other: several at once would be as many tables in memory.
    _, state = tf.while_loop(lambda start, _: start < end, body, (tf.constant(0), state), parallel_iterations=1)
    return state
