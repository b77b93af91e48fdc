"""The .tflite: builtin operators, the same numbers as Keras, everything the wrapper needs inside."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

import tinydet_tf
from partners import assert_same_rows, first
from random_detectors import convert, fit_statistics
from tinydet_lite import Detector
from tinydet_lite.errors import UserError
from tinydet_lite.metadata import parse_model
from tinydet_tf.config import VARIANTS, Config
from tinydet_tf.export.convert import with_metadata, write_tflite
from tinydet_tf.model.detector import TinyDet

NAMES = tuple(f"thing {i}" for i in range(6))
IDS = (1, 2, 3, 5, 8, 13)


def config_of(variant: str) -> Config:
    return Config(variant=variant, model=VARIANTS[variant], class_names=NAMES, category_ids=IDS)


@functools.cache
def random_detector(variant: str) -> TinyDet:
    """Random weights whose moving statistics fit them, so that activations are as lively as a trained model's."""
    keras.utils.set_random_seed(4)
    detector = tinydet_tf.build_detector(variant, num_classes=len(NAMES))
    for layer in detector.rpn_head.layers + detector.rcnn_head.layers:
        if layer.name in ("rpn_score", "rcnn_score"):  # spread the scores: ties and flat softmaxes prove little
            layer.set_weights([w * 10 for w in layer.get_weights()])
    fit_statistics(detector, pictures(variant, 2), times=20)
    return detector


@functools.cache
def content_of(variant: str) -> bytes:
    return convert(random_detector(variant), config_of(variant))


def pictures(variant: str, count: int, seed: int = 0) -> np.ndarray:
    size = VARIANTS[variant].input_size
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(tf.image.resize(rng.uniform(0, 255, [count, side, side, 3]), [size, size])) for side in (5, 20, 80)
    ]
    return np.clip(sum(layers) / 3, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=["S", "M", pytest.param("L", marks=pytest.mark.slow)])
def exported(request: pytest.FixtureRequest) -> tuple[str, TinyDet, bytes]:
    return request.param, random_detector(request.param), content_of(request.param)


def test_the_suggested_threshold_is_in_the_file() -> None:
    file = parse_model(content_of("S"), "it")
    assert file.info.suggested_threshold is None
    content = with_metadata(file.model, random_detector("S"), config_of("S"), "float32", suggested_threshold=0.42)
    assert parse_model(content, "it").info.suggested_threshold == 0.42


def test_keras_and_tflite_agree(exported: tuple[str, TinyDet, bytes]) -> None:
    variant, detector, content = exported
    interpreter = Interpreter(model_content=content, num_threads=2)
    run = interpreter.get_signature_runner()
    for seed in range(2):
        image = pictures(variant, 1, seed + 10)
        outputs = run(image=image)
        expected = {name: value.numpy() for name, value in detector(image).items()}
        assert len(np.unique(expected["rois"][0], axis=0)) > 150
        assert expected["class_probs"][0, :, 1:].max() > 0.5
        # Errors behind the whole network, here 6.1e-5 pixels and 3.5e-5: a hundredth of what a box of another
        # proposal, or a coordinate rounded to whole pixels, would be off.
        assert_same_rows(first(outputs), first(expected), pixels=0.02, probability=5e-4)


def test_operators_are_builtin(exported: tuple[str, TinyDet, bytes]) -> None:
    """Read from the flatbuffer itself, by LiteRT's schema."""
    content = exported[2]
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]
    assert schema.BuiltinOperator.CUSTOM not in codes
    assert all(c.customCode is None for c in model.operatorCodes)
    assert schema.BuiltinOperator.NON_MAX_SUPPRESSION_V4 in codes
    assert len(model.subgraphs) == 1


def test_shapes_are_static_and_the_input_is_uint8(exported: tuple[str, TinyDet, bytes]) -> None:
    variant, _, content = exported
    size = VARIANTS[variant].input_size
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    assert all(t.shapeSignature is None or (np.asarray(t.shapeSignature) >= 0).all() for t in graph.tensors)
    interpreter = Interpreter(model_content=content)
    (image,) = interpreter.get_signature_runner().get_input_details().items()
    assert image[0] == "image" and image[1]["dtype"] == np.uint8 and image[1]["shape"].tolist() == [1, size, size, 3]
    outputs = interpreter.get_signature_runner().get_output_details()
    assert {k: v["shape"].tolist() for k, v in outputs.items()} == {"boxes": [1, 200, 4], "class_probs": [1, 200, 7]}


def test_metadata_travels_inside(exported: tuple[str, TinyDet, bytes]) -> None:
    variant, _, content = exported
    file = parse_model(content, "it")
    assert file.labels == NAMES and file.info.category_ids == IDS
    assert (file.info.variant, file.info.input_size) == (variant, VARIANTS[variant].input_size)


def test_wrapper_detects(exported: tuple[str, TinyDet, bytes], tmp_path: Path) -> None:
    variant, _, content = exported
    path = tmp_path / "m.tflite"
    write_tflite(content, path)
    image = pictures(variant, 1, 3)[0][: VARIANTS[variant].input_size // 2]  # twice as wide as high
    detections = Detector(path, score_threshold=0.0)(image)
    assert len(detections) > 0
    assert detections.boxes[:, 3].max() <= image.shape[0] and detections.boxes[:, 2].max() <= image.shape[1]
    assert set(detections.names) <= set(NAMES)


def test_a_uniform_image_gives_many_different_proposals() -> None:
    """Everything ties and boxes pile up at the borders there: no box may fill the output."""
    run = Interpreter(model_content=content_of("S")).get_signature_runner()
    for value in (0, 128, 255):
        boxes = run(image=np.full([1, 320, 320, 3], value, np.uint8))["boxes"][0]
        assert len(np.unique(boxes.round(1), axis=0)) > 150


def test_same_detector_same_bytes() -> None:
    assert convert(random_detector("S"), config_of("S")) == content_of("S")


def test_runs_where_tensorflow_cannot_be_imported(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    write_tflite(content_of("S"), path)
    program = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('tensorflow', 'keras', 'tf_keras', 'tinydet_tf'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import numpy as np\n"
        "from tinydet_lite import Detector\n"
        "image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)\n"
        f"print(len(Detector({str(path)!r}, score_threshold=0.0)(image)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_forms_that_are_not_there_say_so() -> None:
    detector = random_detector("S")
    with pytest.raises(UserError, match="format 'int4' does not exist; choose from float32, float16"):
        convert(detector, config_of("S"), quantization="int4")
    with pytest.raises(UserError, match="--postprocess phone does not exist; use host or tasks"):
        convert(detector, config_of("S"), postprocess="phone")
    labels = dataclasses.replace(config_of("S"), class_names=(*NAMES[:5], "two\nlines"))
    with pytest.raises(UserError, match="one line"):
        convert(detector, labels)


def test_output_must_be_writable(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not end in \.tflite"):
        write_tflite(b"x", tmp_path / "model.bin")
    with pytest.raises(UserError, match="no folder"):
        write_tflite(b"x", tmp_path / "absent" / "m.tflite")
    assert list(tmp_path.iterdir()) == []
