"""TinyFPN (section 3.2, tables 13, 15, 17): lateral 1x1, top-down nearest x2 and add, one SCConv a level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tf_keras as keras

from tinydet_tf.layers.blocks import conv2d, keep_variance, pyramid_conv


def tiny_fpn(taps: Sequence[Any], channels: int, groups: Sequence[int], kind: str) -> list[Any]:
    """Adds TinyFPN to a functional graph.

    Args:
      taps: backbone outputs, finest first, each half the side of the one before.
      groups: number of groups of each level's SCConv, finest first.
      kind: 'scconv' or 'conventional', see `pyramid_conv`.

    Returns:
      [B, H, W, channels] a level, finest first. There is no normalization and no activation
      anywhere (docs/reference.md, "TinyFPN").
    """
    merged = [
        conv2d(tap, channels, f"lateral{level}", bias=True, kernel_initializer=keep_variance())
        for level, tap in enumerate(taps)
    ]
    for level in range(len(merged) - 2, -1, -1):
        above = keras.layers.UpSampling2D(2, interpolation="nearest", name=f"upsample{level}")(merged[level + 1])
        merged[level] = keras.layers.Add(name=f"merge{level}")([merged[level], above])
    return [
        pyramid_conv(x, channels, group, f"fpn{level}", kind=kind)
        for level, (x, group) in enumerate(zip(merged, groups, strict=True))
    ]
