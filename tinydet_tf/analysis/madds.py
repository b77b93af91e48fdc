"""Multiply-accumulates and parameters of a built detector, read off its Keras layers.

The counting rule is the one that reproduces the paper's tables: every conv and FC, and its bias where it has one,
except in the R-CNN head, which is counted without; the two 1x1 convs of squeeze-and-excite; nothing else
(normalization, pooling, activations, additions, resizing). The paper calls a multiply-accumulate a FLOP.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tf_keras as keras

from tinydet_tf.layers.grouped_conv import GroupedConv2D
from tinydet_tf.model.detector import TinyDet

PARTS = ("backbone", "fpn", "rpn", "rcnn")
Shape = tuple[int, ...]


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


@dataclass(frozen=True)
class _Call:
    """A layer at work, and the shape that it makes, without the batch."""

    layer: Any
    output_shape: Shape


def measure(detector: TinyDet) -> Cost:
    """Counts what one image costs."""
    config = detector.config

    counts: dict[tuple[str, str], int] = {}

    def add(part: str, name: str, madds: int) -> None:
        counts[part, name] = counts.get((part, name), 0) + madds

    for call in _calls(detector.pyramid, (config.input_size, config.input_size, 3)):
        row = call.layer.name.split("_")[0]
        add("fpn" if row.startswith(("lateral", "fpn", "merge", "upsample")) else "backbone", row, _madds(call))
    for size in config.level_sizes:
        for call in _calls(detector.rpn_head, (size, size, config.channels)):
            add("rpn", "_".join(call.layer.name.split("_")[:2]), _madds(call))
    for call in _calls(detector.rcnn_head, (config.channels,)):  # of one RoI
        add("rcnn", "rcnn", config.proposals_test * _madds(call, bias=False))
    rows = tuple(Row(part, name, madds / 1e6) for (part, name), madds in counts.items() if madds)
    rows = tuple(sorted(rows, key=_place))
    parameters = sum(math.prod(variable.shape) for variable in detector.trainable_variables)
    return Cost(rows, parameters)


def _place(row: Row) -> tuple[int, bool, str]:
    """Sorting key: the parts in their order; in the FPN first the lateral convs, finest first; else as layers run."""
    return PARTS.index(row.part), row.name.startswith("fpn"), row.name if row.part == "fpn" else ""


def _calls(model: Any, shape: Shape) -> Iterator[_Call]:
    """The layers of a functional model of one input as they run; shape: of the input, without the batch."""
    shapes: dict[str, Shape] = {model.input_names[0]: shape}
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        sources = layer.inbound_nodes[0].inbound_layers
        given = [(None, *shapes[s.name]) for s in (sources if isinstance(sources, list) else [sources])]
        shapes[layer.name] = tuple(layer.compute_output_shape(given if len(given) > 1 else given[0]))[1:]
        yield _Call(layer, shapes[layer.name])


def _madds(call: _Call, *, bias: bool = True) -> int:
    """Multiply-accumulates of one run: the layer uses each of its weights once for each output position."""
    layer = call.layer
    if isinstance(layer, keras.layers.DepthwiseConv2D):  # tested before Conv2D, which is its base class
        positions, kernel = math.prod(call.output_shape[:-1]), layer.depthwise_kernel
    elif isinstance(layer, keras.layers.Conv2D | GroupedConv2D):
        positions, kernel = math.prod(call.output_shape[:-1]), layer.kernel
    elif isinstance(layer, keras.layers.Dense):
        positions, kernel = 1, layer.kernel
    else:
        return 0
    weights = math.prod(kernel.shape)
    if bias and layer.bias is not None:
        weights += math.prod(layer.bias.shape)
    return int(positions * weights)
