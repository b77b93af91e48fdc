"""Where boxes and PSRoIAlign's samples lie, in the arithmetic that a format computes them in.

R rois, 7 x 7 bins of 2 x 2 samples. Two classes do the same:

- `FloatPositions`: float32 pixels.
- `WholePositions`: whole numbers. What asks for float16 arithmetic gets it for every float that XNNPACK computes, and
  above 256 pixels a float16 has steps of a quarter. So no float holds a position there: only by how much a box moves,
  and how large it becomes, are float, where a step is a two-thousandth of the box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tinydet_tf.boxes import MAX_LOG_RATIO, clip, decode
from tinydet_tf.config import ModelConfig
from tinydet_tf.export.rewrites.rows import Rows, samples_stay_inside, table_size
from tinydet_tf.layers.psroi_align import BINS, MIN_SIDE

#: What belongs to the samples along each axis: of y and of x, of the first and of the second of a bin's two samples.
Axes = tuple[list[tf.Tensor], list[tf.Tensor]]


@dataclass(frozen=True)
class Corners:
    """Which four rows of the table each sample reads, and what share each has.

    Attributes:
      first: parts [R, slots] of the number of the row above and on the left: one along y and one along x add up to it.
      below: int32 [R, slots], how many rows further the lower neighbour is.
      beside: how many rows further the right neighbour is.
      shares: of the lower and of the right neighbour, [R, slots(, width)]. 0 at the end of a map, where what follows it
        in the table is read instead of a neighbour.
      inside: 0 where a sample lies outside of the map, in the same shape; None where none can.
    """

    first: Axes
    below: tf.Tensor
    beside: int
    shares: Axes
    inside: Axes | None


_SAMPLES = 2 * BINS
#: The order of the samples of an axis in 14 columns: the first of each of the 7 bins, then the second of each.
_ORDER = np.arange(_SAMPLES).reshape(BINS, 2).T.reshape(-1)
#: XNNPACK computes eight columns of a float product at a time, but takes a slower kernel where filling up by itself
#: would waste more than a hundredth.
_TILE = 8
#: Of 28 columns, samples along y and then along x: 1 along y.
_ALONG_Y = np.repeat([1, 0], _SAMPLES)


class Positions(Protocol):
    """Boxes are tensors [..., 4] of x1, y1, x2, y2, inclusive, in `unit` parts of a pixel of the network's input."""

    unit: int

    def constant(self, pixels: npt.ArrayLike) -> tf.Tensor:
        """Coordinates or lengths that are known beforehand, in pixels; what is no whole number of units is raised."""

    def decode(self, boxes: tf.Tensor, deltas: tf.Tensor, stds: tuple[float, ...]) -> tf.Tensor:
        """`boxes.decode`, clipped to the image."""

    def corners(self, rois: tf.Tensor, config: ModelConfig, rows: Rows) -> Corners:
        """Which rows of the table each sample of each RoI [R, 4] reads, and what share each has."""

    def shares(self, boxes: tf.Tensor, of: int = 1) -> tf.Tensor:
        """float32: coordinates of 0 to S pixels as shares of `of` pixels."""


