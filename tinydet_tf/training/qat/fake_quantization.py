"""Fake quantization of a functional model, layer by layer, as the exported int8 graph will compute it.

Weights: symmetric, 8 bits (-127..127), one scale an output channel, of the kernel after batch normalization's scale was
folded into it. Activations: asymmetric, 8 bits, one range a tensor, which TFMOT's MovingAverageQuantizer keeps.
Gradients go straight through the rounding.

The layers' own variables are used, none is copied: what is trained here is the plain model's weights. TFMOT's
quantize_apply would clone every layer under another name, round depthwise kernels with one scale for all channels, and
knows neither grouped convolutions nor h-swish.

O output channels.
"""

from __future__ import annotations

import collections
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tinydet_lite.errors import UserError
from tinydet_tf.layers.activations import HardSwish
from tinydet_tf.layers.depthwise import depthwise_conv2d
from tinydet_tf.layers.grouped_conv import GroupedConv2D, grouped_pointwise, has_grouped_gradient

BITS = 8

#: Layers whose outputs contain only values of their input, and zero, which every range contains, or (of the pixels) are
#: computed in the weights behind them. They need no range.
_PASSING = (keras.layers.ZeroPadding2D, keras.layers.UpSampling2D, keras.layers.Rescaling)
_WEIGHTED = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, GroupedConv2D, keras.layers.Dense)


class Ranges(keras.layers.Layer):
    """The range of every quantized activation, by the tensor's name, as variables that are not trained.

    Attributes:
      observing: while True values pass as they are and the ranges grow to contain them.

    Raises:
      UserError: TFMOT is not installed.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(name="ranges")
        self._quantizer = load_tfmot().quantization.keras.quantizers.MovingAverageQuantizer(
            num_bits=BITS, per_axis=False, symmetric=False, narrow_range=False
        )
        self._ranges = {name: self._quantizer.build(None, name.replace("/", "_"), self) for name in names}
        self.observing = False
        self.built = True

    def clear(self) -> None:
        """Every range contains nothing but 0, which it always has to."""
        for variable in self.variables:
            variable.assign(tf.zeros_like(variable))

    def quantize(self, name: str, x: tf.Tensor, *, training: bool) -> tf.Tensor:
        """`x` rounded to its range's 256 steps; in training the range follows (0.001 of the way to the batch's)."""
        variables = self._ranges[name]
        if self.observing:
            low, high = variables["min_var"], variables["max_var"]
            with tf.control_dependencies(
                [low.assign(tf.minimum(low, tf.reduce_min(x))), high.assign(tf.maximum(high, tf.reduce_max(x)))]
            ):
                return tf.identity(x)
        return self._quantizer(x, training, weights=variables)

    def to_dict(self) -> dict[str, tuple[float, float]]:
        """name -> (min, max)."""
        return {name: (float(v["min_var"]), float(v["max_var"])) for name, v in self._ranges.items()}


def load_tfmot() -> Any:
    """TensorFlow's model optimization toolkit.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module("tensorflow_model_optimization")  # training without --qat does not need it
    except ImportError as error:
        raise UserError(
            "--qat needs TFMOT (tensorflow-model-optimization), which is not installed; "
            "pip install 'tinydet-tf[quantize]'"
        ) from error


@dataclass(frozen=True)
class _Step:
    """A layer's place in the graph: ids of the tensors it takes and gives."""

    layer: Any
    given: tuple[int, ...]
    result: int
    norm: Any  # the batch normalization behind it, folded into it, or None
    quantized: bool  # whether the result is a tensor of its own in the int8 graph


class FakeQuantized:
    """A functional model of one input with the rounding of its int8 form.

    Args:
      model: of plain layers; batch normalization only behind a convolution, with the statistics that it has.

    Raises:
      ValueError: normalization elsewhere, or an activation inside another layer.
    """

    def __init__(self, model: Any) -> None:
        self._input = id(model.inputs[0])
        self._outputs = [id(tensor) for tensor in model.outputs]
        self._steps = list(_steps(model))

    def names(self) -> list[str]:
        """Of the tensors that it quantizes."""
        return [name for step in self._steps for name in _names(step)]

    def __call__(
        self, x: tf.Tensor, ranges: Ranges | None, *, prefix: str = "", training: bool = False
    ) -> list[tf.Tensor]:
        """
        Args:
          x: the input, quantized already.
          ranges: of the tensors that `names` tells, `prefix` in front of each; None: no rounding at all.
          training: the ranges follow.

        Returns:
          The model's outputs, in order.
        """

        def quantize(name: str, value: tf.Tensor) -> tf.Tensor:
            return value if ranges is None else ranges.quantize(prefix + name, value, training=training)

        values = {self._input: x}
        for step in self._steps:
            layer, given = step.layer, [values[i] for i in step.given]
            if isinstance(layer, _WEIGHTED):
                y = _weighted(layer, step.norm, given[0], rounded=ranges is not None and not ranges.observing)
            elif isinstance(layer, HardSwish):
                relu6 = quantize(f"{layer.name}_relu6", tf.nn.relu6(given[0] + 3.0))
                y = given[0] * (relu6 * (1.0 / 6.0))
            else:
                y = layer(given if len(given) > 1 else given[0])
            values[step.result] = quantize(layer.name, y) if step.quantized else y
        return [values[i] for i in self._outputs]


