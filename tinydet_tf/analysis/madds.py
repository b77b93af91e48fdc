"""Multiply-accumulates and parameters of a built detector, read off its Keras layers.

The counting rule is the one that reproduces the paper's tables: every conv and FC, and its bias where it has one,
except in the R-CNN head, which is counted without; the two 1x1 convs of squeeze-and-excite; nothing else
(normalization, pooling, activations, additions, resizing). The paper calls a multiply-accumulate a FLOP.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tf_keras as keras

from tinydet_tf.layers.grouped_conv import GroupedConv2D
from tinydet_tf.model.detector import TinyDet

PARTS = ("backbone", "fpn", "rpn", "rcnn")


@dataclass(frozen=True)
class Row:
    """A row of the paper's tables. part: one of PARTS; name: of the layer or block; mmadds: millions."""

    part: str
    name: str
    mmadds: float


@dataclass(frozen=True)
class Cost:
    """What one image costs in the whole detector.

    Attributes:
      rows: as in tables 10-18, one for each backbone block, lateral conv, SCConv of the FPN, conv of the RPN (summed
        over the levels), and for the R-CNN head.
      parameters: the trainable ones; normalization's moving statistics do not count.
    """

    rows: tuple[Row, ...]
    parameters: int

    @property
    def totals(self) -> dict[str, float]:
        """Millions of multiply-accumulates of each part, and their `total`."""
        parts = {part: sum(row.mmadds for row in self.rows if row.part == part) for part in PARTS}
        return {**parts, "total": sum(parts.values())}


def measure(detector: TinyDet) -> Cost:
    """Counts what one image costs."""
    config = detector.config
    counts: dict[tuple[str, str], int] = {}

    def add(part: str, name: str, madds: int) -> None:
        counts[part, name] = counts.get((part, name), 0) + madds

    for layer in detector.pyramid.layers:
        row = layer.name.split("_")[0]
        part = "fpn" if row.startswith(("lateral", "fpn", "merge", "upsample")) else "backbone"
        add(part, row, _madds(layer, math.prod(layer.output.shape[1:-1])))
    for layer in detector.rpn_head.layers:  # on every level, whose sides its layers keep
        add("rpn", "_".join(layer.name.split("_")[:2]), _madds(layer, sum(size**2 for size in config.level_sizes)))
    for layer in detector.rcnn_head.layers:
        add("rcnn", "rcnn", _madds(layer, config.proposals_test, bias=False))
    rows = tuple(Row(part, name, madds / 1e6) for (part, name), madds in counts.items() if madds)
    rows = tuple(sorted(rows, key=_place))
    parameters = sum(math.prod(variable.shape) for variable in detector.trainable_variables)
    return Cost(rows, parameters)


def _place(row: Row) -> tuple[int, bool, str]:
    """Sorting key: the parts in their order; in the FPN first the lateral convs, finest first; else as layers run."""
    return PARTS.index(row.part), row.name.startswith("fpn"), row.name if row.part == "fpn" else ""


def _madds(layer: Any, positions: int, *, bias: bool = True) -> int:
    """Multiply-accumulates of a layer, which uses each of its weights once for each output position."""
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        kernel = layer.depthwise_kernel
    elif isinstance(layer, keras.layers.Conv2D | GroupedConv2D | keras.layers.Dense):
        kernel = layer.kernel
    else:
        return 0
    weights = math.prod(kernel.shape)
    if bias and layer.bias is not None:
        weights += math.prod(layer.bias.shape)
    return int(positions * weights)
