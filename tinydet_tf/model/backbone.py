"""The backbones: aligned MobileNetV3-D (S) and -BC (M, L), tables 10-12, the others of table 4, and two of Keras.

"mobilenetv2" and "mobilenetv3large" are keras.applications' MobileNetV2 and MobileNetV3Large at alpha 1 up to their
last block, so that their ImageNet weights fit (checkpoints/keras_applications.py), and one more block for stride 64,
which starts from random weights. Without alignment they compute the same as Keras' networks. An average pool in front
of a strided conv needs no other weights, but blurs what the conv sees and moves it by half a pixel: with the pool,
imported weights are a start, and the network computes something else than Keras' does.
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
    return (tf.cast(images, tf.float32) - PIXEL_MEAN) * (1.0 / np.asarray(PIXEL_STD, np.float32))


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
    batch_norm = dataclasses.replace(batch_norm, epsilon=dialect.batch_norm_epsilon)
    x = _symmetric(images) if dialect.symmetric_input else images
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


def _symmetric(normalized: Any) -> Any:
    """Undoes `normalize` and maps 0-255 to -1..1, in one fixed scale and offset a channel.

    A layer of its own, because it cannot be folded into the stem's weights: the stem pads with zeros, and zero is a mid
    grey after this layer but PIXEL_MEAN before it.
    """
    scale = [std / 127.5 for std in PIXEL_STD]
    offset = [mean / 127.5 - 1.0 for mean in PIXEL_MEAN]
    return keras.layers.Rescaling(scale, offset, name="stem_input")(normalized)
