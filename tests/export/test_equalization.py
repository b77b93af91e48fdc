"""Channels of like ranges: which may be changed and by how much, and that nothing else changes but int8's error."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert.interpreter import Interpreter

import tinydet_tf
from random_detectors import fit_statistics
from tinydet_tf.export.calibration import CalibrationImages, observe
from tinydet_tf.export.convert import to_flatbuffer
from tinydet_tf.export.equalization import channel_factors, divided, equalized
from tinydet_tf.export.graph import HostGraph
from tinydet_tf.export.quantize import observed_tensors, quantize
from tinydet_tf.export.schemes import FORMATS, Scheme
from tinydet_tf.model.detector import TinyDet

SIZE = 8
Body = Callable[[tf.Tensor], tf.Tensor]
#: How wide the channels are.
WIDE = np.array([1.0, 0.1, 0.5, 0.05], np.float32)


def images(count: int = 4, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, [count, size, size, 3]).astype(np.uint8)


def samples(size: int = SIZE) -> CalibrationImages:
    pictures = images(size=size)
    return CalibrationImages(pictures, (1, 2, 3, 4), ("a", "b", "c", "d"), "4 of 4 images of test.json", 0)


def pointwise(seed: int, inputs: int, outputs: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=[1, 1, inputs, outputs]).astype(np.float32)


def unlike(x: tf.Tensor, seed: int = 1) -> tf.Tensor:
    """A conv of four channels, each as wide as WIDE says."""
    return tf.nn.relu(tf.nn.conv2d(x, pointwise(seed, x.shape[-1], 4) * WIDE, 1, "VALID") + 0.5 * WIDE)


def mixed(x: tf.Tensor, seed: int = 2) -> tf.Tensor:
    return tf.nn.conv2d(x, pointwise(seed, x.shape[-1], 3) / 4.0, 1, "VALID")


def depthwise(x: tf.Tensor, seed: int = 3) -> tf.Tensor:
    kernel = np.random.default_rng(seed).uniform(0.5, 1.0, [3, 3, x.shape[-1], 1]).astype(np.float32)
    return tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")


class Graph(tf.Module):
    """A graph that `to_flatbuffer` takes, whose picture becomes small numbers first."""

    def __init__(self, body: Body) -> None:
        super().__init__(name="graph")

        def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"out": body(mixed(tf.cast(image, tf.float32) / 255.0, 9))}

        spec = tf.TensorSpec([1, SIZE, SIZE, 3], tf.uint8, name="image")
        self.serve = tf.function(serve, input_signature=[spec], autograph=False)


def flatbuffer(body: Body) -> bytes:
    return to_flatbuffer(Graph(body))


def outputs(model: bytes, pictures: np.ndarray) -> np.ndarray:
    run = Interpreter(model_content=model).get_signature_runner()
    return np.concatenate([np.ravel(next(iter(run(image=picture[None]).values()))) for picture in pictures])


def factors(model: bytes) -> list[np.ndarray]:
    """Of each tensor with four channels whose channels change."""
    found = channel_factors(model, observe(model, samples(), observed_tensors(model)))
    return [values for name, values in found.items() if len(values) == 4]


def assert_same_outputs(model: bytes) -> None:
    changed = equalized(model, channel_factors(model, observe(model, samples(), observed_tensors(model))))
    assert changed != model
    np.testing.assert_allclose(outputs(changed, images()), outputs(model, images()), rtol=1e-4, atol=1e-4)


def test_factors_are_how_wide_the_channels_are() -> None:
    model = flatbuffer(lambda x: mixed(unlike(x)))
    seen = observe(model, samples(), observed_tensors(model))
    (found,) = factors(model)
    every = channel_factors(model, seen)
    (name,) = (name for name, values in every.items() if len(values) == 4)
    wide = seen[name].channel_high.mean(0)  # behind a ReLU
    np.testing.assert_allclose(found, np.maximum(wide / wide.max(), 1 / 64), rtol=1e-6)
    again = observe(equalized(model, every), samples(), [name])[name]
    np.testing.assert_allclose(again.channel_ranges(), wide.max(), rtol=1e-4)
    ours = divided(seen, every)[name]
    for attribute in ("low", "high", "values", "channel_low", "channel_high"):  # as if it were measured
        np.testing.assert_allclose(
            getattr(ours, attribute), getattr(again, attribute), rtol=1e-4, atol=1e-4, err_msg=attribute
        )


SAME: dict[str, Body] = {
    "conv": lambda x: mixed(unlike(x)),
    "depthwise": lambda x: mixed(depthwise(unlike(x))),
    "sum": lambda x: mixed(unlike(x) + tf.nn.conv2d(depthwise(unlike(x)), pointwise(4, 4, 4), 1, "VALID")),
    "pad": lambda x: mixed(tf.pad(unlike(x), [(0, 0), (1, 1), (1, 1), (2, 1)])),
    "channels": lambda x: mixed(tf.concat([unlike(x), unlike(x, 5)], -1)),
    "rows": lambda x: mixed(tf.concat([unlike(x)[:, :3], unlike(x, 5)[:, 3:]], 1)),
    "slices": lambda x: mixed(tf.concat([unlike(x)[..., 1:3], depthwise(unlike(x, 5))[..., ::2]], -1)),
    "pool": lambda x: mixed(tf.image.resize(tf.nn.avg_pool2d(unlike(x), 2, 2, "VALID"), [8, 8], "nearest")),
    "mean": lambda x: tf.reshape(tf.reduce_mean(unlike(x), [1, 2]), [1, 4]) @ pointwise(6, 4, 5)[0, 0],
    "product": lambda x: mixed(unlike(x) * tf.nn.relu6(mixed(x, 7)[..., :1] @ np.ones([1, 4], np.float32))),
    "groups": lambda x: tf.nn.conv2d(depthwise(unlike(x)), pointwise(4, 2, 6), 1, "VALID"),  # two groups
    # One kernel, read behind channels of two kinds.
    "shared": lambda x: mixed(unlike(x), 2) + mixed(depthwise(unlike(x, 5) * 3.0), 2),
}


@pytest.mark.parametrize("name", SAME)
def test_outputs_stay(name: str) -> None:
    assert_same_outputs(flatbuffer(SAME[name]))


FIXED: dict[str, Body] = {
    "output": lambda x: unlike(x),  # the graph's own output
    "relu6": lambda x: mixed(tf.nn.relu6(tf.nn.conv2d(x, pointwise(1, 3, 4) * WIDE, 1, "VALID"))),
    "sigmoid": lambda x: mixed(tf.sigmoid(unlike(x))),
    "plus": lambda x: mixed(unlike(x) + np.random.default_rng(6).normal(size=[1, 8, 8, 4]).astype(np.float32)),
    "product": lambda x: mixed(unlike(x) * unlike(x, 5)),
    "mean": lambda x: mixed(tf.reduce_mean(unlike(x), -1, keepdims=True)),
    "transposed": lambda x: mixed(tf.transpose(unlike(x), [0, 3, 1, 2])),
    "reshaped": lambda x: mixed(tf.reshape(unlike(x), [1, 8, 4, 8])),
}


@pytest.mark.parametrize("name", FIXED)
def test_numbers_that_count_stay(name: str) -> None:
    assert factors(flatbuffer(FIXED[name])) == []


def test_a_sum_has_the_factors_of_its_parts() -> None:
    model = flatbuffer(lambda x: mixed(unlike(x) + depthwise(unlike(x, 5))))
    seen = observe(model, samples(), observed_tensors(model))
    found = channel_factors(model, seen)
    four = [values for values in found.values() if len(values) == 4]
    # The conv in front of the depthwise one is free; what that writes and the other conv are bound by the sum.
    assert len(four) == 4 and len({values.tobytes() for values in four}) == 2


def test_what_is_not_to_be_quantized_stays() -> None:
    model = flatbuffer(lambda x: mixed(unlike(x)))
    assert channel_factors(model, observe(model, samples(), observed_tensors(model)), lambda name: False) == {}


def test_int8_is_nearer() -> None:
    """The narrow channels count for as much as the wide ones here, and have as many steps now."""

    def body(x: tf.Tensor) -> tf.Tensor:
        with tf.name_scope("net"):
            y = tf.nn.conv2d(depthwise(unlike(x)), pointwise(8, 4, 3) / WIDE[:, None], 1, "VALID")
        return tf.abs(y)

    model = flatbuffer(body)
    scheme = Scheme("int8", "int8", 8, parts=("net",), bias_correction=False)
    errors = {
        equalization: np.abs(
            outputs(quantize(model, dataclasses.replace(scheme, equalization=equalization), samples()).model, images())
            - outputs(model, images())
        ).mean()
        for equalization in (False, True)
    }
    assert errors[True] < 0.3 * errors[False], errors


@functools.cache
def detector() -> TinyDet:
    keras.utils.set_random_seed(4)
    model = tinydet_tf.build_detector("S", num_classes=2, input_size=128)
    fit_statistics(model, images(2, 128), times=3)
    return model


def test_a_detector_gives_the_same_and_its_stem_is_in_it() -> None:
    model = to_flatbuffer(HostGraph(detector(), arithmetic="integer"))
    seen = observe(model, samples(128), observed_tensors(model))
    found = channel_factors(model, seen, FORMATS["int8"].covers)
    changed = equalized(model, found)
    assert len(found) > 50
    for part in ("trunk/stem/mul", "trunk/block5/", "trunk/lateral0/", "trunk/fpn0/", "trunk/rpn0/", "head/"):
        assert any(name.startswith(part) for name in found), part
    assert not any(name.startswith(("proposals", "final", "table", "image")) for name in found)
    one, other = (run(image=images(1, 128)) for run in map(runner, (model, changed)))
    ours, theirs = (np.concatenate([found["boxes"][0], found["class_probs"][0]], 1) for found in (other, one))
    # Proposals come by their score: two of almost the same one may change places, and the last ones fall out.
    apart = np.abs(ours[:, None] - theirs).max(-1)
    for nearest in (apart.min(0), apart.min(1)):
        assert (nearest > 2e-3).mean() < 0.02, np.sort(nearest)[-5:]


def runner(model: bytes) -> Callable[..., dict[str, np.ndarray]]:
    run: Callable[..., dict[str, np.ndarray]] = Interpreter(model_content=model).get_signature_runner()
    return run