def _steps(model: Any) -> Iterator[_Step]:
    users: dict[int, list[Any]] = collections.defaultdict(list)
    for layer in model.layers:
        for tensor in [] if layer.inbound_nodes[0].is_input else layer.inbound_nodes[0].keras_inputs:
            users[id(tensor)].append(layer)
    outputs = {id(tensor) for tensor in model.outputs}

    def behind(tensor: Any, kind: type) -> Any:
        """The layer of that kind that alone takes the tensor, or None."""
        layers = users[id(tensor)]
        return layers[0] if len(layers) == 1 and id(tensor) not in outputs and isinstance(layers[0], kind) else None

    folded = set()
    for layer in model.layers:
        node = layer.inbound_nodes[0]
        if node.is_input or layer in folded:
            continue
        norm, result = None, layer.output
        if isinstance(layer, _WEIGHTED):
            if getattr(layer, "activation", keras.activations.linear) is not keras.activations.linear:
                raise ValueError(f"{layer.name} has an activation inside; make it a layer of its own")
            norm = behind(result, keras.layers.BatchNormalization)
            if norm is not None:
                folded.add(norm)
                result = norm.output
            alone = behind(result, keras.layers.ReLU) is None  # the runtime computes a convolution and its ReLU at once
        elif isinstance(layer, keras.layers.BatchNormalization):
            raise ValueError(f"{layer.name} has no convolution in front of it to fold it into")
        else:
            alone = not isinstance(layer, _PASSING)
        yield _Step(layer, tuple(id(tensor) for tensor in node.keras_inputs), id(result), norm, alone)


def _names(step: _Step) -> list[str]:
    if not step.quantized:
        return []
    return [f"{step.layer.name}_relu6"] * isinstance(step.layer, HardSwish) + [step.layer.name]


def _weighted(layer: Any, norm: Any, x: tf.Tensor, *, rounded: bool) -> tf.Tensor:
    """A convolution or matrix product with the batch normalization behind it folded in."""
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    kernel = layer.depthwise_kernel if depthwise else layer.kernel
    bias = layer.bias  # None where the layer has no bias
    # A depthwise kernel is [k, k, O, 1], every other one [..., O].
    per_channel = [-1, 1] if depthwise else [-1]
    if norm is not None:
        scale = norm.gamma * tf.math.rsqrt(norm.moving_variance + norm.epsilon)  # [O]
        shift = norm.beta - norm.moving_mean * scale
        kernel = kernel * tf.reshape(scale, per_channel)
        bias = shift if bias is None else bias * scale + shift
    if rounded:
        kernel = round_weights(kernel, axis=2 if depthwise else len(kernel.shape) - 1)
    if depthwise:
        y = depthwise_conv2d(x, kernel, stride=layer.strides[0], padding=layer.padding.upper())
    elif isinstance(layer, GroupedConv2D):
        y = grouped_pointwise(x, kernel, groups=layer.groups, native=has_grouped_gradient(x.dtype.name))
    elif isinstance(layer, keras.layers.Dense):
        y = tf.matmul(x, kernel)
    else:
        y = tf.nn.conv2d(x, kernel, layer.strides, layer.padding.upper())
    return y if bias is None else tf.nn.bias_add(y, bias)


def round_weights(kernel: tf.Tensor, *, axis: int) -> tf.Tensor:
    """The nearest values of -127 .. 127 steps, each channel of `axis` with its own step; the gradient is the identity.

    Computed anew each time, not by TFMOT's LastValueQuantizer: the ranges that it stores are of the step before.
    """
    others = [i for i in range(len(kernel.shape)) if i != axis]
    step = tf.reduce_max(tf.abs(kernel), others, keepdims=True) / (2 ** (BITS - 1) - 1)
    rounded = tf.math.divide_no_nan(kernel, step)
    return kernel + tf.stop_gradient(tf.round(rounded) * step - kernel)
