"""The forms that layers take in training on a CPU compute what TensorFlow's own ops do, and so do their gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tinydet_tf.layers import activations, batch_norm, depthwise
from tinydet_tf.layers.align_pool import AlignPool
from tinydet_tf.layers.devices import on_cpu

# Sums of n float32 numbers in another order differ by less than n * 6e-8 of the sum of their sizes; here n < 4096.
ROUNDING = 4096 * 6e-8


def numbers(*shape: int, seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def both(
    ours: Callable[..., tf.Tensor], theirs: Callable[..., tf.Tensor], *inputs: tf.Tensor
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """The output and the gradients of every input, of a weighted sum of the output, inside a graph as in training."""

    def run(function: Callable[..., tf.Tensor]) -> list[tf.Tensor]:
        @tf.function(autograph=False)
        def graph() -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                y = function(*inputs)
                loss = tf.reduce_sum(y * numbers(*y.shape, seed=9))
            return [y, *tape.gradient(loss, inputs)]

        return graph()

    return run(ours), run(theirs)


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding"),
    [
        (12, 5, 1, "SAME"),  # pairs of pixels
        (5, 5, 1, "SAME"),  # no pairs in an odd row
        (13, 5, 2, "VALID"),  # two pieces, an odd side
        (14, 5, 2, "VALID"),  # and an even one
        (12, 3, 1, "SAME"),
        (13, 3, 2, "VALID"),
        (5, 5, 2, "VALID"),  # a single output
    ],
)
def test_depthwise(side: int, kernel: int, stride: int, padding: str) -> None:
    x, weights = numbers(2, side, side, 6), numbers(kernel, kernel, 6, 1, seed=1)
    ours, theirs = both(
        lambda x, w: depthwise.depthwise_conv2d(x, w, stride=stride, padding=padding),
        lambda x, w: tf.nn.depthwise_conv2d(x, w, [1, stride, stride, 1], padding),
        x,
        weights,
    )
    sizes = both(
        lambda x, w: tf.nn.depthwise_conv2d(tf.abs(x), tf.abs(w), [1, stride, stride, 1], padding),
        lambda x, w: x,
        x,
        weights,
    )[0]
    assert ours[2].shape == weights.shape
    for got, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got, expected, atol=ROUNDING * float(tf.reduce_max(tf.abs(sizes[0]))), rtol=ROUNDING)


@pytest.mark.parametrize("channels", [6, 16, 24])
def test_batch_norm_trains_as_keras(channels: int) -> None:
    x = numbers(3, 8, 10, channels) * 2.0 + 1.0
    layers = [batch_norm.BatchNormalization(momentum=0.9), keras.layers.BatchNormalization(momentum=0.9)]
    for layer in layers:
        layer.build(x.shape)
        layer.gamma.assign(tf.linspace(0.5, 2.0, channels))
        layer.beta.assign(tf.linspace(-1.0, 1.0, channels))
    ours, theirs = both(*(lambda x, layer=layer: layer(x, training=True) for layer in layers), x)
    for got, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)
    for got, expected in zip(layers[0].variables, layers[1].variables, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frozen", [False, True])
def test_batch_norm_in_evaluation(frozen: bool) -> None:
    """Frozen it is the same in training: the statistics are used and stay as they are."""
    channels = 6
    x = numbers(3, 8, 10, channels)
    ours, theirs = batch_norm.BatchNormalization(), keras.layers.BatchNormalization()
    statistics = (0.5, 2.0), (-1.0, 1.0), (-0.3, 0.4), (0.01, 3.0)  # gamma, beta, mean, variance
    for layer in (ours, theirs):
        layer.build(x.shape)
        layer.set_weights([np.linspace(*ends, channels, dtype=np.float32) for ends in statistics])
    ours.trainable = not frozen
    before = ours.get_weights()
    run = tf.function(lambda x: ours(x, training=frozen), autograph=False).get_concrete_function(x)
    np.testing.assert_allclose(run(x), theirs(x, training=False), rtol=1e-5, atol=1e-6)
    for got, expected in zip(ours.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, expected)
    if on_cpu():
        # It would be fused with the convolution in front, which is slow on AVX2.
        assert "FusedBatchNormV3" not in {operation.type for operation in run.graph.get_operations()}


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (10.0, 1.0), (-3.0, 0.01), (5.0, 0.0)])
def test_moments(mean: float, deviation: float) -> None:
    x = np.random.default_rng(1).normal(mean, deviation, (4, 64, 48, 6)).astype(np.float32)
    got_mean, got_variance = batch_norm.moments(tf.constant(x))
    exact = x.astype(np.float64)
    np.testing.assert_allclose(got_mean, exact.mean((0, 1, 2)), rtol=1e-5, atol=1e-6)
    # Each column's sum has 256 numbers, each rounding off at most 6e-8 of the sum: of the square of the mean, twice.
    bound = 2 * 256 * 6e-8 * (mean**2 + deviation**2)
    np.testing.assert_allclose(got_variance, exact.var((0, 1, 2)), atol=bound, rtol=1e-5)
    assert (got_variance.numpy() >= 0).all()


@pytest.mark.parametrize("shape", [(2, 5, 7, 6), (1, 2, 2, 16)])
def test_align_pool(shape: tuple[int, ...]) -> None:
    layer = AlignPool()
    ours, theirs = both(
        lambda x: layer(x, training=True), lambda x: tf.nn.avg_pool2d(x, 2, 1, "VALID"), numbers(*shape)
    )
    for got, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_hard_swish_compiled() -> None:
    if not activations.has_xla():
        pytest.skip("this TensorFlow has no XLA for the CPU: h-swish is computed op by op")
    x = tf.concat([numbers(1000) * 3.0, [-3.0, 3.0, 0.0, -4.0, 4.0, float("inf")]], 0)
    ours, theirs = both(activations.compiled_hard_swish, activations.hard_swish, x[:-1])
    for got, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-6)
    assert np.isnan(activations.compiled_hard_swish(tf.constant([float("nan")])).numpy()).all()


def test_small_or_unknown_shapes_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(activations, "compiled_hard_swish", lambda x: calls.append(x.shape) or x)
    monkeypatch.setattr(activations, "has_xla", lambda: True)
    layer = activations.HardSwish()
    large = tf.zeros([1, 32, 32, activations.WORTH_COMPILING // 1024])
    layer(large, training=True)
    layer(large, training=False)
    layer(large[:, :-1], training=True)
    assert calls == [large.shape]
