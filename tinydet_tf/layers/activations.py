"""h-swish and hard sigmoid as MobileNetV3 defines them, written with relu6.

keras.activations would hide the relu6, which the export and quantization-aware training need to see.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras


@keras.utils.register_keras_serializable("tinydet_tf")
class HardSwish(keras.layers.Layer):
    """x * relu6(x + 3) / 6, any shape."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x * (tf.nn.relu6(x + 3.0) * (1.0 / 6.0))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


@keras.utils.register_keras_serializable("tinydet_tf")
class HardSigmoid(keras.layers.Layer):
    """relu6(x + 3) / 6, any shape."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu6(x + 3.0) * (1.0 / 6.0)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape
