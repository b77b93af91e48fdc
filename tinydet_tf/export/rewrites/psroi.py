"""PSRoIAlign of one image in the form that TFLite runs fastest: the same function as layers.psroi_align.

R rois, L pooled levels, 7 x 7 = 49 bins of 2 x 2 samples, D output channels, 49 D channels of a feature map.

- The feature maps of all levels are one table of rows (`rows`): the channels that one bin reads at one cell, or single
  channels. What one sample reads are `slots`, a row each.
- Where a sample lies is computed for 7 bins a side, then spread over slots (`positions`). Of its four corners the upper
  left one's row is computed; the others are so many rows further.
- One gather a corner of a sample: 16 of them, each small enough to be interpolated in the cache, no slices in between.
- Samples outside the map, which read zeros, hardly ever occur for RoIs clipped to the image (`samples_stay_inside`);
  where they can, what a sample reads is multiplied by 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tinydet_tf.config import ModelConfig
from tinydet_tf.export.rewrites.positions import Positions
from tinydet_tf.export.rewrites.rows import CELLS, SPARE, Rows, reads_fewer
from tinydet_tf.export.rewrites.trained import FloatArray
from tinydet_tf.export.scopes import ROI, TABLE, scope


def pool(
    features: Sequence[tf.Tensor], rois: tf.Tensor, config: ModelConfig, rows: Rows, positions: Positions
) -> tf.Tensor:
    """PSRoIAlign.

    Args:
      features: the pooled levels, [1, H, W, channels] each.
      rois: [R, 4] in units of `positions`, clipped to the image.

    Returns:
      float32 [R, slots * width]; `head_kernel` puts the head's weights into the same order.
    """
    with scope(TABLE):
        channels, width = features[-1].shape[-1], features[-1].shape[2]  # which every level's cells are a multiple of
        # Joined as maps of one width: the converter would otherwise make copies of [cells, 1, channels].
        maps = [tf.reshape(f, [1, -1, width, channels]) for f in features]
        joined = tf.concat([*maps, np.zeros([1, SPARE, width, channels], np.float32)], 1)
        if rows.transposed:
            joined = tf.transpose(tf.reshape(joined, [-1, CELLS]))
        table = tf.reshape(joined, [-1] if rows.width == 1 else [-1, rows.width])
    with scope(ROI):
        corners = positions.corners(rois, config, rows)
    samples = []
    for vertical in (0, 1):
        for horizontal in (0, 1):
            with scope(ROI):
                first = tf.cast(corners.first[0][vertical] + corners.first[1][horizontal], tf.int32)  # [R, slots]
                below = first + corners.below
            # Dequantized behind the gathers where these read fewer numbers.
            with scope(TABLE if reads_fewer(config, rows) else ROI):
                numbers = (first, first + corners.beside, below, below + corners.beside)
                a, b, c, d = (tf.gather(table, number) for number in numbers)  # [R, slots(, width)]
            with scope(ROI):
                down, right = corners.shares[0][vertical], corners.shares[1][horizontal]
                top = a + right * (b - a)
                bottom = c + right * (d - c)
                sample = top + down * (bottom - top)
                if corners.inside is not None:
                    sample *= corners.inside[0][vertical] * corners.inside[1][horizontal]
                samples.append(sample)
    with scope(ROI):
        a, b, c, d = samples
        if config.psroi_reduce == "max":
            pooled = tf.maximum(tf.maximum(a, b), tf.maximum(c, d))
        else:
            pooled = (a + b + c + d) * 0.25
        return tf.reshape(pooled, [rois.shape[0], -1])


def head_kernel(kernel: FloatArray, rows: Rows) -> FloatArray:
    """The first dense kernel of the head [channels, hidden] for what `pool` gives: [slots * width, hidden]."""
    return kernel[rows.channel_of.reshape(-1)]
