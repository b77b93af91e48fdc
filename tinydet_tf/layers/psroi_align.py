"""PSRoIAlign built from crop_and_resize; what is exported is tinydet_tf.export.rewrites.psroi.

R rois, L pooled levels (finest first), G = 7 bins a side, D = 5 output channels; a feature map has D*G*G = 245
channels, and output channel d of bin (i, j) reads input channel (d*G + i)*G + j. Each bin takes 2x2 bilinear samples
and keeps their maximum (the published op) or their mean. Coordinates are divided by the stride without a half-pixel
shift; a side is at least 0.1 cells; a sample outside [-1, size] is 0, one in between is clamped to the map
(docs/reference.md, "R-CNN"). The tests compare both forms with the plain numpy one in tests/references.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tinydet_tf.layers.devices import on_cpu

BINS = 7
MIN_SIDE = 0.1
#: A normalized coordinate that is surely outside the map, where crop_and_resize fills with zero.
_FAR = 4.0
#: Where y1, x1, y2, x2 of each bin stand in a row of 28 numbers: y1 of the 7 rows of bins, x1 of the 7 columns, then
#: y2 and x2 likewise.
_CORNERS = np.array([[i, 7 + j, 14 + i, 21 + j] for i in range(BINS) for j in range(BINS)], np.int32).ravel()


def roi_levels(rois: tf.Tensor, *, finest: float, num_levels: int) -> tf.Tensor:
    """Pyramid level of each RoI: floor(log2(sqrt(w*h) / finest + 1e-6)) with inclusive sides, clipped.

    Args:
      rois: [R, 4] x1,y1,x2,y2 in input pixels.

    Returns:
      int32 [R] in 0..num_levels-1. The code compares with powers of two, because runtimes round a logarithm
      differently.
    """
    width = tf.maximum(rois[:, 2] - rois[:, 0] + 1.0, 0.0)
    height = tf.maximum(rois[:, 3] - rois[:, 1] + 1.0, 0.0)
    ratio = tf.sqrt(width * height) * (1.0 / finest) + 1e-6
    level = tf.zeros_like(ratio)
    for coarser in range(1, num_levels):
        level += tf.cast(ratio >= 2.0**coarser, tf.float32)
    return tf.cast(level, tf.int32)


def _samples(low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    """[R, 14] coordinates, in cells, of the two samples of each of the 7 bins between low and high [R, 1]."""
    fractions = ((np.arange(2 * BINS) + 0.5) / (2 * BINS)).astype(np.float32)
    return low + tf.maximum(high - low, MIN_SIDE) * fractions


def _reduce(samples: Sequence[tf.Tensor], reduce: str) -> tf.Tensor:
    a, b, c, d = samples
    if reduce == "max":
        return tf.maximum(tf.maximum(a, b), tf.maximum(c, d))
    return (a + b + c + d) * 0.25


def _reduce_crops(crops: tf.Tensor, reduce: str) -> tf.Tensor:
    """[R*49, 2, 2, D] -> R*49*D numbers.

    Not by slicing: the gradient of each slice would be a tensor of zeros as large as all crops. On a CPU a max pool
    takes half the time of the comparisons. Of equal samples both give the gradient to the first. On a GPU
    the comparisons stay: cuDNN's pool is not made for so many images of so few pixels.
    """
    depth = crops.shape[-1]
    if reduce == "max" and on_cpu():
        return tf.nn.max_pool2d(tf.reshape(crops, [-1, 2 * BINS**2, 2, depth]), 2, 2, "VALID")
    return _reduce(tf.unstack(tf.reshape(crops, [-1, 4, depth]), axis=1), reduce)


def psroi_align(
    features: Sequence[tf.Tensor],
    rois: tf.Tensor,
    batch_indices: tf.Tensor,
    *,
    strides: Sequence[int],
    finest: float,
    reduce: str = "max",
) -> tf.Tensor:
    """PSRoIAlign built from crop_and_resize, differentiable in the features.

    The bins become the batch: [B, H, W, D*49] is seen as 49 maps of D channels an image, and a bin is one crop of 2x2
    between its two sample coordinates, so no work is wasted on other bins' channels. All levels lie side by side on one
    canvas, so that one op serves every RoI.

    Args:
      features: L maps [B, H, W, 245], the pooled levels only. H and W static.
      rois: float32 [R, 4] x1,y1,x2,y2 in input pixels. No gradient flows to them.
      batch_indices: int32 [R], the image of each RoI.
      strides: L strides in pixels.
      finest: RoI side in pixels that belongs to level 0.
      reduce: 'max' or 'mean' of a bin's four samples.

    Returns:
      float32 [R, 245] in (d, i, j) order, the order of the R-CNN head's weights.
    """
    canvas, origins = _canvas(features)
    height, width, channels = canvas.shape[1], canvas.shape[2], canvas.shape[3]
    depth = channels // BINS**2
    maps = tf.reshape(canvas, [-1, height, width, depth, BINS**2])
    maps = tf.reshape(tf.transpose(maps, [0, 4, 1, 2, 3]), [-1, height, width, depth])  # [B*49, H, W, D]

    rois, batch_indices = tf.stop_gradient(tf.cast(rois, tf.float32)), tf.convert_to_tensor(batch_indices, tf.int32)
    levels = roi_levels(rois, finest=finest, num_levels=len(features))

    def by_level(values: Sequence[float]) -> tf.Tensor:  # [R, 1]
        return tf.gather(tf.constant(values, tf.float32), levels)[:, None]

    scale = by_level([1.0 / s for s in strides])

    def axis(low: tf.Tensor, high: tf.Tensor, sizes: list[int], origin: list[int], extent: int) -> tf.Tensor:
        """[R, 7, 2] normalized canvas coordinates of the two samples of each bin."""
        size = by_level([float(s) for s in sizes])
        at = _samples(low * scale, high * scale)
        dead = (at < -1.0) | (at > size)
        at = tf.clip_by_value(at, 0.0, size - 1.0) + by_level([float(o) for o in origin])
        return tf.reshape(tf.where(dead, _FAR, at * (1.0 / (extent - 1))), [-1, BINS, 2])

    heights, widths = [int(f.shape[1]) for f in features], [int(f.shape[2]) for f in features]
    y = axis(rois[:, 1:2], rois[:, 3:4], heights, [o[0] for o in origins], height)
    x = axis(rois[:, 0:1], rois[:, 2:3], widths, [o[1] for o in origins], width)
    # [R, 28] and one gather: broadcasting the four corners over the bins and joining them takes three times as long.
    corners = tf.concat([y[..., 0], x[..., 0], y[..., 1], x[..., 1]], 1)
    boxes = tf.reshape(tf.gather(corners, _CORNERS, axis=1), [-1, 4])  # [R*49, 4]
    box_maps = batch_indices[:, None] * BINS**2 + np.arange(BINS**2, dtype=np.int32)  # [R, 49]
    crops = tf.image.crop_and_resize(maps, boxes, tf.reshape(box_maps, [-1]), [2, 2])
    pooled = tf.reshape(_reduce_crops(crops, reduce), [-1, BINS**2, depth])
    pooled = tf.transpose(pooled, [0, 2, 1])  # [R, D, 49]
    return tf.reshape(pooled, [-1, depth * BINS**2])


def _canvas(features: Sequence[tf.Tensor]) -> tuple[tf.Tensor, list[tuple[int, int]]]:
    """All levels on one map [B, H, W, C] with the (row, column) where each begins.

    Level 0 stands on the left, the others one below the other to its right. A row and a column of zeros follow each
    level: a coordinate that rounding moves slightly past the border takes about a millionth of its value from them,
    not from another level. H-1 and W-1 are powers of two.
    """
    first, rest = features[0], features[1:]
    column = int(first.shape[2]) + 1
    rows = np.cumsum([0, *(int(level.shape[1]) + 1 for level in rest)])
    height = max(int(first.shape[1]) + 1, int(rows[-1]))
    width = column + (int(rest[0].shape[2]) + 1 if rest else 0)

    def fill(level: tf.Tensor, height: int, width: int) -> tf.Tensor:
        level = tf.cast(level, tf.float32)
        return tf.pad(level, [[0, 0], [0, height - level.shape[1]], [0, width - level.shape[2]], [0, 0]])

    if not rest:
        return fill(first, height, width), [(0, 0)]
    ends = [*rows[1:-1], height]
    right = [
        fill(level, int(end - start), width - column) for level, start, end in zip(rest, rows[:-1], ends, strict=True)
    ]
    canvas = tf.concat([fill(first, height, column), tf.concat(right, 1) if len(right) > 1 else right[0]], 2)
    return canvas, [(0, 0), *((int(row), column) for row in rows[:-1])]
