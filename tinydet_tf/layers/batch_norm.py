"""Batch normalization at full speed on a CPU: in training whatever the number of channels, in evaluation on AVX2 too.

oneDNN's kernel takes four times as long where the channels are no multiple of its vector's 16 numbers, which is half of
the paper's tables. There the statistics are put together from other ops of oneDNN, each of which reads the input once
at the memory's speed, and a depthwise 1x1 convolution scales and shifts.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from tinydet_tf.layers.devices import on_cpu

#: Numbers of a vector of the widest processors: the kernel of batch normalization is fast for multiples of it.
VECTOR = 16


def moments(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and (biased) variance of each channel over images, rows and columns: [B, H, W, C] -> [C], [C].

    From the sums of x and of x * x. Each column of the image is summed on its own and then the columns, so that no sum
    in float32 is longer than B * H: the variance is right to a millionth of the mean's square, a tenth of what
    normalization adds to it.
    """
    height, width, channels = x.shape[1:]
    columns = tf.reshape(x, [-1, height, 1, width * channels])
    squares = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
        input=columns,
        filter_sizes=[1, 1, width * channels, 1],
        out_backprop=columns,
        strides=[1, 1, 1, 1],
        padding="VALID",
    )
    count = tf.cast(tf.shape(x)[0] * height * width, x.dtype)
    mean = tf.reduce_sum(tf.reshape(tf.raw_ops.BiasAddGrad(out_backprop=columns), [width, channels]), 0) / count
    square = tf.reduce_sum(tf.reshape(squares, [width, channels]), 0) / count
    return mean, tf.maximum(square - tf.square(mean), 0.0)


def normalize_by_batch(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, epsilon: float) -> tuple[tf.Tensor, ...]:
    """Normalization by the batch's own statistics with the gradient of the fused op.

    Args:
      x: float32 [B, H, W, C].
      scale, offset: float32 [C].

    Returns:
      [B, H, W, C], and the mean and the variance [C] it was normalized by, which have no gradient.
    """

    @tf.custom_gradient
    def forward(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> tuple[Any, Any]:
        mean, variance = moments(x)
        factor = scale * tf.math.rsqrt(variance + epsilon)
        y = tf.nn.depthwise_conv2d(x, factor[None, None, :, None], [1, 1, 1, 1], "VALID")
        y = tf.nn.bias_add(y, offset - mean * factor)

        def gradient(upstream: tf.Tensor, *_: Any) -> tuple[tf.Tensor, ...]:
            of_x, of_scale, of_offset, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=upstream,
                x=x,
                scale=scale,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=tf.zeros([0]),
                epsilon=epsilon,
                is_training=True,
            )
            return of_x, of_scale, of_offset

        return (y, mean, variance), gradient

    return forward(x, scale, offset)


@keras.utils.register_keras_serializable("tinydet_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer, which see; only how it computes in float32 on a CPU differs."""

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: Any = None) -> tf.Tensor:
        if not on_cpu() or inputs.dtype != tf.float32 or not self.fused:
            return super().call(inputs, training=training, mask=mask)
        if training is False or (training is True and not self.trainable):
            # TensorFlow makes one operator of a convolution and the fused op. Where the processor has no AVX-512,
            # oneDNN normalizes what its convolution gives so slowly that the backbone takes 20 times as long
            # (docs/performance.md). A factor and a sum are left as they are.
            factor = self.gamma * tf.math.rsqrt(self.moving_variance + self.epsilon)
            return inputs * factor + (self.beta - self.moving_mean * factor)
        trains = training is True and self.trainable
        slow = inputs.shape.rank == 4 and inputs.shape[-1] % VECTOR != 0 and None not in inputs.shape[1:]
        if not (trains and slow):
            return super().call(inputs, training=training, mask=mask)
        y, mean, variance = normalize_by_batch(inputs, self.gamma, self.beta, self.epsilon)
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
        # As the fused op does it, the moving variance is the unbiased one.
        unbiased = variance * (count / tf.maximum(count - 1.0, 1.0))
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, unbiased)):
            moving.assign_sub((moving - value) * (1.0 - self.momentum))
        return y
