"""Biases of channels whose weights have died: they are the same in int8."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from tinydet_tf.export.bias_room import with_room_for_biases
from tinydet_tf.export.calibration import CalibrationImages
from tinydet_tf.export.quantize import observed_tensors, quantize
from tinydet_tf.export.schemes import Scheme

#: Without what else could move a bias.
INT8 = Scheme("int8", "int8", 8, parts=("layers",), bias_correction=False, equalization=False)
SIDE, CHANNELS = 8, 6
BIASES = np.array([1.5, -2.0, 0.25, 3.0, 0.5, -1.0], np.float32)

Layer = Callable[[tf.Tensor, NDArray[np.float32], NDArray[np.float32]], tf.Tensor]


def conv(x: tf.Tensor, weights: NDArray[np.float32], biases: NDArray[np.float32]) -> tf.Tensor:
    return tf.nn.conv2d(x, weights[None, None], 1, "SAME") + biases


def depthwise(x: tf.Tensor, weights: NDArray[np.float32], biases: NDArray[np.float32]) -> tf.Tensor:
    return tf.nn.depthwise_conv2d(x, weights.mean(0)[None, None, :, None], [1, 1, 1, 1], "SAME") + biases


def dense(x: tf.Tensor, weights: NDArray[np.float32], biases: NDArray[np.float32]) -> tf.Tensor:
    return tf.reshape(tf.matmul(tf.reshape(x, [SIDE**2, CHANNELS]), weights) + biases, [1, SIDE, SIDE, CHANNELS])


def pictures() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, [4, SIDE, SIDE, 3], np.uint8)


def float_model(layer: Layer, weights: NDArray[np.float32]) -> bytes:
    class Graph(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([1, SIDE, SIDE, 3], tf.uint8)])
        def serve(self, image: tf.Tensor) -> tf.Tensor:
            stem = np.random.default_rng(1).normal(size=[1, 1, 3, CHANNELS]).astype(np.float32) / 128
            with tf.name_scope("layers"):
                features = tf.nn.relu(tf.nn.conv2d(tf.cast(image, tf.float32), stem, 1, "SAME"))
                values = layer(features, weights, BIASES)
            with tf.name_scope("outside"):  # outputs are float
                return tf.maximum(values, -1000.0)

    graph = Graph()
    return bytes(
        tf.lite.TFLiteConverter.from_concrete_functions([graph.serve.get_concrete_function()], graph).convert()
    )


def outputs(model: bytes) -> NDArray[np.float32]:
    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    (image,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for picture in pictures():
        interpreter.set_tensor(image["index"], picture[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(output["index"]))
    return np.concatenate(found)


@pytest.mark.parametrize("layer", [conv, depthwise, dense])
@pytest.mark.parametrize("weight", [0.0, 1e-12, -3e-8])
def test_a_dead_channel_keeps_its_bias(layer: Layer, weight: float) -> None:
    weights = np.random.default_rng(2).normal(size=[CHANNELS, CHANNELS]).astype(np.float32)
    weights[:, [1, 3]] = weight
    model = float_model(layer, weights)
    samples = CalibrationImages(pictures(), (1, 2, 3, 4), tuple("abcd"), "4 pictures", 0)
    quantized = quantize(model, INT8, samples)
    assert quantized.calibration is not None
    expected, found = outputs(model), outputs(quantized.model)
    low, high = quantized.calibration.ranges[observed_tensors(model)[-2]]
    assert np.abs(expected[..., 3] - BIASES[3]).max() < 1e-4
    assert np.abs(found - expected).max() <= 3 * (high - low) / 255
    assert np.abs(found - expected)[..., [1, 3]].max() <= 0.6 * (high - low) / 255


def test_what_has_room_stays_as_it_is() -> None:
    weights = np.random.default_rng(2).normal(size=[CHANNELS, CHANNELS]).astype(np.float32)
    model = float_model(conv, weights)
    found = dict.fromkeys(observed_tensors(model), (0.0, 4.0))
    assert with_room_for_biases(model, found) is model
    weights[:, 1] = 0.0
    dead = float_model(conv, weights)
    assert with_room_for_biases(dead, {}) is dead  # nothing of it will be int8
    raised = with_room_for_biases(dead, found)
    assert raised != dead
    np.testing.assert_allclose(outputs(raised), outputs(dead), atol=abs(BIASES[1]) / 30_000)
