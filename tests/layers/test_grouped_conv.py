"""GroupedConv2D: groups, the matmul it falls back to, and the Keras layer's contract."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tinydet_tf.layers.grouped_conv import GroupedConv2D, grouped_pointwise


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
    np.testing.assert_allclose(y, reference(x, kernel, groups), atol=1e-4)  # measured 1.9e-5 at groups=1


def test_gradients_of_both_forms_agree() -> None:
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=[2, 3, 4, 20]).astype(np.float32))
    kernel = tf.constant(rng.normal(size=[1, 1, 4, 20]).astype(np.float32))
    gradients = []
    for native in (True, False):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            loss = tf.reduce_sum(tf.square(grouped_pointwise(x, kernel, groups=5, native=native)))
        gradients.append(tape.gradient(loss, [x, kernel]))
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_falls_back_where_the_gradient_is_missing() -> None:
    """Without oneDNN TensorFlow has no CPU gradient for grouped convolutions: the layer must train all the same."""
    program = (
        "import tensorflow as tf\n"
        "from tinydet_tf.layers.grouped_conv import GroupedConv2D, has_grouped_gradient\n"
        "layer = GroupedConv2D(20, 5); layer.build([None, None, None, 20])\n"
        "@tf.function\n"
        "def step(x):\n"
        "    with tf.GradientTape() as tape: loss = tf.reduce_sum(layer(x) ** 2)\n"
        "    return tape.gradient(loss, layer.kernel)\n"
        "print(has_grouped_gradient(), bool(tf.reduce_all(tf.math.is_finite(step(tf.ones([1, 4, 4, 20]))))))\n"
    )
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "True"
    assert done.stdout.split()[0] == "False", "this TensorFlow differentiates it without oneDNN: drop the fallback"


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
