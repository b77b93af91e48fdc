"""Anchors: one size a level, three ratios, mmdet-1.x inclusive integer boxes (docs/reference.md, "TinyRPN").

A = H * W * ratios anchors a level, in the order of the RPN's outputs: row, column, ratio.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def base_anchors(side: float, stride: int, ratios: Sequence[float]) -> FloatArray:
    """The anchors of the cell at the origin, float32 [ratios, 4], inclusive pixels rounded to integers.

    Args:
      side: square root of the area in pixels.
      ratios: height : width.
    """
    centre = 0.5 * (stride - 1)
    root = np.sqrt(np.asarray(ratios, np.float64))
    height, width = side * root, side / root
    corners = np.stack(
        [
            centre - 0.5 * (width - 1),
            centre - 0.5 * (height - 1),
            centre + 0.5 * (width - 1),
            centre + 0.5 * (height - 1),
        ],
        -1,
    )
    return np.round(corners).astype(np.float32)  # halves to even, as torch does


def level_anchors(size: int, stride: int, scale: float, ratios: Sequence[float]) -> FloatArray:
    """All anchors of a level of `size` x `size` cells: float32 [A, 4] inclusive pixels of the network's input."""
    base = base_anchors(scale * stride, stride, ratios)
    shift = np.arange(size, dtype=np.float32) * stride
    x, y = np.meshgrid(shift, shift)
    shifts = np.stack([x, y, x, y], -1)  # [size, size, 4]
    return (shifts[:, :, None, :] + base).reshape(-1, 4)


def all_anchors(
    sizes: Sequence[int], strides: Sequence[int], scale: float, ratios: Sequence[float]
) -> list[FloatArray]:
    """One float32 [A, 4] a level, finest first."""
    return [level_anchors(size, stride, scale, ratios) for size, stride in zip(sizes, strides, strict=True)]