class FloatPositions:
    """float32 pixels.

    Args:
      size: S, pixels of a side of the square input.
    """

    unit = 1

    def __init__(self, size: int) -> None:
        self.size = size

    def constant(self, pixels: npt.ArrayLike) -> tf.Tensor:
        return tf.constant(pixels, tf.float32)

    def decode(self, boxes: tf.Tensor, deltas: tf.Tensor, stds: tuple[float, ...]) -> tf.Tensor:
        return clip(decode(boxes, deltas, stds), self.size)

    def shares(self, boxes: tf.Tensor, of: int = 1) -> tf.Tensor:
        return boxes if of == 1 else boxes * (1.0 / of)

    def corners(self, rois: tf.Tensor, config: ModelConfig, rows: Rows) -> Corners:
        levels = config.roi_levels
        sizes, strides = config.level_sizes[:levels], config.strides[:levels]
        cell_step, row_step = _steps(config, rows)
        first_cell = _first_cells(config)

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

        fractions = np.tile((_ORDER + 0.5) / _SAMPLES, 2).astype(np.float32)
        at = tf.matmul(rois, near) * scale + tf.maximum(tf.matmul(rois, span) * scale, MIN_SIDE) * fractions
        clipped = tf.minimum(tf.maximum(at, 0.0), size - 1.0)  # [R, 28]
        lower = tf.floor(clipped)

        # Row numbers: (first + y * size + x) * cell_step + row of the slot * row_step.
        along_y = _ALONG_Y.astype(np.float32)
        step = (size * along_y + (1.0 - along_y)) * float(cell_step)
        start = first * (along_y * cell_step)
        y, x = _spread(lower * step + start, rows, 1)
        inside = None
        if not samples_stay_inside(config):
            inside = _spread_wide(tf.cast((at >= -1.0) & (at <= size), tf.float32), rows)
        return Corners(
            first=([part + (rows.row_of * row_step).astype(np.float32) for part in y], x),
            below=tf.cast(tf.matmul(size * float(cell_step), np.ones([1, len(rows.row_of)], np.float32)), tf.int32),
            beside=cell_step,
            shares=_spread_wide(clipped - lower, rows),
            inside=inside,
        )


