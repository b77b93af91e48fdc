"""h-swish and hard sigmoid as MobileNetV3 defines them, written with relu6.

keras.activations would hide the relu6, which the export and quantization-aware training need to see.
"""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tinydet_tf.layers.devices import on_cpu, works

#: Numbers an image from which on compiling pays: a tenth of a second once, for a shape.
WORTH_COMPILING = 2**15


def hard_swish(x: tf.Tensor) -> tf.Tensor:
    """x * relu6(x + 3) / 6, any shape."""
    return x * (tf.nn.relu6(x + 3.0) * (1.0 / 6.0))


@tf.function(autograph=False, jit_compile=True)
def _in_one_pass(x: tf.Tensor) -> tf.Tensor:
    return hard_swish(x)


@tf.function(autograph=False, jit_compile=True)
def _gradient_in_one_pass(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    inside = tf.cast((x > -3.0) & (x < 3.0), x.dtype)  # where relu6 has a slope
    return upstream * (tf.nn.relu6(x + 3.0) + x * inside) * (1.0 / 6.0)


@tf.custom_gradient
def compiled_hard_swish(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """h-swish that reads and writes memory once, and its gradient likewise; op by op each reads and writes four times.

    Compiled by XLA: see `has_xla`.
    """
    return _in_one_pass(x), functools.partial(_gradient_in_one_pass, x)


@functools.cache
def has_xla() -> bool:
    """Whether TensorFlow compiles for this CPU (tried once)."""
    return works(lambda: _in_one_pass(tf.ones([1])))


@keras.utils.register_keras_serializable("tinydet_tf")
class HardSwish(keras.layers.Layer):
    """x * relu6(x + 3) / 6, any shape. Compiled in training on a CPU, where that pays."""

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        size = x.shape[1:].num_elements()
        if training is True and size is not None and size >= WORTH_COMPILING and on_cpu() and has_xla():
            return compiled_hard_swish(x)
        return hard_swish(x)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


@keras.utils.register_keras_serializable("tinydet_tf")
class HardSigmoid(keras.layers.Layer):
    """relu6(x + 3) / 6, any shape."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu6(x + 3.0) * (1.0 / 6.0)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape
