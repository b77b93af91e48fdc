"""Boxes from anchors and deltas without taking pairs of columns apart: the same function as boxes.decode.

Small constant matrices put every number into all columns that need it; the rest is plain arithmetic on A boxes, [A, 4].
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tinydet_tf.boxes import MAX_LOG_RATIO
from tinydet_tf.export.rewrites.trained import FloatArray

#: [4, 4]: of x1, y1, x2, y2 the centre and the continuous size less one, each as x, y, x, y.
_CENTRE = np.array([[0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5]] * 2, np.float32)
_SPAN = np.array([[-1, 0, -1, 0], [0, -1, 0, -1], [1, 0, 1, 0], [0, 1, 0, 1]], np.float32)
_SIGN = np.array([-1, -1, 1, 1], np.float32)


def centres_and_sizes(boxes: FloatArray) -> FloatArray:
    """[A, 4] inclusive corners -> [A, 8]: cx, cy, cx, cy, w, h, w, h."""
    return np.concatenate([boxes @ _CENTRE, boxes @ _SPAN + np.float32(1.0)], -1)


def decode(boxes: tf.Tensor, deltas: tf.Tensor, stds: tuple[float, ...]) -> tf.Tensor:
    """Boxes [A, 4] moved by deltas [A, 4] * stds, not clipped."""
    return decode_at(tf.matmul(boxes, _CENTRE), tf.matmul(boxes, _SPAN) + 1.0, deltas, stds)


def decode_at(centres: tf.Tensor, sizes: tf.Tensor, deltas: tf.Tensor, stds: tuple[float, ...]) -> tf.Tensor:
    """As `decode`, for boxes given as cx, cy, cx, cy and w, h, w, h."""
    spread = np.diag(np.asarray(stds, np.float32))
    shift = np.concatenate([spread[:, :2], spread[:, :2]], -1)
    log_ratio = np.concatenate([spread[:, 2:], spread[:, 2:]], -1)
    ratio = tf.exp(tf.clip_by_value(tf.matmul(deltas, log_ratio), -MAX_LOG_RATIO, MAX_LOG_RATIO))
    return centres + tf.matmul(deltas, shift) * sizes + (ratio * sizes * 0.5 - 0.5) * _SIGN
