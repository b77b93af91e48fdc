"""Class-wise Gaussian soft-NMS of one image in the graph, by the one builtin operator that has it.

Shape letters: P proposals, C classes, K candidates (the best pairs of a proposal and a class), N detections.

The host's linear soft-NMS (tinydet_lite.postprocess) needs a loop, which a .tflite of one subgraph cannot hold.
NON_MAX_SUPPRESSION_V5 multiplies the score of a box by exp(-0.5 * IoU**2 / sigma) for each better one instead. What the
difference costs, and how the numbers below were chosen: docs/tasks.md.

Two traps of the runtimes' kernel are kept away. It takes a box from its queue by suppressing it with itself, so a box
without area would fill the output: every side has a least length, and a box that covers another by `IOU_THRESHOLD` ends
it. And it takes equal scores in any order: each candidate's score is lowered by its place, by 1.5e-5 at most.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tinydet_lite.metadata import RELEASED
from tinydet_tf.export.rewrites.positions import Positions

#: Best pairs of proposal and class that enter; of 200 proposals and 80 classes there are 16,000.
CANDIDATES = 256
SIGMA = 0.2
#: A box that overlaps a better one of its class so much is dropped.
IOU_THRESHOLD = 0.9
#: Pixels. Far below what a detector finds, far above the rounding of coordinates that are shifted apart.
MIN_SIDE = 2.0**-6
_STEP = 2.0**-24  # what two float32 below 1 can differ by


class Suppressed(NamedTuple):
    """Detections of one image, best first; rows from `count` on are zeros.

    boxes: [N, 4] continuous corners x1, y1, x2, y2 in units of `positions` within [0, S]; class_ids: float32 [N], from
    0; scores: float32 [N]; count: float32 [1], at most N.
    """

    boxes: tf.Tensor
    class_ids: tf.Tensor
    scores: tf.Tensor
    count: tf.Tensor


def soft_nms(
    boxes: tf.Tensor,
    class_probs: tf.Tensor,
    *,
    image_size: int,
    positions: Positions,
    pixel: tuple[float, float] = (1.0, 1.0),
) -> Suppressed:
    """The detections of one image, N = min(100, P * C), 100 as the host.

    Args:
      boxes: [P, 4] inclusive, in units of `positions`.
      class_probs: float32 [P, C+1], index 0 the background.
      image_size: S, pixels of a side of the square input.
      pixel: width and height of a pixel of the source picture, in pixels of the input: what an inclusive box ends
        after its last coordinate. The published boxes are inclusive in the source picture.
    """
    proposals, classes = class_probs.shape[0], class_probs.shape[1] - 1
    count = min(CANDIDATES, proposals * classes)
    size = min(RELEASED.max_detections, proposals * classes)
    scores, index = tf.math.top_k(tf.reshape(class_probs[:, 1:], [-1]), count)  # [K]; equal ones by index
    proposal = index // classes
    class_id = index - proposal * classes
    nothing, least, side = (positions.constant(value) for value in (0.0, MIN_SIDE, image_size))
    low = tf.clip_by_value(boxes[:, :2], nothing, side - least)
    high = tf.clip_by_value(tf.maximum(boxes[:, 2:] + positions.constant(pixel), low + least), nothing, side)
    chosen = tf.gather(tf.concat([low, high], -1), proposal)  # [K, 4]
    # Each class in a field of its own of a square grid: fields touch, so only boxes of one class overlap.
    fields = tf.gather(positions.constant(_fields(classes) * image_size), class_id)
    # Added by what XNNPACK does not take over: in float16 it would change nothing.
    lowered = tf.add_n([
        tf.where(scores > RELEASED.score_threshold, scores, 0.0), tf.constant(-_STEP * np.arange(count), tf.float32)
    ])  # fmt: skip
    selected, kept_scores, found = tf.raw_ops.NonMaxSuppressionV5(
        boxes=tf.cast(chosen + fields, tf.float32),
        scores=lowered,
        max_output_size=size,
        iou_threshold=IOU_THRESHOLD,
        score_threshold=RELEASED.min_score,
        soft_nms_sigma=SIGMA,
        pad_to_max_output_size=True,
    )
    selected = tf.reshape(selected, [size])
    found_here = tf.range(size) < found
    there = tf.cast(found_here, tf.float32)
    return Suppressed(
        boxes=tf.gather(chosen, selected) * tf.cast(found_here, chosen.dtype)[:, None],
        class_ids=tf.cast(tf.gather(class_id, selected), tf.float32) * there,
        scores=tf.reshape(kept_scores, [size]) * there,
        count=tf.reshape(tf.cast(found, tf.float32), [1]),
    )


def _fields(classes: int) -> np.ndarray:
    """[C, 4]: the column and row of each class as x, y, x, y. All in one row would cost the coordinates digits."""
    side = math.isqrt(classes - 1) + 1
    rows, columns = np.divmod(np.arange(classes), side)
    return np.stack([columns, rows, columns, rows], -1).astype(np.float32)
