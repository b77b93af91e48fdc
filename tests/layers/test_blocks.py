"""AlignPool, activations, the padding of strided convolutions, and blocks whose expansion is fused."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tinydet_tf.layers.activations import HardSigmoid, HardSwish
from tinydet_tf.layers.align_pool import AlignPool
from tinydet_tf.layers.batch_norm import BatchNormalization
from tinydet_tf.layers.blocks import BatchNorm, conv2d, depthwise, inverted_residual
from tinydet_tf.model.backbones import BlockSpec


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


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("align", [False, True])
def test_a_fused_block_is_its_parts(stride: int, align: bool) -> None:
    spec = BlockSpec(3, 8, 4, squeeze_excite=False, hard_swish=True, stride=stride, tap=False, fused=True)
    image = keras.Input([8, 8, 4])
    model = keras.Model(image, inverted_residual(image, spec, "b", BatchNorm(), expand=True, align=align))
    for layer in model.layers:  # statistics that do something
        if isinstance(layer, BatchNormalization):
            channels = layer.gamma.shape[0]
            layer.set_weights([np.linspace(low, 2, channels) for low in (0.5, -1, -0.5, 0.7)])
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 4)).astype(np.float32)

    def normalized(y: np.ndarray, name: str) -> np.ndarray:
        gamma, beta, mean, variance = model.get_layer(name).get_weights()
        return (y - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    y = x[0]
    if align and stride == 2:
        y = (y[:-1, :-1] + y[1:, :-1] + y[:-1, 1:] + y[1:, 1:]) / 4
    kernel, side = model.get_layer("b_fused").get_weights()[0], 8 // stride
    around = np.pad(y, [(1, 1), (1, 1), (0, 0)])
    taps = [
        around[r : r + len(y), c : c + len(y)][::stride, ::stride][:side, :side] for r in range(3) for c in range(3)
    ]
    y = normalized(sum(tap @ k for tap, k in zip(taps, kernel.reshape(9, 4, 8), strict=True)), "b_fused_bn")
    y = y * np.clip(y + 3, 0, 6) / 6
    y = normalized(y @ model.get_layer("b_project").get_weights()[0][0, 0], "b_project_bn")
    np.testing.assert_allclose(model(x)[0], y + x[0] if stride == 1 else y, atol=1e-5)


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
