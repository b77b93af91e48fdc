"""TinyRPN (section 3.2, tables 14, 16, 18): SCConv, ReLU, and two sibling 1x1 convs, shared by all levels."""

from __future__ import annotations

from typing import Any

import tf_keras as keras

from tinydet_tf.layers.blocks import conv2d, pyramid_conv


def tiny_rpn(channels: int, groups: int, num_ratios: int, kind: str) -> Any:
    """A functional model: [B, H, W, channels] -> (logits [B, H, W, ratios], deltas [B, H, W, 4 * ratios]).

    Deltas are anchor-major: dx, dy, dw, dh of ratio 0, then of ratio 1, ...
    """

    def normal() -> Any:  # as mmdetection initializes the RPN head
        return keras.initializers.RandomNormal(stddev=0.01)

    features = keras.Input([None, None, channels], name="features")
    x = pyramid_conv(features, channels, groups, "rpn_conv", kind=kind, gain=2.0)
    x = keras.layers.ReLU(name="rpn_relu")(x)
    # Scores and boxes are float32 even where the other layers have a lower precision.
    logits = conv2d(x, num_ratios, "rpn_score", bias=True, kernel_initializer=normal(), dtype="float32")
    deltas = conv2d(x, 4 * num_ratios, "rpn_box", bias=True, kernel_initializer=normal(), dtype="float32")
    return keras.Model(features, [logits, deltas], name="rpn_head")
