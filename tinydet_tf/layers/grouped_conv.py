"""Grouped 1x1 convolution that trains at full speed on a CPU.

Keras' own Conv2D(groups > 1) wraps itself in an XLA function, fifty times slower in training on a CPU. tf.nn.conv2d
takes the groups from the kernel's shape; on a CPU only oneDNN has its gradient, and only for the dtypes that oneDNN
knows on this processor. Where it is missing the same product is a batched matmul.
"""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tinydet_tf.layers.devices import works


@functools.cache
def has_grouped_gradient(dtype: str = "float32") -> bool:
    """True where tf.nn.conv2d's grouped form can be trained in `dtype` on this machine (tried once, on a tiny one).

    Each dtype has kernels of its own: a processor without float16 arithmetic has the gradient in float32 alone. Tried
    inside a graph and with a bias: without oneDNN the graph optimizer fuses the two into an op that knows no groups,
    and the kernels of the gradient fail.

    Args:
      dtype: "float32", "bfloat16" or "float16".
    """

    @tf.function(autograph=False)
    def gradients(image: tf.Tensor, kernel: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([image, kernel])
            y = tf.nn.bias_add(tf.nn.conv2d(image, kernel, 1, "VALID"), tf.ones([4], dtype))
            loss = tf.reduce_sum(tf.square(y))
        return tape.gradient(loss, [image, kernel])

    return works(lambda: gradients(tf.ones([1, 2, 2, 4], dtype), tf.ones([1, 1, 2, 4], dtype)))


def grouped_pointwise(x: tf.Tensor, kernel: tf.Tensor, *, groups: int, native: bool) -> tf.Tensor:
    """1x1 convolution in groups.

    Args:
      x: [B, H, W, C].
      kernel: [1, 1, C / groups, O]; output channels o of group g are g * O/groups ... (g+1) * O/groups - 1.
      native: use tf.nn.conv2d; False uses a batched matmul (the same result but for rounding).

    Returns:
      [B, H, W, O].
    """
    if groups == 1 or native:
        return tf.nn.conv2d(x, kernel, 1, "VALID")
    shape = tf.shape(x)
    channels, out = x.shape[-1], kernel.shape[-1]
    grouped = tf.transpose(tf.reshape(x, [-1, groups, channels // groups]), [1, 0, 2])  # [g, BHW, C/g]
    weights = tf.reshape(kernel, [channels // groups, groups, out // groups])
    weights = tf.transpose(weights, [1, 0, 2])  # [g, C/g, O/g]
    y = tf.transpose(tf.matmul(grouped, weights), [1, 0, 2])  # [BHW, g, O/g]
    return tf.reshape(y, [shape[0], shape[1], shape[2], out])


@keras.utils.register_keras_serializable("tinydet_tf")
class GroupedConv2D(keras.layers.Layer):
    """Pointwise (1x1) convolution in groups with a bias: [B, H, W, C] -> [B, H, W, filters].

    Args:
      filters: output channels, a multiple of `groups`.
      groups: divides the input channels too.

    Raises:
      ValueError: channels that the groups do not divide.
    """

    def __init__(
        self,
        filters: int,
        groups: int,
        *,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if filters % groups:
            raise ValueError(f"{filters} filters cannot be split into {groups} groups")
        self.filters, self.groups = filters, groups
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Any) -> None:
        channels = int(input_shape[-1])
        if channels % self.groups:
            raise ValueError(f"{channels} input channels cannot be split into {self.groups} groups")
        self.kernel = self.add_weight(
            name="kernel",
            shape=[1, 1, channels // self.groups, self.filters],
            initializer=self.kernel_initializer,
        )
        self.bias = self.add_weight(name="bias", shape=[self.filters], initializer="zeros")
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        native = has_grouped_gradient(x.dtype.name)
        y = grouped_pointwise(x, tf.cast(self.kernel, x.dtype), groups=self.groups, native=native)
        return tf.nn.bias_add(y, tf.cast(self.bias, x.dtype))

    def compute_output_shape(self, input_shape: Any) -> tf.TensorShape:
        return tf.TensorShape([*input_shape[:-1], self.filters])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "groups": self.groups,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
