"""Channel equalization: the channels of a float .tflite brought to like ranges, without changing what it computes.

int8 has one range for a tensor. Where a few channels are many times as wide as the others, these have few steps of it
left. A channel that a convolution writes, with no activation or ReLU behind it, and that convolutions alone read may be
divided by any factor in the first and multiplied by it in the others: as Nagel et al., "Data-Free Quantization Through
Weight Equalization and Bias Correction" (arXiv 1906.04721), section 4.1, do between pairs of layers. Here the ranges
are measured, and sums, pools, slices and what else keeps channels apart may lie in between.

C channels, the last axis of a tensor; N images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow.lite.python import schema_py_generated as schema

from tinydet_tf.export.calibration import Observation
from tinydet_tf.export.constants import Constants
from tinydet_tf.export.operators import WEIGHTED, builtin_code
from tinydet_tf.export.packing import read, write

#: By name of a tensor, what each of its channels is divided by: float64 [C].
Factors = dict[str, npt.NDArray[np.float64]]

_BUILTIN, _ACTIVATION = schema.BuiltinOperator, schema.ActivationFunctionType
#: max(0, x / f) is max(0, x) / f.
_HOMOGENEOUS = (_ACTIVATION.NONE, _ACTIVATION.RELU)
#: Each number of a channel comes from numbers of that channel, and linearly.
_CHANNELWISE = (_BUILTIN.AVERAGE_POOL_2D, _BUILTIN.RESIZE_NEAREST_NEIGHBOR)
#: A channel counts as at least this share of its tensor's widest: one that is hardly ever used would get a factor that
#: is chance.
_LEAST = 1 / 64
#: The group of all channels that have to stay as they are.
_FIXED = 0


def divided(observations: Mapping[str, Observation], factors: Factors) -> dict[str, Observation]:
    """What the tensors would have held with their channels divided."""
    return {name: seen.divided(factors[name]) if name in factors else seen for name, seen in observations.items()}


def channel_factors(
    model: bytes, observations: Mapping[str, Observation], covers: Callable[[str], bool] = lambda name: True
) -> Factors:
    """What the channels of a float .tflite's tensors may be divided by, so that those of a tensor have like ranges.

    Args:
      model: of one subgraph.
      observations: of its tensors, with ends by channel.
      covers: whether the operator that writes a tensor of this name is to be quantized; the channels of all others
        stay as they are.

    Returns:
      Of each tensor that has other channels afterwards.
    """
    parsed = read(model)
    graph = parsed.subgraphs[0]
    groups = _Groups()
    channels = _channel_groups(parsed, groups, covers)
    weights: npt.NDArray[np.float64] = np.zeros(len(groups))
    logarithms = np.zeros(len(groups))
    for index, members in channels.items():
        tensor = graph.tensors[index]
        name = tensor.name.decode()
        if name not in observations:
            continue
        roots = groups.roots(members)
        wide = observations[name].channel_ranges()
        if not ((roots != _FIXED).any() and wide.max() > 0):
            continue
        share = np.log(np.maximum(wide / wide.max(), _LEAST))
        numbers = float(np.prod(tensor.shape))
        np.add.at(logarithms, roots, numbers * share)
        np.add.at(weights, roots, numbers)
    factors = np.exp(logarithms / np.maximum(weights, 1.0))
    factors[_FIXED] = 1.0
    found = {graph.tensors[i].name.decode(): factors[groups.roots(members)] for i, members in channels.items()}
    return {name: values for name, values in found.items() if (values != 1.0).any()}


def equalized(model: bytes, factors: Mapping[str, npt.NDArray[np.float64]]) -> bytes:
    """A float .tflite whose tensors' channels are divided by these factors, its outputs the same but for rounding.

    Args:
      model: what `channel_factors` was given, or the same graph with a further part behind it.
    """
    if not factors:
        return model
    parsed = read(model)
    graph = parsed.subgraphs[0]
    constants = Constants(parsed)

    def factors_of(index: int) -> npt.NDArray[np.float64]:
        return factors.get(graph.tensors[index].name.decode(), np.ones(graph.tensors[index].shape[-1]))

    for op in graph.operators:
        code = builtin_code(parsed, op)
        if code not in WEIGHTED:
            continue
        before, after = factors_of(op.inputs[0]), factors_of(op.outputs[0])
        if (before == 1.0).all() and (after == 1.0).all():
            continue
        constants.replace(op, 1, _scaled(constants.read(op, 1, np.float32), code, before, after).astype(np.float32))
        if len(op.inputs) > 2 and op.inputs[2] >= 0:
            constants.replace(op, 2, (constants.read(op, 2, np.float32) / after).astype(np.float32))
    return write(parsed)


def _scaled(kernel: np.ndarray, code: int, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """For inputs divided by `before` and outputs by `after`."""
    if code == _BUILTIN.DEPTHWISE_CONV_2D:  # [1, K, K, C]
        return np.asarray(kernel * before / after)
    outputs, inner = kernel.shape[0], kernel.shape[-1]  # [O, K, K, I / g] or [O, I]
    groups = before.size // inner
    # Of each output the inputs of its group.
    seen = np.repeat(before.reshape(groups, inner), outputs // groups, 0)
    middle = [1] * (kernel.ndim - 2)
    return np.asarray(kernel * seen.reshape([outputs, *middle, inner]) / after.reshape([outputs, *middle, 1]))


class _Groups:
    """Groups of channels that can have one factor only: a forest of their ids."""

    def __init__(self) -> None:
        self._parents = [_FIXED]

    def __len__(self) -> int:
        return len(self._parents)

    def new(self, count: int) -> np.ndarray:
        """`count` channels, each a group."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def roots(self, members: Iterable[int]) -> np.ndarray:
        return np.array([self._root(int(member)) for member in members], int)

    def join(self, members: np.ndarray, others: np.ndarray) -> None:
        """Channel by channel."""
        for member, other in zip(members, others, strict=True):
            low, high = sorted((self._root(int(member)), self._root(int(other))))
            self._parents[high] = low  # the fixed one, of id 0, stays the root of its group

    def fix(self, members: np.ndarray) -> None:
        self.join(members, np.full(len(members), _FIXED))

    def _root(self, member: int) -> int:
        while self._parents[member] != member:
            self._parents[member] = self._parents[self._parents[member]]
            member = self._parents[member]
        return member


