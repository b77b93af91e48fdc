"""The average pool that keeps strided convolutions aligned (paper, section 3.1.2 and figure 2)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from tinydet_tf.layers.devices import on_cpu


def pool_gradient(upstream: tf.Tensor) -> tf.Tensor:
    """The gradient of a 2x2 average pool of stride 1, as a convolution: [B, H-1, W-1, C] -> [B, H, W, C].

    Each input has a quarter of the outputs it is part of. TensorFlow's AvgPoolGrad takes nearly
    twice as long on a CPU.
    """
    quarter = tf.fill([2, 2, upstream.shape[-1], 1], tf.constant(0.25, upstream.dtype))
    around = [[0, 0], [1, 1], [1, 1], [0, 0]]
    return tf.nn.depthwise_conv2d(upstream, quarter, [1, 1, 1, 1], around)


@keras.utils.register_keras_serializable("tinydet_tf")
class AlignPool(keras.layers.AveragePooling2D):
    """[B, H, W, C] -> [B, H-1, W-1, C]: 2x2 average, stride 1, no padding.

    An even side becomes odd, so that the strided convolution behind it is symmetric. A strided convolution without this
    pool moves the features by half a pixel of its input; the moves add up to 31.5 pixels at stride 64.
    """

    def __init__(self, **kwargs: Any) -> None:
        for fixed in ("pool_size", "strides", "padding", "data_format"):
            kwargs.pop(fixed, None)  # get_config() of the base class names them
        super().__init__(pool_size=2, strides=1, padding="valid", **kwargs)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if training is not True or not on_cpu():
            return super().call(inputs)

        @tf.custom_gradient
        def pool(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
            return tf.nn.avg_pool2d(x, 2, 1, "VALID"), pool_gradient

        return pool(inputs)
