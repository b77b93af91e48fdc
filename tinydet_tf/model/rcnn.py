"""The R-CNN head (figure 8): 245 pooled numbers -> FC 1024, ReLU -> class logits and class-agnostic deltas."""

from __future__ import annotations

from typing import Any

import tf_keras as keras

from tinydet_tf.layers.blocks import keep_variance


def rcnn_head(channels: int, hidden: int, num_classes: int) -> Any:
    """A functional model: [R, channels] -> (class_logits [R, num_classes + 1], deltas [R, 4]).

    Class index 0 is the background.
    """
    pooled = keras.Input([channels], name="pooled")
    x = keras.layers.Dense(hidden, kernel_initializer=keep_variance(2.0), name="rcnn_fc")(pooled)
    x = keras.layers.ReLU(name="rcnn_relu")(x)

    def output(units: int, stddev: float, name: str) -> Any:
        # Scores and boxes are float32 even where the other layers have a lower precision.
        normal = keras.initializers.RandomNormal(stddev=stddev)
        return keras.layers.Dense(units, kernel_initializer=normal, dtype="float32", name=name)(x)

    logits, deltas = output(num_classes + 1, 0.01, "rcnn_score"), output(4, 0.001, "rcnn_box")
    return keras.Model(pooled, [logits, deltas], name="rcnn_head")
