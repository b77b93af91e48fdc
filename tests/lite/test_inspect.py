"""What stays off the delegate: on a model whose pieces are known, and on runtimes that do not tell."""

import os

import numpy as np
import pytest

from tinydet_lite import UserError, runtime
from tinydet_lite.guard.flatbuffer import read_flatbuffer
from tinydet_lite.lab import inspection as inspect
from tinydet_lite.lab.inspection import Inspection, inspect_model


@pytest.fixture(scope="module")
def mixed() -> bytes:
    """Conv, GATHER, conv, and a side branch: two partitions around what XNNPACK never takes."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    tf = pytest.importorskip("tensorflow", reason="the test model is converted with TensorFlow")

    class Mixed(tf.Module):
        def __init__(self):
            super().__init__()
            generator = np.random.default_rng(0)
            self.first = tf.constant(generator.standard_normal((3, 3, 3, 8)), tf.float32)
            self.second = tf.constant(generator.standard_normal((1, 1, 8, 4)), tf.float32)

        @tf.function(input_signature=[tf.TensorSpec([1, 16, 16, 3], tf.float32, "image")])
        def run(self, image):
            with tf.name_scope("trunk"), tf.name_scope("stem"):
                a = tf.nn.relu(tf.nn.conv2d(image, self.first, 1, "SAME"))
            with tf.name_scope("roi"):
                b = tf.gather(a, [3, 1, 2], axis=1)  # [1, 3, 16, 8]
            with tf.name_scope("head"):
                c = tf.nn.conv2d(b, self.second, 1, "SAME")
            return {"out": c * 2.0}

    module = Mixed()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.run.get_concrete_function()], module)
    return bytes(converter.convert())


def test_partitions_and_what_is_between_them(mixed):
    inspection = inspect_model(mixed)
    assert inspection.runtime == "ai_edge_litert"
    assert [node.operator for node in inspection.undelegated] == ["GATHER"]
    assert inspection.undelegated[0].tensor.startswith("roi/")
    first, second = inspection.partitions
    names = {node.index: node.operator for node in inspection.nodes}
    assert [names[index] for index in first] == ["CONV_2D"]
    assert "CONV_2D" in [names[index] for index in second]
    assert len(first) + len(second) + 1 == len(inspection.nodes)
    assert inspection.macs == 16 * 16 * 8 * 27 + 3 * 16 * 4 * 8
    assert inspection.inputs[0].shape == (1, 16, 16, 3) and inspection.inputs[0].dtype == "float32"
    text = inspection.lines()
    assert text == [
        f"delegated to XNNPACK: {len(inspection.nodes) - 1} of {len(inspection.nodes)} operators, in 2 partitions",
        "on ai_edge_litert's own kernels: 1 GATHER",
    ]


def test_a_runtime_that_does_not_tell(monkeypatch):
    class Silent:
        def get_input_details(self):
            return [{"name": "x", "shape": np.array([1, 4]), "dtype": np.uint8}]

    monkeypatch.setattr(inspect, "build_interpreter", lambda model, threads: ("tflite_runtime", Silent()))
    inspection = inspect_model(b"")
    assert inspection.partitions is None and inspection.undelegated is None and inspection.macs is None
    assert inspection.lines() == ["delegation: not known (tflite_runtime does not tell)"]


def test_a_model_without_a_delegate_is_not_an_unknown_one():
    node = inspect.Node(0, "GATHER", "x", 0)
    inspection = Inspection("tflite_runtime", (), (node,), ())
    assert inspection.undelegated == (node,)
    assert inspection.lines()[0] == "delegated to XNNPACK: 0 of 1 operators, in 0 partitions"


def test_any_tflite_is_read_and_damage_is_told(mixed, model_path, tmp_path):
    other = tmp_path / "other.tflite"
    other.write_bytes(mixed)
    assert read_flatbuffer(other) == mixed
    assert len(read_flatbuffer(model_path)) < model_path.stat().st_size
    content = bytearray(model_path.read_bytes())
    content[100] ^= 1
    (tmp_path / "damaged.tflite").write_bytes(content)
    (tmp_path / "none.tflite").write_bytes(b"12345678")
    for name, message in (
        ("damaged.tflite", "is damaged"),
        ("none.tflite", "is not a .tflite"),
        ("absent.tflite", "no such model file"),
        (".", "is a folder"),
    ):
        with pytest.raises(UserError, match=message):
            read_flatbuffer(tmp_path / name)


def test_no_runtime(monkeypatch, mixed):
    monkeypatch.setattr(runtime, "RUNTIMES", {})
    with pytest.raises(UserError, match="no TFLite runtime"):
        inspect_model(mixed)
