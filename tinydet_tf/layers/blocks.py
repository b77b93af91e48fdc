"""The parts of backbone, TinyFPN and TinyRPN: conv + BN, squeeze-and-excite, inverted residual, SCConv.

Functions that add plain Keras layers to a functional graph (instead of nested layers), because quantization-aware
training annotates plain layers only. Every layer is named after its place: weights are stored under these names.

Shape letters: B images, H W cells, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tf_keras as keras

from tinydet_tf.layers.activations import HardSigmoid, HardSwish
from tinydet_tf.layers.align_pool import AlignPool
from tinydet_tf.layers.batch_norm import BatchNormalization
from tinydet_tf.layers.depthwise import DepthwiseConv2D
from tinydet_tf.layers.grouped_conv import GroupedConv2D
from tinydet_tf.model.backbones import BlockSpec, Dialect

PUBLISHED = Dialect()


@dataclass(frozen=True)
class BatchNorm:
    """How batch normalization is built.

    `synchronized` averages over the replicas of a distribution strategy, as the paper trains (section 4.1). It is off
    on a single device: the fused kernel is faster there, and only its moving variance differs, by N/(N-1).
    """

    synchronized: bool = False
    momentum: float | None = None  # None: that of the backbone's dialect
    epsilon: float = PUBLISHED.batch_norm_epsilon

    def __call__(self, x: Any, name: str) -> Any:
        # The flag is passed only where it is needed: with it Keras leaves the fused kernel even on one device.
        extra = {"synchronized": True} if self.synchronized else {}
        momentum = PUBLISHED.batch_norm_momentum if self.momentum is None else self.momentum
        return BatchNormalization(epsilon=self.epsilon, momentum=momentum, name=name, **extra)(x)


def kaiming() -> Any:
    """Kaiming normal over the fan-out, as MobileNets are initialized. Each layer needs a new one: layers that share an
    initializer would start with equal weights."""
    return keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal")


def keep_variance(gain: float = 1.0) -> Any:
    """Initializer for convs that no normalization follows (FPN, RPN, R-CNN): output and input have equal variance.

    Args:
      gain: variance of the output over that of the input.

    The usual Xavier initialization counts all 245 output channels of a depthwise or grouped kernel: each SCConv would
    then shrink its input fifty times, and two in a row leave the RPN nothing to learn from.
    """
    return keras.initializers.VarianceScaling(gain, mode="fan_in", distribution="untruncated_normal")


def activate(x: Any, hard_swish: bool, name: str, dialect: Dialect = PUBLISHED) -> Any:
    return (HardSwish(name=name) if hard_swish else keras.layers.ReLU(dialect.relu_max, name=name))(x)


def conv2d(
    x: Any,
    filters: int,
    name: str,
    *,
    kernel: int = 1,
    stride: int = 1,
    bias: bool,
    dialect: Dialect = PUBLISHED,
    **kwargs: Any,
) -> Any:
    """Convolution with the padding that `_pad` says; the output's side is the input's over the stride, rounded up."""
    x, padding = _pad(x, kernel, stride, name, dialect)
    return keras.layers.Conv2D(filters, kernel, stride, padding=padding, use_bias=bias, name=name, **kwargs)(x)


def depthwise(
    x: Any, name: str, *, kernel: int, stride: int = 1, bias: bool, dialect: Dialect = PUBLISHED, **kwargs: Any
) -> Any:
    x, padding = _pad(x, kernel, stride, name, dialect)
    return DepthwiseConv2D(kernel, stride, padding=padding, use_bias=bias, name=name, **kwargs)(x)


def _pad(x: Any, kernel: int, stride: int, name: str, dialect: Dialect) -> tuple[Any, str]:
    """Zero-pads for a strided convolution: x and the Keras padding to convolve it with.

    kernel // 2 on every side; where `Dialect.pads_before` is off, one less on top and left of an even side.
    """
    if stride == 1:
        return x, "same"
    after = kernel // 2
    before = [after if dialect.pads_before or side % 2 else after - 1 for side in x.shape[1:3]]
    amounts = tuple((first, after) for first in before)
    return keras.layers.ZeroPadding2D(amounts, name=f"{name}_pad")(x), "valid"


def squeeze_excite(x: Any, name: str, dialect: Dialect = PUBLISHED) -> Any:
    """Channel gates from the global mean: 1x1 to C // 4, ReLU, 1x1 to C, hard sigmoid.

    The published network has no bias here (docs/reference.md, "Backbone"); a dialect may.
    """
    channels, bias, multiple = x.shape[-1], dialect.squeeze_bias, dialect.squeeze_multiple
    narrow = max(multiple, (channels // 4 + multiple // 2) // multiple * multiple)
    if narrow < 0.9 * (channels // 4):  # as MobileNets do: rounding takes away a tenth at most
        narrow += multiple
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_mean")(x)
    gate = conv2d(gate, narrow, f"{name}_reduce", bias=bias, kernel_initializer=kaiming())
    gate = keras.layers.ReLU(name=f"{name}_relu")(gate)
    gate = conv2d(gate, channels, f"{name}_expand", bias=bias, kernel_initializer=kaiming())
    gate = HardSigmoid(name=f"{name}_gate")(gate)
    return keras.layers.Multiply(name=f"{name}_scale")([x, gate])


def inverted_residual(
    x: Any,
    spec: BlockSpec,
    name: str,
    batch_norm: BatchNorm,
    *,
    expand: bool,
    align: bool,
    dialect: Dialect = PUBLISHED,
) -> Any:
    """One row of tables 10-12: [expand 1x1], [align], depthwise, [squeeze-excite], project 1x1.

    A fused row has one dense conv in place of the expansion and the depthwise conv (docs/edge.md).

    Args:
      expand: False in the first block, which has no expansion conv.
      align: put the 2x2 average pool before the strided conv.
      dialect: how the backbone's family builds its layers.
    """
    y = x
    if expand and not spec.fused:
        y = conv2d(y, spec.expand, f"{name}_expand", bias=False, kernel_initializer=kaiming())
        y = activate(batch_norm(y, f"{name}_expand_bn"), spec.hard_swish, f"{name}_expand_act", dialect)
    if align and spec.stride == 2:
        y = AlignPool(name=f"{name}_align")(y)
    conv = f"{name}_{'fused' if spec.fused else 'depthwise'}"
    options: dict[str, Any] = {"kernel": spec.kernel, "stride": spec.stride, "bias": False, "dialect": dialect}
    if spec.fused:
        y = conv2d(y, spec.expand, conv, kernel_initializer=kaiming(), **options)
    else:
        y = depthwise(y, conv, depthwise_initializer=kaiming(), **options)
    y = activate(batch_norm(y, f"{conv}_bn"), spec.hard_swish, f"{conv}_act", dialect)
    if spec.squeeze_excite:
        y = squeeze_excite(y, f"{name}_se", dialect)
    y = conv2d(y, spec.out, f"{name}_project", bias=False, kernel_initializer=kaiming())
    y = batch_norm(y, f"{name}_project_bn")
    if spec.stride == 1 and x.shape[-1] == spec.out:
        y = keras.layers.Add(name=f"{name}_add")([x, y])
    return y


def pyramid_conv(x: Any, channels: int, groups: int, name: str, *, kind: str, gain: float = 1.0) -> Any:
    """The convolution that FPN and RPN apply to a level.

    Args:
      kind: 'scconv', sparsely connected (section 3.2.2): depthwise 3x3 and grouped pointwise, both with bias; or
        'conventional': one 3x3 conv with bias, whatever `groups` is (table 5's first row).
      gain: variance of the output over that of the input at the start; 2 in front of a ReLU.
    """
    if kind == "conventional":
        return conv2d(x, channels, f"{name}_conv", kernel=3, bias=True, kernel_initializer=keep_variance(gain))
    # Keras counts a depthwise kernel's taps as its fan-out.
    taps = keras.initializers.VarianceScaling(1.0, mode="fan_out", distribution="untruncated_normal")
    y = depthwise(x, f"{name}_depthwise", kernel=3, bias=True, depthwise_initializer=taps)
    return GroupedConv2D(channels, groups, kernel_initializer=keep_variance(gain), name=f"{name}_pointwise")(y)
