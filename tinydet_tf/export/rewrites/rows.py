"""How PSRoIAlign's feature maps are cut into the rows of one table, and which row each number of the result reads.

7 x 7 = 49 bins, D output channels, 49 D channels of a feature map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinydet_tf.config import ModelConfig
from tinydet_tf.layers.psroi_align import BINS, MIN_SIDE

IntArray = npt.NDArray[np.int64]
#: Bins of a RoI.
CELLS = BINS**2
#: Rows of cells behind the coarsest level's, of zeros: what is read, with no share, beside and below the last cell.
SPARE = 2


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
    bin_of = np.arange(CELLS)
    depth = channels // CELLS
    return Rows(depth, bin_of, bin_of, np.arange(depth) * CELLS + bin_of[:, None], transposed=True)


def single_channels(channels: int) -> Rows:
    """A row a channel: any number of channels, in the order of the trained model."""
    channel = np.arange(channels)
    return Rows(1, channel % CELLS, channel, channel[:, None])


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
    few = table_size(config) < 2**24
    rows = (single_channels if few and not transposing_pays(config) else bins)(config.channels)
    if table_size(config) // rows.width >= 2**24:
        raise ValueError(f"{table_size(config)} numbers in the feature maps are too many; use a smaller input")
    return rows


def transposing_pays(config: ModelConfig) -> bool:
    """Whether to transpose the table once, or to gather every channel by itself.

    A number costs about as much to transpose as a sixth of a gather. Measured (S and L: docs/rewrites.md): transposing
    gains 3 to 7% of M and 11 to 16% of S; it costs L, whose table is large, 3% in float32 and nothing in int8.
    """
    spared = 16 * config.proposals_test * (config.channels - CELLS)
    return table_size(config) <= 6 * spared


def reads_fewer(config: ModelConfig, rows: Rows) -> bool:
    """Whether the gathers read fewer numbers than the table has: then a quantized table is dequantized behind them."""
    return 16 * config.proposals_test * rows.channel_of.size < table_size(config)


def table_size(config: ModelConfig) -> int:
    """How many numbers the table has: each channel of each cell of the pooled levels, and of `SPARE` rows of cells."""
    sizes = config.level_sizes[: config.roi_levels]
    return config.channels * (sum(size**2 for size in sizes) + SPARE * sizes[-1])
