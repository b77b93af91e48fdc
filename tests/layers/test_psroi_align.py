"""Both forms of PSRoIAlign against the numpy reference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

import references
from tinydet_tf.layers import psroi_align as psroi
from tinydet_tf.layers.psroi_align import psroi_align, roi_levels

PYRAMIDS = {  # level sizes, strides, finest: what S, M and L pool
    "S": ((40, 20), (8, 16), 30.0),
    "M": ((80, 40, 20), (4, 8, 16), 22.4),
    "L": ((128, 64, 32), (4, 8, 16), 35.8),
}
# A coordinate of up to 128 cells is rounded to 8e-6 cells, three times and on both axes, and the maps have slopes of up
# to 1 a cell. A sample that is a quarter of a cell off is far above it. Here at most 7.3e-6 (crops, L, max).
TOLERANCE = 5e-5


def features_of(sizes: tuple[int, ...], batch: int = 2) -> list[np.ndarray]:
    """Smooth in space as real features are: a coordinate's rounding is multiplied by the slope."""
    rng = np.random.default_rng(0)
    maps = []
    for size in sizes:
        coarse = tf.constant(rng.uniform(-1, 1, [batch, size // 2, size // 2, 245]).astype(np.float32))
        maps.append(tf.image.resize(coarse, [size, size]).numpy())
    return maps


def rois_of(size: int) -> np.ndarray:
    """Random ones of every scale, and the awkward ones."""
    rng = np.random.default_rng(1)
    centre, side = rng.uniform(0, size - 1, (60, 2)), np.exp(rng.uniform(0, np.log(size), (60, 2)))
    random = np.concatenate([centre - side / 2, centre + side / 2], 1)
    random[:40] = np.clip(random[:40], 0, size - 1)
    last = size - 1
    awkward = [
        [0, 0, 0, 0],  # zero size, at each corner
        [last, last, last, last],
        [0, last, 0, last],
        [0, 0, last, last],  # the whole image
        [0, 0, last, 7],  # along each border
        [0, last - 7, last, last],
        [0, 0, 7, last],
        [last - 7, 0, last, last],
        [0, 100, last, 100],  # no height
        [10, 10, 5, 5],  # inverted
        [-3, -3, size + 20, size + 20],  # larger than the image
        [-size, -size, 2 * size, 2 * size],
        [-9, -9, -8, -8],  # outside, by more and by less than a cell
        [-2, -2, 1, 1],
        [size + 9, size + 9, size + 30, size + 30],
    ]
    return np.concatenate([random, awkward]).astype(np.float32)


@pytest.mark.parametrize("reduce", ["max", "mean"])
@pytest.mark.parametrize("variant", PYRAMIDS)
def test_matches_reference(variant: str, reduce: str) -> None:
    sizes, strides, finest = PYRAMIDS[variant]
    features, rois = features_of(sizes), rois_of(sizes[0] * strides[0])
    batch = (np.arange(len(rois)) % 2).astype(np.int32)
    options = {"strides": strides, "finest": finest, "reduce": reduce}
    expected = references.psroi_align(features, rois, batch, **options)
    crops = psroi_align(features, rois, batch, **options).numpy()
    assert np.abs(crops - expected).max() < TOLERANCE


def test_no_rois() -> None:
    features = features_of((40, 20))
    pooled = psroi_align(features, np.zeros([0, 4], np.float32), np.zeros([0], np.int32), strides=(8, 16), finest=30.0)
    assert pooled.shape == (0, 245)


def test_ramp_by_hand() -> None:
    """On a map that is x in every channel, a bin's largest sample is its right one: three quarters into the bin."""
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32)[None, None, :, None], [1, 40, 40, 245])
    roi = np.array([[80.0, 80.0, 192.0, 192.0]], np.float32)  # cells 10 to 24: bins of 2 cells
    pooled = psroi_align([ramp], roi, [0], strides=(8,), finest=30.0).numpy().reshape(5, 7, 7)
    expected = 10 + 2 * np.arange(7) + 1.5
    np.testing.assert_allclose(pooled, np.broadcast_to(expected, [5, 7, 7]), atol=1e-5)


def test_each_bin_reads_its_own_channel() -> None:
    """A map whose value is its channel number comes back as (d * 7 + i) * 7 + j, in this order."""
    numbers = np.broadcast_to(np.arange(245, dtype=np.float32), [1, 40, 40, 245])
    roi = np.array([[50.0, 60.0, 150.0, 200.0]], np.float32)
    pooled = psroi_align([numbers], roi, [0], strides=(8,), finest=30.0)
    np.testing.assert_allclose(pooled.numpy()[0], np.arange(245), rtol=1e-6)


def test_gradient_is_that_of_the_bilinear_weights() -> None:
    """Of the mean form, against finite differences of the numpy reference."""
    rng = np.random.default_rng(0)
    features = [rng.normal(size=[1, 4, 4, 245]).astype(np.float32), rng.normal(size=[1, 2, 2, 245]).astype(np.float32)]
    rois = np.array([[3.0, 2.0, 20.0, 25.0], [0.0, 0.0, 31.0, 31.0], [28.0, 28.0, 31.0, 31.0]], np.float32)
    options = {"strides": (8, 16), "finest": 12.0, "reduce": "mean"}
    weights = rng.normal(size=[3, 245])
    variables = [tf.Variable(f) for f in features]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(psroi_align(variables, rois, [0, 0, 0], **options) * weights.astype(np.float32))
    gradients = tape.gradient(loss, variables)
    for level, (y, x, channel) in ((0, (1, 2, 30)), (0, (3, 3, 244)), (1, (0, 1, 100)), (1, (1, 1, 0))):
        moved = [f.copy() for f in features]
        moved[level][0, y, x, channel] += 1.0
        difference = references.psroi_align(moved, rois, np.zeros(3, int), **options)
        difference -= references.psroi_align(features, rois, np.zeros(3, int), **options)
        expected = (difference * weights).sum()
        assert gradients[level].numpy()[0, y, x, channel] == pytest.approx(expected, abs=1e-5)


def test_levels_match_reference_at_their_borders() -> None:
    sides = np.array([1, 29, 29.9, 30, 30.1, 59.9, 60, 60.1, 119, 120, 300], np.float32)
    rois = np.stack([np.zeros_like(sides), np.zeros_like(sides), sides - 1, sides - 1], 1)
    expected = [references.roi_level(roi, 30.0, 3) for roi in rois.astype(np.float64)]
    assert roi_levels(tf.constant(rois), finest=30.0, num_levels=3).numpy().tolist() == expected


@pytest.mark.parametrize("gpu", [False, True], ids=["max pool", "comparisons"])
@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_values_and_gradient_are_those_of_four_slices(monkeypatch: pytest.MonkeyPatch, reduce: str, gpu: bool) -> None:
    """Both ways to reduce a bin's samples against the plainest, ties too: the first sample has the gradient."""
    rng = np.random.default_rng(0)
    crops = tf.constant(rng.integers(-1, 2, [3 * 49, 2, 2, 5]).astype(np.float32))  # full of ties
    weights = tf.constant(rng.normal(size=[3 * 49, 5]).astype(np.float32))

    def value_and_gradient(reduced: Callable[[tf.Tensor], tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(crops)
            value = tf.reshape(reduced(crops), [-1, 5])
            total = tf.reduce_sum(value * weights)
        return value, tape.gradient(total, crops)

    def slices(x: tf.Tensor) -> tf.Tensor:
        return psroi._reduce([x[:, 0, 0], x[:, 0, 1], x[:, 1, 0], x[:, 1, 1]], reduce)

    expected = value_and_gradient(slices)
    monkeypatch.setattr(psroi, "on_cpu", lambda: not gpu)
    found = value_and_gradient(lambda x: psroi._reduce_crops(x, reduce))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
