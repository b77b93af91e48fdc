"""PSRoIAlign of one image in the form that TFLite runs fastest: the same function as layers.psroi_align.

R rois, L pooled levels, 7 x 7 = 49 bins of 2 x 2 samples, D output channels, 49 D channels of a feature map.

- The feature maps of all levels are one table of rows (`Rows`): the channels that one bin reads at one cell, or single
  channels. What one sample reads are `slots`, a row each.
- Where a sample's four corners lie is computed for 7 bins a side, then spread over slots by products with constant 0/1
  matrices: exact, for every sum is an integer below 2^24.
- One gather a corner of a sample: 16 of them, each small enough to be interpolated in the cache, no slices in between.
- Samples outside the map, which read zeros, hardly ever occur for RoIs clipped to the image (`samples_stay_inside`);
  where they can, what a sample reads is multiplied by 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tinydet_tf.config import ModelConfig
from tinydet_tf.export.rewrites.trained import FloatArray
from tinydet_tf.export.scopes import ROI, TABLE, scope
from tinydet_tf.layers.psroi_align import BINS, MIN_SIDE

IntArray = npt.NDArray[np.int64]
_CELLS = BINS**2


@dataclass(frozen=True)
class Rows:
    """How the channels of a feature cell are cut into rows of the table, and what each slot of the result reads.

    width: channels of a row.
    bin_of, row_of: [slots], the bin that a slot belongs to, and which row of a cell it reads.
    channel_of: [slots, width], which of the head's inputs (d * 49 + bin) a number is.
    transposed: the table is transposed from [cells, width, 49] to [49, cells, width], else it is [cells, rows of a
      cell, width].
    """

    width: int
    bin_of: IntArray
    row_of: IntArray
    channel_of: IntArray
    transposed: bool = False


def bins(channels: int) -> Rows:
    """A row a bin, which the table is transposed for: any number of channels."""
    bin_of = np.arange(_CELLS)
    depth = channels // _CELLS
    return Rows(depth, bin_of, bin_of, np.arange(depth) * _CELLS + bin_of[:, None], transposed=True)


def single_channels(channels: int) -> Rows:
    """A row a channel: any number of channels, in the order of the trained model."""
    channel = np.arange(channels)
    return Rows(1, channel % _CELLS, channel, channel[:, None])


def samples_stay_inside(config: ModelConfig) -> bool:
    """Whether no sample of a RoI clipped to the image can lie outside [-1, size], where it would read zero.

    A sample lies at most 27/28 of a side behind the RoI's near edge, which is at most (S - 1) / stride; only where the
    side is raised to MIN_SIDE can that be outside. RoIs of the finest level can be that small, those of others cannot
    if their area asks for enough width.
    """
    reach = MIN_SIDE * (2 * BINS - 0.5) / (2 * BINS)
    for level, stride in enumerate(config.strides[: config.roi_levels]):
        if reach <= 1.0 / stride:
            continue
        narrowest = (config.roi_finest * (2.0**level - 1e-3)) ** 2 / config.input_size if level else 0.0
        if (narrowest - 1.0) / stride < MIN_SIDE:
            return False
    return True


def table_rows(config: ModelConfig) -> Rows:
    """How the feature maps of a configuration are read.

    Raises:
      ValueError: there are more rows than float32 can number.
    """
    # Row numbers are exact in float32 below 2**24: a row a bin has the fewest.
    few = _table_size(config) < 2**24
    rows = (single_channels if few and not transposing_pays(config) else bins)(config.channels)
    if _table_size(config) // rows.width >= 2**24:
        raise ValueError(f"{_table_size(config)} numbers in the feature maps are too many; use a smaller input")
    return rows


def transposing_pays(config: ModelConfig) -> bool:
    """Whether to transpose the table once, or to gather every channel by itself.

    A number costs about as much to transpose as a sixth of a gather. Measured (S and L: docs/rewrites.md): transposing
    gains 3 to 7% of M and 11 to 16% of S; it costs L, whose table is large, 3% in float32 and nothing in int8.
    """
    spared = 16 * config.proposals_test * (config.channels - _CELLS)
    return _table_size(config) <= 6 * spared


def reads_fewer(config: ModelConfig, rows: Rows) -> bool:
    """Whether the gathers read fewer numbers than the table has: then a quantized table is dequantized behind them."""
    return 16 * config.proposals_test * rows.channel_of.size < _table_size(config)


def _table_size(config: ModelConfig) -> int:
    """How many numbers the table has: every channel of every cell of the pooled levels."""
    return config.channels * sum(size**2 for size in config.level_sizes[: config.roi_levels])


def pool(features: Sequence[tf.Tensor], rois: tf.Tensor, config: ModelConfig, rows: Rows) -> tf.Tensor:
    """PSRoIAlign.

    Args:
      features: the pooled levels, [1, H, W, channels] each.
      rois: float32 [R, 4], clipped to the image.

    Returns:
      float32 [R, slots * width]; `head_kernel` puts the head's weights into the same order.
    """
    with scope(TABLE):
        channels, width = features[-1].shape[-1], features[-1].shape[2]  # which every level's cells are a multiple of
        # Joined as maps of one width: the converter would otherwise make copies of [cells, 1, channels].
        joined = tf.concat([tf.reshape(f, [1, -1, width, channels]) for f in features], 1)
        if rows.transposed:
            joined = tf.transpose(tf.reshape(joined, [-1, _CELLS]))
        table = tf.reshape(joined, [-1] if rows.width == 1 else [-1, rows.width])
    with scope(ROI):
        upper, lower, weights, inside = _corners(rois, config, rows)
    samples = []
    for vertical in (0, 1):
        for horizontal in (0, 1):
            corners = []
            for y in (lower, upper):
                for x in (lower, upper):
                    with scope(ROI):
                        index = tf.cast(y[0][vertical] + x[1][horizontal], tf.int32)  # [R, slots]
                    with scope(TABLE if reads_fewer(config, rows) else ROI):
                        corners.append(tf.gather(table, index))  # [R, slots(, width)]
            with scope(ROI):
                top = corners[0] + weights[1][horizontal] * (corners[1] - corners[0])
                bottom = corners[2] + weights[1][horizontal] * (corners[3] - corners[2])
                sample = top + weights[0][vertical] * (bottom - top)
                if inside is not None:
                    sample *= inside[0][vertical] * inside[1][horizontal]
                samples.append(sample)
    with scope(ROI):
        a, b, c, d = samples
        if config.psroi_reduce == "max":
            pooled = tf.maximum(tf.maximum(a, b), tf.maximum(c, d))
        else:
            pooled = (a + b + c + d) * 0.25
        return tf.reshape(pooled, [rois.shape[0], -1])


_Axes = tuple[list[tf.Tensor], list[tf.Tensor]]


def _corners(rois: tf.Tensor, config: ModelConfig, rows: Rows) -> tuple[_Axes, _Axes, _Axes, _Axes | None]:
    """(upper, lower, weights, inside): of each axis (y, x) and each of its two samples a [R, slots] part of the row
    number of the upper and lower neighbour, the upper one's weight as [R, slots(, width)], and 0 where the sample lies
    outside the map, in the same shape; None where none can."""
    levels = config.roi_levels
    sizes, strides = config.level_sizes[:levels], config.strides[:levels]
    cells = _table_size(config) // config.channels
    cell_step, row_step = (1, cells) if rows.transposed else (config.channels, 1)
    first_cell = np.cumsum([0, *(size**2 for size in sizes)])[:levels]

    # Columns: along y the first sample of the 7 bins, then the second one; along x likewise.
    near = np.zeros([4, 28], np.float32)
    near[1, :14] = near[0, 14:] = 1
    span = -near
    span[3, :14] = span[2, 14:] = 1
    sides = np.array([[-1, 0], [0, -1], [1, 0], [0, 1]], np.float32)

    wide = tf.matmul(rois, sides[:, :1]) + 1.0
    high = tf.matmul(rois, sides[:, 1:]) + 1.0
    ratio = tf.sqrt(wide * high) * (1.0 / config.roi_finest) + 1e-6  # [R, 1]
    scale = tf.fill(ratio.shape, 1.0 / strides[0])
    size = tf.fill(ratio.shape, float(sizes[0]))
    first = tf.zeros(ratio.shape)
    for level in range(1, levels):
        # Sums of powers of two and of integers: exact.
        there = tf.cast(ratio >= 2.0**level, tf.float32)
        scale += there * (1.0 / strides[level] - 1.0 / strides[level - 1])
        size += there * float(sizes[level] - sizes[level - 1])
        first += there * float(first_cell[level] - first_cell[level - 1])

    fractions = (np.arange(2 * BINS) + 0.5) / (2 * BINS)
    fractions = np.tile(fractions.reshape(BINS, 2).T.reshape(-1), 2).astype(np.float32)
    at = tf.matmul(rois, near) * scale + tf.maximum(tf.matmul(rois, span) * scale, MIN_SIDE) * fractions
    last = size - 1.0
    clipped = tf.minimum(tf.maximum(at, 0.0), last)  # [R, 28]
    lower = tf.floor(clipped)
    upper = tf.minimum(lower + 1.0, last)

    # Row numbers: (first + y * size + x) * cell_step + row of the slot * row_step.
    along_y = np.repeat(np.array([1, 0], np.float32), 14)
    step = (size * along_y + (1.0 - along_y)) * float(cell_step)
    start = first * (along_y * cell_step)

    def spread(numbers: tf.Tensor, width: int) -> _Axes:
        """[R, 28] -> of each axis and sample [R, slots * width]: each slot takes its bin's number."""
        axes = []
        for bins_along in (rows.bin_of // BINS, rows.bin_of % BINS):
            matrix = np.zeros([BINS, len(rows.bin_of)], np.float32)
            matrix[bins_along, np.arange(len(bins_along))] = 1
            axes += [np.repeat(matrix, width, 1)] * 2
        y0, y1, x0, x1 = (tf.matmul(n, m) for n, m in zip(tf.split(numbers, 4, 1), axes, strict=True))
        return [y0, y1], [x0, x1]

    def parts(numbers: tf.Tensor) -> _Axes:
        y, x = spread(numbers, 1)
        return [part + (rows.row_of * row_step).astype(np.float32) for part in y], x

    def wide_parts(numbers: tf.Tensor) -> _Axes:
        axes = spread(numbers, rows.width)
        if rows.width == 1:
            return axes
        shape = [rois.shape[0], -1, rows.width]
        return [tf.reshape(w, shape) for w in axes[0]], [tf.reshape(w, shape) for w in axes[1]]

    weights = wide_parts(clipped - lower)
    inside = None
    if not samples_stay_inside(config):
        inside = wide_parts(tf.cast((at >= -1.0) & (at <= size), tf.float32))
    return parts(upper * step + start), parts(lower * step + start), weights, inside


def head_kernel(kernel: FloatArray, rows: Rows) -> FloatArray:
    """The first dense kernel of the head [channels, hidden] for what `pool` gives: [slots * width, hidden]."""
    return kernel[rows.channel_of.reshape(-1)]
