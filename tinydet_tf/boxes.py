"""Box arithmetic of the network, mmdet-1.x inclusive pixels: width = x2 - x1 + 1.

Boxes are float32 [..., 4] x1,y1,x2,y2 in pixels of the square input. To and from continuous corners (data sets,
Detections): tinydet_lite.boxes, which owns that conversion.
"""

from __future__ import annotations

import math

import tensorflow as tf

#: Limit of dw and dh: a delta changes a side by a factor of 62.5 at most (docs/reference.md, "Boxes").
MAX_LOG_RATIO = math.log(1000 / 16)
RPN_STDS = (1.0, 1.0, 1.0, 1.0)
RCNN_STDS = (0.1, 0.1, 0.2, 0.2)


def decode(anchors: tf.Tensor, deltas: tf.Tensor, stds: tuple[float, ...] = RPN_STDS) -> tf.Tensor:
    """Anchors moved by deltas (dx, dy, dw, dh) * stds: [..., 4] -> [..., 4], not clipped to the image."""
    # Each half by itself: the converter would fold one product into the layer in front, and an int8 layer then has half
    # the steps for the centre.
    centre_delta = deltas[..., :2] * tf.constant(stds[:2], tf.float32)
    log_ratio = deltas[..., 2:] * tf.constant(stds[2:], tf.float32)
    log_ratio = tf.clip_by_value(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    low, high = anchors[..., :2], anchors[..., 2:]
    size = high - low + 1.0
    centre = (low + high) * 0.5 + size * centre_delta
    half = tf.exp(log_ratio) * size * 0.5 - 0.5
    return tf.concat([centre - half, centre + half], -1)


def encode(anchors: tf.Tensor, boxes: tf.Tensor, stds: tuple[float, ...] = RPN_STDS) -> tf.Tensor:
    """The deltas that `decode` turns into `boxes`; both [..., 4] with sides of at least a hundredth of a pixel."""
    low, high = anchors[..., :2], anchors[..., 2:]
    box_low, box_high = boxes[..., :2], boxes[..., 2:]
    size = tf.maximum(high - low + 1.0, 1e-2)
    box_size = tf.maximum(box_high - box_low + 1.0, 1e-2)
    centre_delta = ((box_low + box_high) - (low + high)) * 0.5 / size
    deltas = tf.concat([centre_delta, tf.math.log(box_size / size)], -1)
    return deltas / tf.constant(stds, tf.float32)


def clip(boxes: tf.Tensor, size: int) -> tf.Tensor:
    """Corners clipped to the pixels 0 .. size-1."""
    return tf.clip_by_value(boxes, 0.0, float(size - 1))


def iou(boxes_a: tf.Tensor, boxes_b: tf.Tensor, *, over_a: bool = False) -> tf.Tensor:
    """IoU of boxes with boxes: [..., 4], [..., 4] of shapes that broadcast -> [...].

    Args:
      over_a: divide by the area of a instead of the union (how much of a lies in b).
    """
    a, b = boxes_a, boxes_b
    width = tf.minimum(a[..., 2], b[..., 2]) - tf.maximum(a[..., 0], b[..., 0]) + 1.0
    height = tf.minimum(a[..., 3], b[..., 3]) - tf.maximum(a[..., 1], b[..., 1]) + 1.0
    overlap = tf.maximum(width, 0.0) * tf.maximum(height, 0.0)
    total = _area(a) + (0.0 if over_a else _area(b) - overlap)
    return overlap / tf.maximum(total, 1e-6)


def _area(boxes: tf.Tensor) -> tf.Tensor:
    return (boxes[..., 2] - boxes[..., 0] + 1.0) * (boxes[..., 3] - boxes[..., 1] + 1.0)
