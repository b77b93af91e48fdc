"""AlignPool, activations and the padding of strided convolutions."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras as keras

from tinydet_tf.layers.activations import HardSigmoid, HardSwish
from tinydet_tf.layers.align_pool import AlignPool
from tinydet_tf.layers.blocks import conv2d, depthwise


def test_align_pool_is_a_2x2_mean_without_padding() -> None:
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    expected = (x[:, :-1, :-1] + x[:, 1:, :-1] + x[:, :-1, 1:] + x[:, 1:, 1:]) / 4
    layer = AlignPool()
    np.testing.assert_allclose(layer(x), expected)
    assert AlignPool.from_config(layer.get_config())(x).shape == (1, 3, 3, 1)


def test_activations() -> None:
    x = np.array([-4.0, -3.0, -1.0, 0.0, 1.0, 3.0, 5.0], np.float32)
    gate = np.clip(x + 3, 0, 6) / 6
    np.testing.assert_allclose(HardSigmoid()(x), gate, rtol=1e-6)
    np.testing.assert_allclose(HardSwish()(x), x * gate, rtol=1e-6)


def test_strided_convolutions_pad_every_side() -> None:
    """Output (0, 0) of a strided 3x3 is centred on input (0, 0); Keras' 'same' would centre it on (1, 1)."""
    image = keras.Input([8, 8, 1])
    for y in (
        conv2d(image, 1, "c", kernel=3, stride=2, bias=False, kernel_initializer="ones"),
        depthwise(image, "d", kernel=3, stride=2, bias=False, depthwise_initializer="ones"),
    ):
        x = np.zeros([1, 8, 8, 1], np.float32)
        x[0, 0, 0] = 1
        out = keras.Model(image, y)(x).numpy()[0, :, :, 0]
        assert out.shape == (4, 4)
        assert out[0, 0] == 1 and out.sum() == 1


def test_alignment_removes_the_shift() -> None:
    """A centred blob stays centred through AlignPool and a strided sum, and leaves the centre without."""
    image = keras.Input([16, 16, 1])
    x = np.zeros([1, 16, 16, 1], np.float32)
    x[0, 6:10, 6:10] = 1  # centre 7.5

    def centroid(aligned: bool) -> float:
        pooled = AlignPool()(image) if aligned else image
        out = depthwise(pooled, f"d{aligned}", kernel=3, stride=2, bias=False, depthwise_initializer="ones")
        weight = keras.Model(image, out)(tf.constant(x)).numpy()[0, :, :, 0].sum(0)
        return float((weight * np.arange(8)).sum() / weight.sum())

    assert abs(centroid(True) - 3.5) < 1e-6
    assert centroid(False) > 3.75  # measured 3.83: half a pixel is a quarter of a cell, the rest is aliasing
