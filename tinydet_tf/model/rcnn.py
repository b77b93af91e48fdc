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
    logits = keras.layers.Dense(
        num_classes + 1, kernel_initializer=keras.initializers.RandomNormal(stddev=0.01), name="rcnn_score"
    )(x)
    deltas = keras.layers.Dense(4, kernel_initializer=keras.initializers.RandomNormal(stddev=0.001), name="rcnn_box")(x)
    return keras.Model(pooled, [logits, deltas], name="rcnn_head")