class WholePositions:
    """int32, in powers of two of a pixel: a 64th up to 511 pixels of a side, a 32nd up to 1,023.

    Args:
      size: S, pixels of a side of the square input.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        # What a box moves by, at most 2 S, has to be a float16: below 65504.
        self.unit = min(64, 2 ** math.floor(math.log2(65504 / (2 * size))))

    def constant(self, pixels: npt.ArrayLike) -> tf.Tensor:
        return tf.constant(np.ceil(np.asarray(pixels, np.float64) * self.unit).astype(np.int32))

    def decode(self, boxes: tf.Tensor, deltas: tf.Tensor, stds: tuple[float, ...]) -> tf.Tensor:
        # Of a box that moves by less than S nothing is lost: one of 4 S then covers the image, wherever it is.
        limit = 2.0 * self.size * self.unit
        centre_delta = deltas[..., :2] * tf.constant(stds[:2], tf.float32)
        log_ratio = deltas[..., 2:] * tf.constant(stds[2:], tf.float32)
        log_ratio = tf.clip_by_value(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)
        low, high = boxes[..., :2], boxes[..., 2:]
        side = tf.cast(high - low + self.unit, tf.float32)
        moved = tf.clip_by_value(side * centre_delta, -limit, limit)
        half = tf.minimum(tf.exp(log_ratio) * side * 0.5, limit)
        centre = low + (high - low) // 2 + tf.cast(tf.round(moved), tf.int32)
        reach = tf.cast(tf.round(half), tf.int32) - self.unit // 2
        return tf.clip_by_value(tf.concat([centre - reach, centre + reach], -1), 0, (self.size - 1) * self.unit)

    def shares(self, boxes: tf.Tensor, of: int = 1) -> tf.Tensor:
        # Read from tables and added by what XNNPACK does not take over: a product would be a float16.
        whole = boxes // self.unit
        pixels = np.arange(self.size + 1, dtype=np.float32) / of
        parts = np.arange(self.unit, dtype=np.float32) / (self.unit * of)
        return tf.add_n([
            tf.gather(tf.constant(pixels), whole),
            tf.gather(tf.constant(parts.astype(np.float32)), boxes - whole * self.unit),
        ])  # fmt: skip

    def corners(self, rois: tf.Tensor, config: ModelConfig, rows: Rows) -> Corners:
        levels = config.roi_levels
        sizes, strides = config.level_sizes[:levels], config.strides[:levels]
        cell_step, row_step = _steps(config, rows)
        first_cell = _first_cells(config)
        unit, finest = self.unit, strides[0]

        low, span = rois[:, :2], rois[:, 2:] - rois[:, :2]
        side = span + unit
        area = side[:, :1] * side[:, 1:]  # [R, 1]
        scale = tf.ones(area.shape, tf.int32)  # stride / finest
        size = tf.fill(area.shape, sizes[0])
        first = tf.zeros(area.shape, tf.int32)
        for level in range(1, levels):
            least = ((2.0**level - 1e-6) * config.roi_finest * unit) ** 2
            there = tf.cast(area >= math.ceil(least), tf.int32)
            scale += there * ((strides[level] - strides[level - 1]) // finest)
            size += there * (sizes[level] - sizes[level - 1])
            first += there * int(first_cell[level] - first_cell[level - 1])

        # A sample lies at low + span * (n + 1/2) / 14: in 28ths of a unit, then in parts of a cell.
        cell = 4 * unit * finest
        span = tf.maximum(span, scale * math.ceil(MIN_SIDE * finest * unit))
        odd = (2 * _ORDER + 1).astype(np.int32)
        both = [low[:, axis : axis + 1] * 28 + span[:, axis : axis + 1] * odd for axis in (1, 0)]  # y, then x
        at = tf.concat(both, 1) // (scale * BINS)
        clipped = tf.minimum(at, (size - 1) * cell)  # [R, 28]
        lower = clipped // cell

        along_y = _ALONG_Y.astype(np.int32)
        step = (size * along_y + (1 - along_y)) * cell_step
        numbers = lower * step + first * (along_y * cell_step)
        # Gathered and not multiplied by matrices, which would be float.
        y, x = (
            [tf.gather(numbers, (begin + BINS * sample + bins).astype(np.int32), axis=1) for sample in (0, 1)]
            for begin, bins in zip((0, _SAMPLES), _bins_along(rows), strict=True)
        )
        inside = None
        if not samples_stay_inside(config):
            inside = _spread_wide(tf.cast(at <= size * cell, tf.float32), rows)
        return Corners(
            first=([part + (rows.row_of * row_step).astype(np.int32) for part in y], x),
            below=tf.gather(size * cell_step, np.zeros([len(rows.row_of)], np.int32), axis=1),
            beside=cell_step,
            # Of 2**11 parts of a cell at most each is a float16.
            shares=_spread_wide(tf.cast(clipped - lower * cell, tf.float32) * (1.0 / cell), rows),
            inside=inside,
        )


def _steps(config: ModelConfig, rows: Rows) -> tuple[int, int]:
    """How many rows the next cell is away, and the next row of a cell."""
    return (1, table_size(config) // config.channels) if rows.transposed else (config.channels, 1)


def _first_cells(config: ModelConfig) -> npt.NDArray[np.int64]:
    """[levels], how many cells stand before those of a level."""
    levels = config.roi_levels
    return np.cumsum([0, *(size**2 for size in config.level_sizes[:levels])])[:levels]


def _bins_along(rows: Rows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of each slot its row of bins and its column."""
    return rows.bin_of // BINS, rows.bin_of % BINS


def _spread(numbers: tf.Tensor, rows: Rows, width: int) -> Axes:
    """float32 [R, 28] -> of each axis and sample [R, slots * width]: each slot takes its bin's number. Products with
    matrices of 0 and 1: exact, for the numbers are."""
    slots = width * len(rows.bin_of)
    axes = []
    for bins_along in _bins_along(rows):
        matrix = np.zeros([BINS, -(-slots // _TILE) * _TILE], np.float32)
        matrix[np.repeat(bins_along, width), np.arange(slots)] = 1
        axes += [matrix] * 2
    y0, y1, x0, x1 = (tf.matmul(n, m)[:, :slots] for n, m in zip(tf.split(numbers, 4, 1), axes, strict=True))
    return [y0, y1], [x0, x1]


def _spread_wide(numbers: tf.Tensor, rows: Rows) -> Axes:
    """As `_spread`, [R, slots(, width)]."""
    axes = _spread(numbers, rows, rows.width)
    if rows.width == 1:
        return axes
    shape = [numbers.shape[0], -1, rows.width]
    return [tf.reshape(w, shape) for w in axes[0]], [tf.reshape(w, shape) for w in axes[1]]
