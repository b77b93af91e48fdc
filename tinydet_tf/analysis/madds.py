"""Multiply-accumulates, parameters and activation memory of a built detector, read off its Keras layers.

The counting rule is the one that reproduces the paper's tables: every conv and FC, and its bias where it has one,
except in the R-CNN head, which is counted without; the two 1x1 convs of squeeze-and-excite; nothing else
(normalization, pooling, activations, additions, resizing). The paper calls a multiply-accumulate a FLOP.

Memory is that of the tensors alive at once while the layers run in Keras' order, each freed behind its last reader.
Normalization, activations and padding are part of the layer in front of them, as they are once converted. Left out are
the weights, what a runtime packs them into, and the scratch of proposals and PSRoIAlign; the runtime's own peak is for
benchmark.py to measure.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tf_keras as keras

from tinydet_tf.layers.activations import HardSigmoid, HardSwish
from tinydet_tf.layers.grouped_conv import GroupedConv2D
from tinydet_tf.model.detector import TinyDet

PARTS = ("backbone", "fpn", "rpn", "rcnn")
Shape = tuple[int, ...]

#: After conversion these are part of the layer in front of them and have no tensor of their own.
_FUSED = (keras.layers.BatchNormalization, keras.layers.ReLU, keras.layers.ZeroPadding2D, HardSwish, HardSigmoid)


@dataclass(frozen=True)
class Row:
    """A row of the paper's tables. part: one of PARTS; name: of the layer or block; mmadds: millions."""

    part: str
    name: str
    mmadds: float


@dataclass(frozen=True)
class Memory:
    """The largest live set: `elements` numbers, alive while the layer `at` runs."""

    elements: int
    at: str

    def megabytes(self, bytes_each: int) -> float:
        return self.elements * bytes_each / 1e6


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
    memory: Memory

    @property
    def totals(self) -> dict[str, float]:
        """Millions of multiply-accumulates of each part, and their `total`."""
        parts = {part: sum(row.mmadds for row in self.rows if row.part == part) for part in PARTS}
        return {**parts, "total": sum(parts.values())}


@dataclass(frozen=True)
class _Call:
    """One run of a layer: its shapes without the batch, and the names of the tensors that it reads and makes."""

    layer: Any
    input_shapes: list[Shape]
    output_shape: Shape
    reads: list[str]
    makes: str


def measure(detector: TinyDet) -> Cost:
    """Counts what one image costs."""
    config = detector.config
    pyramid = list(_calls(detector.pyramid, [(config.input_size, config.input_size, 3)], ["image"], "pyramid"))
    levels = [f"pyramid/{name}" for name in detector.pyramid.output_names]
    heads = [
        list(_calls(detector.rpn_head, [(size, size, config.channels)], [level], f"rpn{index}"))
        for index, (size, level) in enumerate(zip(config.level_sizes, levels, strict=True))
    ]
    # One RoI. PSRoIAlign makes `pooled`; its arithmetic is not counted.
    head = list(_calls(detector.rcnn_head, [(config.channels,)], ["pooled"], "rcnn"))

    counts: dict[tuple[str, str], int] = {}

    def add(part: str, name: str, madds: int) -> None:
        counts[part, name] = counts.get((part, name), 0) + madds

    for call in pyramid:
        row = call.layer.name.split("_")[0]
        add("fpn" if row.startswith(("lateral", "fpn", "merge", "upsample")) else "backbone", row, _madds(call))
    for call in (c for level in heads for c in level):
        add("rpn", "_".join(call.layer.name.split("_")[:2]), _madds(call))
    for call in head:
        add("rcnn", "rcnn", config.proposals_test * _madds(call, bias=False))
    rows = tuple(Row(part, name, madds / 1e6) for (part, name), madds in counts.items() if madds)
    rows = tuple(sorted(rows, key=_place))
    parameters = sum(math.prod(variable.shape) for variable in detector.trainable_variables)

    rois = config.proposals_test
    pooled = _Call(None, [], (rois * config.channels,), levels[: config.roi_levels], "pooled")
    batched = [dataclasses.replace(call, output_shape=(rois, *call.output_shape)) for call in head]
    image = _Call(None, [], (config.input_size, config.input_size, 3), [], "image")
    # The RPN's outputs stay in memory until the proposals are made, which is before pooling.
    outputs = [f"rpn{index}/{name}" for index in range(len(levels)) for name in detector.rpn_head.output_names]
    pooled = dataclasses.replace(pooled, reads=[*pooled.reads, *outputs])
    ends = [f"rcnn/{name}" for name in detector.rcnn_head.output_names]
    calls = [image, *pyramid, *itertools.chain.from_iterable(heads), pooled, *batched]
    return Cost(rows, parameters, _largest_live_set(calls, ends))


def _place(row: Row) -> tuple[int, bool, str]:
    """Sorting key: the parts in their order; in the FPN first the lateral convs, finest first; else as layers run."""
    return PARTS.index(row.part), row.name.startswith("fpn"), row.name if row.part == "fpn" else ""


def _calls(model: Any, shapes: Sequence[Shape], inputs: Sequence[str], prefix: str) -> Iterator[_Call]:
    """The layers of a functional model in the order they run, given the shapes of its inputs without the batch."""
    tensors = dict(zip(model.input_names, zip(shapes, inputs, strict=True), strict=True))
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        sources = layer.inbound_nodes[0].inbound_layers
        read = [tensors[s.name] for s in (sources if isinstance(sources, list) else [sources])]
        given = [(None, *shape) for shape, _ in read]
        output = tuple(layer.compute_output_shape(given if len(given) > 1 else given[0]))[1:]
        call = _Call(layer, [shape for shape, _ in read], output, [name for _, name in read], f"{prefix}/{layer.name}")
        tensors[layer.name] = output, call.makes
        yield call


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


def _largest_live_set(calls: Sequence[_Call], outputs: Sequence[str]) -> Memory:
    """Runs the calls in their order, keeping each tensor from its making to its last reader."""
    buffer: dict[str, str] = {}  # tensor -> the tensor in whose memory it lies
    size: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, call in enumerate(calls):
        fused = isinstance(call.layer, _FUSED)
        buffer[call.makes] = buffer[call.reads[0]] if fused else call.makes
        if not fused:
            size[call.makes] = math.prod(call.output_shape)
        for name in (*call.reads, call.makes):
            last[buffer[name]] = index
    last.update({buffer[name]: len(calls) for name in outputs})
    alive: set[str] = set()
    largest = Memory(0, "")
    for index, call in enumerate(calls):
        alive.add(buffer[call.makes])
        elements = sum(size[name] for name in alive)
        if elements > largest.elements:
            largest = Memory(elements, call.makes)
        alive = {name for name in alive if last[name] > index}
    return largest
