"""The backbones: aligned MobileNetV3-D (S) and -BC (M, L), tables 10-12, the others of table 4, and three of others.

"mobilenetv2" and "mobilenetv3large" are keras.applications' MobileNetV2 and MobileNetV3Large at alpha 1,
"efficientnet_lite0" is EfficientNet-Lite0. Each goes up to its network's last block, so that ImageNet weights fit
(checkpoints/backbones.py), and has one more block for stride 64, which starts from random weights. Without alignment
they compute the same as those networks. An average pool in front of a strided conv needs no other weights, but blurs
what the conv sees and moves it by half a pixel: with the pool, imported weights are a start, and the network computes
something else than the original.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from tinydet_tf.layers.align_pool import AlignPool
from tinydet_tf.layers.blocks import BatchNorm, activate, conv2d, inverted_residual, kaiming
from tinydet_tf.model.backbones import BACKBONES

#: Mean and standard deviation of ImageNet's pixels, RGB 0-255 (docs/reference.md, "Backbone").
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


def normalize(images: Any) -> Any:
    """RGB uint8 or float32 0-255 [B, S, S, 3] -> what `backbone` takes, float32 of about mean 0 and variance 1."""
    height, width, channels = images.shape[1:]
    # A row of pixels at a time: three numbers at a time take TensorFlow's CPU twice as long.
    rows = tf.cast(tf.reshape(images, [-1, height, width * channels]), tf.float32)
    mean, scale = np.asarray(PIXEL_MEAN, np.float32), 1.0 / np.asarray(PIXEL_STD, np.float32)
    return tf.reshape((rows - np.tile(mean, width)) * np.tile(scale, width), [-1, height, width, channels])


def backbone(
    images: Any, name: str, batch_norm: BatchNorm, *, align: bool, align_stem: bool, squeeze_excite: bool
) -> list[Any]:
    """Adds the backbone to a functional graph.

    Args:
      images: [B, S, S, 3], normalized.
      name: a key of BACKBONES.
      align: put an average pool before each strided depthwise conv.
      align_stem: put one before the stem.
      squeeze_excite: False leaves squeeze-and-excite out of every block.

    Returns:
      The outputs of the blocks that feed the pyramid, finest first.
    """
    spec = BACKBONES[name]
    dialect = spec.dialect
    momentum = dialect.batch_norm_momentum if batch_norm.momentum is None else batch_norm.momentum
    batch_norm = dataclasses.replace(batch_norm, epsilon=dialect.batch_norm_epsilon, momentum=momentum)
    x = images if dialect.pixel_mean_and_std is None else _renormalize(images, *dialect.pixel_mean_and_std)
    x = AlignPool(name="stem_align")(x) if align_stem else x
    x = conv2d(x, spec.stem, "stem", kernel=3, stride=2, bias=False, dialect=dialect, kernel_initializer=kaiming())
    x = activate(batch_norm(x, "stem_bn"), dialect.stem_hard_swish, "stem_act", dialect)
    taps = []
    for index, block in enumerate(spec.blocks, 1):
        if not squeeze_excite:
            block = dataclasses.replace(block, squeeze_excite=False)
        x = inverted_residual(x, block, f"block{index}", batch_norm, expand=index > 1, align=align, dialect=dialect)
        if block.tap:
            taps.append(x)
    return taps


def _renormalize(normalized: Any, mean: float, std: float) -> Any:
    """Undoes `normalize` and normalizes 0-255 by another mean and deviation, in one fixed scale and offset a channel.

    A layer of its own, because it cannot be folded into the stem's weights: the stem pads with zeros, and zero is a mid
    grey after this layer but PIXEL_MEAN before it.
    """
    scale = [ours / std for ours in PIXEL_STD]
    offset = [(ours - mean) / std for ours in PIXEL_MEAN]
    return keras.layers.Rescaling(scale, offset, name="stem_input")(normalized)
