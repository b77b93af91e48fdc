"""Boxes as inclusive pixels and as continuous corners, and the overlap of the former.

Shape letters: N, M boxes. A box is x1, y1, x2, y2 in pixels.

Two conventions meet in this project, and this module alone converts between them:
- continuous corners: x2 = x1 + width. Datasets and `Detections` mean that.
- inclusive pixels, as mmdetection 1.x: x2 = x1 + width - 1, the last pixel that belongs to the box. The
  network and its soft-NMS mean that, because the published weights do.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

# A numpy array or a TensorFlow tensor: the two functions below are plain arithmetic, so that both work.
Boxes = TypeVar("Boxes", bound=Any)

# float32 as boxes are everywhere; a Python list would turn a float32 numpy array into float64.
_LAST_PIXEL = np.array([0.0, 0.0, 1.0, 1.0], np.float32)


def to_inclusive(boxes: Boxes) -> Boxes:
    """Continuous corners [..., 4] float32 -> inclusive pixels [..., 4] of the same dtype."""
    return cast(Boxes, boxes - _LAST_PIXEL)


def to_continuous(boxes: Boxes) -> Boxes:
    """Inclusive pixels [..., 4] float32 -> continuous corners [..., 4] of the same dtype."""
    return cast(Boxes, boxes + _LAST_PIXEL)


def inclusive_iou(boxes_a: ArrayLike, boxes_b: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union of every pair of inclusive-pixel boxes.

    Args:
        boxes_a: [N, 4], finite.
        boxes_b: [M, 4], finite.

    Returns:
        float64 [N, M] in [0, 1]. A box without area (x2 < x1 - 1, say) overlaps nothing.
    """
    a = np.asarray(boxes_a, np.float64).reshape(-1, 1, 4)  # [N, 1, 4]
    b = np.asarray(boxes_b, np.float64).reshape(1, -1, 4)  # [1, M, 4]
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0]) + 1.0  # [N, M]
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1]) + 1.0  # [N, M]
    intersection = np.maximum(width, 0.0) * np.maximum(height, 0.0)  # [N, M]
    union = _inclusive_area(a) + _inclusive_area(b) - intersection  # [N, M]
    iou: NDArray[np.float64] = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0.0)
    return iou


def _inclusive_area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., 4] -> [...], never negative."""
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2] + 1.0, 0.0)  # [..., 2]
    return np.asarray(sides.prod(axis=-1))