def _channel_groups(parsed: schema.ModelT, groups: _Groups, covers: Callable[[str], bool]) -> dict[int, np.ndarray]:
    """The group of each channel of each tensor that an operator writes, by the tensor's index: int [C]."""
    graph = parsed.subgraphs[0]
    channels: dict[int, np.ndarray] = {}

    def width(index: int) -> int:
        shape = graph.tensors[index].shape
        return int(shape[-1]) if shape is not None and len(shape) else 1

    def members(index: int) -> np.ndarray:
        # What nothing has written is a constant or the image.
        return channels.get(index, np.full(width(index), _FIXED))

    for op in graph.operators:
        inputs = [int(index) for index in op.inputs if index >= 0]
        found = None
        if covers(graph.tensors[op.outputs[0]].name.decode()):
            found = _written(parsed, op, [members(index) for index in inputs], groups)
        if found is None or len(found) != width(op.outputs[0]):
            for index in inputs:
                groups.fix(members(index))
            found = np.full(width(op.outputs[0]), _FIXED)
        for index in op.outputs:
            channels[int(index)] = found if index == op.outputs[0] else np.full(width(index), _FIXED)
    for index in graph.outputs:
        groups.fix(members(int(index)))
    return channels


def _written(parsed: schema.ModelT, op: Any, inputs: list[np.ndarray], groups: _Groups) -> np.ndarray | None:
    """The groups of the channels that an operator writes; None where it reads them as numbers that may not change.

    Args:
      inputs: the groups of its inputs' channels; those of constants are fixed.
    """
    graph = parsed.subgraphs[0]
    code, options = builtin_code(parsed, op), op.builtinOptions
    first, shape = inputs[0], graph.tensors[op.outputs[0]].shape

    def constant(place: int) -> np.ndarray | None:
        data = parsed.buffers[graph.tensors[op.inputs[place]].buffer].data
        return None if data is None else np.frombuffer(bytes(data), np.int32)

    if code in WEIGHTED:
        kernel = graph.tensors[op.inputs[1]]
        if kernel.type != schema.TensorType.FLOAT32 or parsed.buffers[kernel.buffer].data is None:
            return None
        if code == _BUILTIN.DEPTHWISE_CONV_2D and options.depthMultiplier != 1:
            return None
        # A fully connected layer may read several axes as one, a conv its channels in groups.
        inner = int(kernel.shape[-1])
        if len(first) % inner or (code == _BUILTIN.FULLY_CONNECTED and len(first) != inner):
            return None
        written = groups.new(int(shape[-1]))
        if options.fusedActivationFunction not in _HOMOGENEOUS:
            groups.fix(written)
        return written
    if getattr(options, "fusedActivationFunction", _ACTIVATION.NONE) not in _HOMOGENEOUS:
        return None
    if code == _BUILTIN.ADD and len(first) == len(inputs[1]):
        groups.join(first, inputs[1])
        return first
    if code == _BUILTIN.MUL and len(first) == len(inputs[1]):
        # Of what is multiplied by fixed numbers the product has the factor.
        for a, b in ((first, inputs[1]), (inputs[1], first)):
            if (groups.roots(b) == _FIXED).all():
                return a
        return None
    if code in _CHANNELWISE:
        return first
    if code == _BUILTIN.MEAN:
        axes = constant(1)
        last = len(graph.tensors[op.inputs[0]].shape) - 1
        return first if axes is not None and not {last, -1} & set(axes.tolist()) else None
    if code == _BUILTIN.RESHAPE:
        return first
    if code == _BUILTIN.CONCATENATION:
        rank = len(shape)
        if options.axis % rank == rank - 1:
            return np.concatenate(inputs)
        for other in inputs[1:]:
            groups.join(first, other)
        return first
    if code == _BUILTIN.PAD:
        paddings = constant(1)
        if paddings is None:
            return None
        before, after = paddings.reshape(-1, 2)[-1]
        return np.concatenate([groups.new(int(before)), first, groups.new(int(after))])
    if code == _BUILTIN.STRIDED_SLICE:
        return _sliced(first, constant(1), constant(2), constant(3), options, len(shape))
    return None


def _sliced(members: np.ndarray, begin: Any, end: Any, strides: Any, options: Any, rank: int) -> np.ndarray | None:
    """What a STRIDED_SLICE takes of the last axis."""
    if begin is None or end is None or strides is None or len(begin) != rank or options.shrinkAxisMask:
        return None
    bit = 1 << (rank - 1)
    start = None if options.beginMask & bit else int(begin[-1])
    stop = None if options.endMask & bit else int(end[-1])
    return members[start : stop : int(strides[-1])]
