"""Depthwise convolution whose kernel's gradient is fast on a CPU.

oneDNN has a fast gradient for kernels of up to three columns; with five it takes seven times as long, a tenth of a
whole training step. The columns of a wider kernel are independent sums, so its gradient is put together from narrow
ones.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from tinydet_tf.layers.devices import on_cpu

#: The most columns of a kernel whose gradient is fast.
FAST_COLUMNS = 3


def kernel_gradient(x: tf.Tensor, upstream: tf.Tensor, kernel: tf.TensorShape, stride: int, padding: str) -> tf.Tensor:
    """The gradient of a depthwise convolution's kernel, narrow pieces of a 5-column one put together.

    Args:
      x: [B, H, W, C], the convolution's input.
      upstream: [B, H', W', C], the gradient of its output.
      kernel: [rows, columns, C, 1].
      stride: of rows and columns.
      padding: "SAME" or "VALID".

    Returns:
      [rows, columns, C, 1].
    """
    rows, columns, channels, _ = kernel
    if columns == 5 and stride == 1 and padding == "SAME" and x.shape[2] is not None and x.shape[2] % 2 == 0:
        # Two neighbouring pixels, seen as one of twice the channels, are one column apart where their pixels are two:
        # three columns of that are the columns -2, 0 and 2 of the kernel.
        near = _piece(x, upstream, rows, channels, stride, padding)
        far = _piece(_pairs(x), _pairs(upstream), rows, 2 * channels, stride, padding)
        far = far[:, :, :channels] + far[:, :, channels:]
        return tf.concat([far[:, :1], near, far[:, 2:]], 1)
    if columns == 5 and stride == 2 and padding == "VALID":
        # A kernel of three columns fits once more, at the right end or, its columns counted from 2, at the left.
        left = _piece(x, tf.pad(upstream, [[0, 0], [0, 0], [0, 1], [0, 0]]), rows, channels, stride, padding)
        right = _piece(x, tf.pad(upstream, [[0, 0], [0, 0], [1, 0], [0, 0]]), rows, channels, stride, padding)
        return tf.concat([left, right[:, 1:]], 1)
    return _backprop(x, [rows, columns, channels, 1], upstream, stride, padding)


def _piece(x: tf.Tensor, upstream: tf.Tensor, rows: int, channels: int, stride: int, padding: str) -> tf.Tensor:
    return _backprop(x, [rows, FAST_COLUMNS, channels, 1], upstream, stride, padding)


def _backprop(x: tf.Tensor, shape: list[int], upstream: tf.Tensor, stride: int, padding: str) -> tf.Tensor:
    return tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
        input=x, filter_sizes=shape, out_backprop=upstream, strides=[1, stride, stride, 1], padding=padding
    )


def _pairs(x: tf.Tensor) -> tf.Tensor:
    """[B, H, W, C] -> [B, H, W / 2, 2C]; no number moves."""
    height, width, channels = x.shape[1:]
    return tf.reshape(x, [-1, height, width // 2, 2 * channels])


def depthwise_conv2d(x: tf.Tensor, kernel: tf.Tensor, *, stride: int, padding: str) -> tf.Tensor:
    """tf.nn.depthwise_conv2d, on a CPU with `kernel_gradient`.

    Args:
      x: [B, H, W, C].
      kernel: [rows, columns, C, 1].
      stride, padding: as in `kernel_gradient`.

    Returns:
      [B, H', W', C].
    """
    strides = [1, stride, stride, 1]
    if not on_cpu():
        return tf.nn.depthwise_conv2d(x, kernel, strides, padding)

    @tf.custom_gradient
    def convolve(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            of_x = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=tf.shape(x), filter=kernel, out_backprop=upstream, strides=strides, padding=padding
            )
            return of_x, kernel_gradient(x, upstream, kernel.shape, stride, padding)

        return tf.nn.depthwise_conv2d(x, kernel, strides, padding), gradient

    return convolve(x, kernel)


@keras.utils.register_keras_serializable("tinydet_tf")
class DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Keras' layer, in training with the gradient above; square strides, no dilation, no activation inside."""

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if training is not True:
            return super().call(inputs)
        kernel = tf.cast(self.depthwise_kernel, inputs.dtype)  # the variable itself is float32 in mixed precision
        y = depthwise_conv2d(inputs, kernel, stride=self.strides[0], padding=self.padding.upper())
        return tf.nn.bias_add(y, self.bias) if self.use_bias else y
