"""The 2x2 average pool and the strided depthwise conv behind it as one conv (paper, section 3.1.2), border included.

A KxK conv with stride 2 over the pooled map is a (K+1)x(K+1) conv over the map itself, but for the border: the conv
pads the *pooled* map with zeros, and a window that hangs over the map averages its border with zeros instead. So the
outermost outputs are computed from what they should see, with kernels whose taps outside the pooled map are left out,
and put around the interior. C channels; S the map's side.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tinydet_tf.export.rewrites.trained import FloatArray


def fused(side: int, kernel: int) -> bool:
    """Whether the fused form exists here: a 3x3 conv over an even side.

    A fused 5x5 has 36 taps, more than the runtime's depthwise kernels take in one pass: several times slower.
    """
    return kernel == 3 and side % 2 == 0 and side >= 6


def over_pooled(kernel: FloatArray) -> FloatArray:
    """[K, L, C, 1] over the pooled map -> [K+1, L+1, C, 1] over the map."""
    height, width, channels, _ = kernel.shape
    whole = np.zeros([height + 1, width + 1, channels, 1], np.float32)
    for row in (0, 1):
        for column in (0, 1):
            whole[row : row + height, column : column + width] += kernel * np.float32(0.25)
    return whole


def pool_and_convolve(
    x: tf.Tensor, kernel: FloatArray, shift: FloatArray | None, activation: Callable[[tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    """Average pool 2x2, then a 3x3 depthwise conv of stride 2 padded by one.

    Args:
      x: [1, S, S, C], S even and at least 6.
      kernel: [3, 3, C, 1]. shift: [C] or None.
      activation: of each part, so that the converter can fuse it into the part's conv.

    Returns:
      [1, S/2, S/2, C].
    """

    def convolve(part: tf.Tensor, taps: FloatArray, padding: str = "VALID") -> tf.Tensor:
        y = tf.nn.depthwise_conv2d(part, over_pooled(taps), [1, 2, 2, 1], padding)
        return activation(y if shift is None else y + shift)

    out = x.shape[1] // 2
    whole = convolve(x, kernel, "SAME")  # right in the interior
    rows, columns = slice(1, -1), slice(1, -1)
    left = convolve(x[:, rows, :3], kernel[:, 1:])
    right = convolve(x[:, rows, -3:], kernel[:, :2])
    corners = {(v, h): convolve(_corner(x, v, h), _taps(kernel, v, h)) for v in (0, 1) for h in (0, 1)}
    top = convolve(x[:, :3, columns], kernel[1:])
    bottom = convolve(x[:, -3:, columns], kernel[:2])
    middle = tf.concat([left, whole[:, 1 : out - 1, 1 : out - 1], right], 2)
    first = tf.concat([corners[0, 0], top, corners[0, 1]], 2)
    last = tf.concat([corners[1, 0], bottom, corners[1, 1]], 2)
    return tf.concat([first, middle, last], 1)


def _corner(x: tf.Tensor, vertical: int, horizontal: int) -> tf.Tensor:
    x = x[:, -3:] if vertical else x[:, :3]
    return x[:, :, -3:] if horizontal else x[:, :, :3]


def _taps(kernel: FloatArray, vertical: int, horizontal: int) -> FloatArray:
    kernel = kernel[:2] if vertical else kernel[1:]
    return kernel[:, :2] if horizontal else kernel[:, 1:]
