"""GroupedConv2D: groups, the matmul it falls back to, and the Keras layer's contract."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tinydet_tf.layers.grouped_conv import GroupedConv2D, grouped_pointwise, has_grouped_gradient


def reference(x: np.ndarray, kernel: np.ndarray, groups: int) -> np.ndarray:
    size_in, size_out = x.shape[-1] // groups, kernel.shape[-1] // groups
    parts = [
        x[..., g * size_in : (g + 1) * size_in] @ kernel[0, 0, :, g * size_out : (g + 1) * size_out]
        for g in range(groups)
    ]
    return np.concatenate(parts, -1)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("groups", [1, 5, 49])
def test_groups(groups: int, native: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=[2, 3, 4, 245]).astype(np.float32)
    kernel = rng.normal(size=[1, 1, 245 // groups, 245]).astype(np.float32)
    y = grouped_pointwise(tf.constant(x), tf.constant(kernel), groups=groups, native=native)
    # Sums of up to 245 products of about 1, in any order: 245 * 2**-24 * the largest, 60, is 9e-4.
    np.testing.assert_allclose(y, reference(x, kernel, groups), atol=1e-3)  # here 1.9e-5 at groups=1


def test_gradients_of_both_forms_agree() -> None:
    """With the reference's, which both must give; the native form only where this machine has its gradient."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=[2, 3, 4, 20]).astype(np.float32), rng.normal(size=[1, 1, 4, 20]).astype(np.float32)
    parts = np.split(x, 5, -1)  # a group's channels
    weights = np.split(kernel[0, 0], 5, -1)
    expected_x = np.concatenate([2 * (p @ w) @ w.T for p, w in zip(parts, weights, strict=True)], -1)
    expected_kernel = np.concatenate(
        [2 * np.einsum("bhwi,bhwo->io", p, p @ w) for p, w in zip(parts, weights, strict=True)], -1
    )[None, None]
    forms = (True, False) if has_grouped_gradient("float32") else (False,)
    for native in forms:
        inputs = [tf.constant(x), tf.constant(kernel)]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(tf.square(grouped_pointwise(*inputs, groups=5, native=native)))
        # Sums of at most 24 products of at most 40: float32's 24 * 40 * 2**-24 is 6e-5.
        for found, expected in zip(tape.gradient(loss, inputs), (expected_x, expected_kernel), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


PROGRAM = """
import sys, tensorflow as tf, tf_keras as keras
from tinydet_tf.layers.grouped_conv import GroupedConv2D, has_grouped_gradient
for dtype in sys.argv[1:]:
    policy = keras.mixed_precision.Policy("float32" if dtype == "float32" else "mixed_" + dtype)
    layer = GroupedConv2D(20, 5, dtype=policy)
    layer.build([None, None, None, 20])
    @tf.function
    def step(x):
        with tf.GradientTape() as tape: loss = tf.reduce_sum(tf.cast(layer(x), tf.float32) ** 2)
        return tape.gradient(loss, layer.kernel)
    gradient = step(tf.ones([1, 4, 4, 20], dtype))
    print(dtype, has_grouped_gradient(dtype), bool(tf.reduce_all(tf.math.is_finite(gradient))))
"""


def test_falls_back_where_the_gradient_is_missing() -> None:
    """Without oneDNN TensorFlow has no CPU gradient for grouped convolutions: the layer must train all the same."""
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    dtypes = ["float32", "bfloat16", "float16"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *dtypes], env=environment, capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == dtypes
    for dtype, has_gradient, is_finite in rows:
        assert is_finite == "True", dtype
        assert has_gradient == "False", f"this TensorFlow differentiates {dtype} without oneDNN: drop the fallback"


def test_layer_contract() -> None:
    layer = GroupedConv2D(10, 5, name="grouped")
    y = layer(tf.ones([2, 3, 3, 20]))
    assert y.shape == layer.compute_output_shape([2, 3, 3, 20]) == (2, 3, 3, 10)
    assert [w.shape.as_list() for w in layer.weights] == [[1, 1, 4, 10], [10]]
    assert GroupedConv2D.from_config(layer.get_config()).get_config() == layer.get_config()
    with pytest.raises(ValueError, match="9 filters cannot be split into 5 groups"):
        GroupedConv2D(9, 5)
    with pytest.raises(ValueError, match="21 input channels"):
        GroupedConv2D(10, 5).build([None, 3, 3, 21])
