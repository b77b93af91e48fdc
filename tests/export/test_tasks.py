"""The tasks form: its outputs against a slow soft-NMS on the host form's, the kernel's traps, and its TFLite metadata.

P proposals, C classes, K candidates, N detections.
"""

from __future__ import annotations

import functools
import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from flatbuffers import encode, number_types
from flatbuffers.table import Table

import tinydet_tf
from commands import Command
from random_detectors import fit_statistics
from tinydet_lite import Detector
from tinydet_lite.errors import UserError
from tinydet_lite.metadata import parse_model
from tinydet_lite.postprocess import postprocess
from tinydet_tf.config import Config
from tinydet_tf.export.calibration import CalibrationImages, observe
from tinydet_tf.export.convert import export, to_flatbuffer, with_metadata, write_tflite
from tinydet_tf.export.graph import build_graph
from tinydet_tf.export.quantize import observed_tensors, quantize
from tinydet_tf.export.rewrites.positions import FloatPositions, Positions, WholePositions
from tinydet_tf.export.schemes import FORMATS, Arithmetic, scheme_named
from tinydet_tf.export.suppression import CANDIDATES, IOU_THRESHOLD, MIN_SIDE, SIGMA, soft_nms
from tinydet_tf.model.detector import TinyDet

SIZE, NAMES = 64, ("cat", "dog", "traffic light")
N = 100


# Soft-NMS one box at a time, to compare with.


def overlap(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (area_a + area_b - width * height)


def reference(boxes: np.ndarray, probs: np.ndarray, size: int, pixel: tuple[float, float] = (1.0, 1.0)) -> list[Any]:
    """[(score, class, box in pixels)], best first."""
    clipped = []
    for x1, y1, x2, y2 in boxes.astype(np.float64).tolist():
        x1, y1 = min(max(x1, 0.0), size - MIN_SIDE), min(max(y1, 0.0), size - MIN_SIDE)
        x2, y2 = max(x2 + pixel[0], x1 + MIN_SIDE), max(y2 + pixel[1], y1 + MIN_SIDE)
        clipped.append([x1, y1, min(x2, size), min(y2, size)])
    pairs = [(-float(p), i * (probs.shape[1] - 1) + c) for i, row in enumerate(probs[:, 1:]) for c, p in enumerate(row)]
    pairs = sorted(pairs)[:CANDIDATES]
    waiting = []
    for place, (negative, index) in enumerate(pairs):
        proposal, class_id = divmod(index, probs.shape[1] - 1)
        if -negative > 0.01:
            waiting.append([-negative - place * 2.0**-24, class_id, clipped[proposal]])
    found = []
    while waiting and len(found) < min(N, probs.shape[0] * (probs.shape[1] - 1)):
        best = max(waiting, key=lambda one: one[0])
        found.append(tuple(best))
        rest = []
        for one in waiting:
            if one is best:
                continue
            score = one[0]
            if one[1] == best[1]:
                iou = overlap(one[2], best[2])
                score = 0.0 if iou >= IOU_THRESHOLD else score * math.exp(-0.5 * iou**2 / SIGMA)
            if score > 1e-3:
                rest.append([score, *one[1:]])
        waiting = rest
    return found


def check(outputs: dict[str, np.ndarray], expected: list[Any], size: int, rows: int = N) -> None:
    """The four outputs, as MediaPipe sees them, against a reference."""
    shapes = {name: (value.shape, value.dtype) for name, value in outputs.items()}
    assert shapes == {
        "location": ((1, rows, 4), np.float32), "category": ((1, rows), np.float32),
        "score": ((1, rows), np.float32), "count": ((1,), np.float32),
    }  # fmt: skip
    location, category, score = (outputs[name][0] for name in ("location", "category", "score"))
    count = int(outputs["count"][0])
    assert count == len(expected) <= rows
    for array in (location, category, score):
        assert not array[count:].any()
    assert (np.diff(score) <= 0).all()
    assert location.min() >= 0 and location.max() <= 1
    assert (location[:count, 2:] > location[:count, :2]).all()
    boxes = location[:, [1, 0, 3, 2]] * size
    # Two of nearly equal score may change places: each finds its own, by class and box.
    for index in range(count):
        near = [
            max(abs(score[index] - s), np.abs(boxes[index] - b).max() / size)
            for s, c, b in expected
            if c == category[index]
        ]
        assert min(near) < 1e-4  # measured: 6.1e-6, the scores below as much
    np.testing.assert_allclose(score[:count], [s for s, _, _ in expected], atol=1e-4)


# Soft-NMS alone.


@functools.cache
def suppression(
    proposals: int, classes: int, pixel: tuple[float, float] = (1.0, 1.0), whole: bool = False
) -> Interpreter:
    """A .tflite of boxes and probabilities -> the four outputs, for an input of 320 pixels."""
    positions: Positions = WholePositions(320) if whole else FloatPositions(320)
    spec = [tf.TensorSpec([proposals, 4], name="boxes"), tf.TensorSpec([proposals, classes + 1], name="probs")]

    @tf.function(input_signature=spec, autograph=False)
    def run(boxes: tf.Tensor, probs: tf.Tensor) -> dict[str, tf.Tensor]:
        own = tf.cast(boxes * positions.unit, tf.int32) if whole else boxes
        found = soft_nms(own, probs, image_size=320, positions=positions, pixel=pixel)
        location = positions.shares(tf.gather(found.boxes, [1, 0, 3, 2], axis=1), 320)
        return {
            "location": location[None], "category": found.class_ids[None], "score": found.scores[None],
            "count": found.count,
        }  # fmt: skip

    module = tf.Module()
    module.run = run
    converter = tf.lite.TFLiteConverter.from_concrete_functions([run.get_concrete_function()], module)
    return Interpreter(model_content=converter.convert())


def suppress(boxes: np.ndarray, probs: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
    runner = suppression(len(boxes), probs.shape[1] - 1, **options).get_signature_runner()
    return dict(runner(boxes=boxes.astype(np.float32), probs=probs.astype(np.float32)))


def crowd(proposals: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in heaps, some over the border, and probabilities that sum to 1."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 320, [12, 4])[rng.integers(0, 12, proposals)]
    low = centres[:, :2] + rng.normal(size=[proposals, 2]) * 4
    boxes = np.concatenate([low, low + 8 + 60 * rng.uniform(size=[proposals, 2]) * centres[:, 2:] / 320], 1)
    logits = rng.normal(size=[proposals, classes + 1]) * 3
    return boxes.clip(0, 319), np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [1, 3, 90])
def test_soft_nms_equals_the_slow_one(classes: int) -> None:
    boxes, probs = crowd(200, classes, 1)
    expected = reference(np.float32(boxes), np.float32(probs), 320)
    assert len(expected) > 20
    check(suppress(boxes, probs), expected, 320)


@pytest.mark.parametrize("classes", [3, 90])
def test_of_whole_numbers_it_is_the_same(classes: int) -> None:
    boxes, probs = crowd(200, classes, 1)
    boxes = np.floor(boxes * 64) / 64
    expected = reference(np.float32(boxes), np.float32(probs), 320)
    check(suppress(boxes, probs, whole=True), expected, 320)
    boxes, probs = crowd(200, 3, 2)
    boxes, probs = np.floor(boxes * 64) / 64, np.round(probs * 8) / 8
    boxes[7], probs[7] = [50, 50, 49, 80], [0, 1, 0, 0]
    check(suppress(boxes, probs, whole=True), reference(np.float32(boxes), np.float32(probs), 320), 320)


def test_ties_are_broken_by_index() -> None:
    """Probabilities of an int8 head: few different values, most of them shared."""
    boxes, probs = crowd(200, 3, 2)
    probs = np.round(probs * 8) / 8
    check(suppress(boxes, probs), reference(np.float32(boxes), np.float32(probs), 320), 320)
    everything = np.tile([0.0, 1.0, 0.0, 0.0], [200, 1])
    check(suppress(boxes, everything), reference(np.float32(boxes), everything, 320), 320)


@pytest.mark.parametrize("box", [[50, 50, 49, 80], [50, 50, 20, 20], [400, 50, 500, 80], [-9, -9, -2, -2]])
def test_a_box_without_area_does_not_fill_the_output(box: list[float]) -> None:
    boxes, probs = crowd(200, 3, 3)
    boxes[7], probs[7] = box, [0, 1, 0, 0]
    outputs = suppress(boxes, probs)
    check(outputs, reference(np.float32(boxes), np.float32(probs), 320), 320)
    rows = np.concatenate([outputs["location"][0], outputs["category"][0][:, None]], 1)[: int(outputs["count"][0])]
    assert len(np.unique(rows, axis=0)) == len(rows) > 50


def test_equal_boxes_leave_one_a_class() -> None:
    outputs = suppress(np.tile([10.0, 20.0, 29.0, 49.0], [80, 1]), np.tile([0.1, 0.3, 0.4, 0.2], [80, 1]))
    assert outputs["count"].tolist() == [3.0]
    assert outputs["category"][0, :3].tolist() == [1.0, 0.0, 2.0]
    # Each is lowered by its place.
    np.testing.assert_allclose(outputs["score"][0, :3], [0.4, 0.3, 0.2], atol=1.5e-5)
    np.testing.assert_allclose(outputs["location"][0, :3] * 320, np.tile([20, 10, 50, 30], [3, 1]), atol=1e-3)


def test_an_empty_scene_is_all_zeros() -> None:
    outputs = suppress(np.zeros([200, 4]), np.tile([1.0, 0, 0, 0], [200, 1]))
    assert not any(value.any() for value in outputs.values())


def test_few_pairs_give_few_rows() -> None:
    boxes, probs = crowd(20, 1, 4)
    check(suppress(boxes, probs), reference(np.float32(boxes), np.float32(probs), 320), 320, rows=20)


def test_boxes_are_exact_for_pictures_of_the_size_it_was_made_for() -> None:
    """As the host form gives them, which sees the picture's size; for others an edge is off by part of a pixel."""
    boxes, probs = np.zeros([200, 4]), np.tile([1.0, 0, 0, 0], [200, 1])
    boxes[0], probs[0] = [40, 30, 79, 89], [0, 0, 1, 0]
    host = postprocess(boxes, probs, (640, 480), 320)
    exact = suppress(boxes, probs, pixel=(0.5, 320 / 480))["location"][0, 0, [1, 0, 3, 2]] * [640, 480, 640, 480]
    np.testing.assert_allclose(exact, host.boxes[0], atol=1e-3)  # measured: 6.7e-6
    square = suppress(boxes, probs)["location"][0, 0, [1, 0, 3, 2]] * [640, 480, 640, 480]
    np.testing.assert_allclose(square - host.boxes[0], [0, 0, 1, 0.5], atol=1e-3)


# The whole detector.


def detector(variant: str = "S") -> TinyDet:
    return lively(variant)  # functools.cache would take detector() and detector("S") for two


@functools.cache
def lively(variant: str) -> TinyDet:
    """Random weights whose moving statistics fit them, with spread scores."""
    keras.utils.set_random_seed(4)
    model = tinydet_tf.build_detector(variant, num_classes=len(NAMES), input_size=SIZE)
    for layer in model.rpn_head.layers + model.rcnn_head.layers:
        if layer.name in ("rpn_score", "rcnn_score"):
            layer.kernel.assign(layer.kernel * 10)
    fit_statistics(model, images(2), times=8)
    return model


def config(variant: str = "S") -> Config:
    return Config(variant=variant, model=detector(variant).config, class_names=NAMES, category_ids=(3, 1, 10))


def images(count: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(0, 255, [count, 12, 12, 3])
    return np.asarray(tf.clip_by_value(tf.image.resize(coarse, [SIZE, SIZE], "bicubic"), 0, 255)).astype(np.uint8)


def samples() -> CalibrationImages:
    return CalibrationImages(images(4, 1), (1, 2, 3, 4), ("a", "b", "c", "d"), "4 of 4 images of test.json", 0)


@functools.cache
def flatbuffer(postprocess: str, arithmetic: Arithmetic, variant: str) -> bytes:
    return to_flatbuffer(build_graph(detector(variant), postprocess, arithmetic=arithmetic))


@functools.cache
def observations(variant: str) -> Any:
    """Of the host's graph alone."""
    host = flatbuffer("host", "integer", variant)
    return observe(host, samples(), observed_tensors(host))


@functools.cache
def model(postprocess: str, name: str, variant: str) -> bytes:
    """As `export` makes it, but that ranges are those of the host's graph, as quantization-aware runs keep them."""
    scheme = scheme_named(name)
    known = observations(variant) if scheme.integer else None
    return quantize(flatbuffer(postprocess, scheme.arithmetic, variant), scheme, samples(), observations=known).model


@functools.cache
def content() -> bytes:
    """The whole file."""
    return with_metadata(model("tasks", "int8", "S"), detector(), config(), "int8", None, "tasks")


def run(model: bytes, image: np.ndarray) -> dict[str, np.ndarray]:
    return dict(Interpreter(model_content=model).get_signature_runner()(image=image[None]))


def check_against_host(name: str, variant: str = "S") -> None:
    for image in images(3, 5):
        outputs = run(model("host", name, variant), image)
        expected = reference(outputs["boxes"][0], outputs["class_probs"][0], SIZE)
        assert len(expected) > 10
        check(run(model("tasks", name, variant), image), expected, SIZE)


def test_the_file_does_the_same_on_the_host_forms_outputs() -> None:
    check_against_host("int8")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "int8"])
def test_every_format_does_the_same(name: str) -> None:
    check_against_host(name)


@pytest.mark.slow
def test_a_larger_variant_does_the_same() -> None:
    check_against_host("float32", "M")


def test_the_new_part_is_float() -> None:
    parsed = schema.ModelT.InitFromPackedBuf(content(), 0)
    (graph,) = parsed.subgraphs
    final = [tensor for tensor in graph.tensors if tensor.name.startswith(b"final/")]
    integers = (schema.TensorType.INT8, schema.TensorType.INT16, schema.TensorType.UINT8)
    assert len(final) > 20 and not any(tensor.type in integers for tensor in final)
    operators = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in parsed.operatorCodes]
    assert schema.BuiltinOperator.NON_MAX_SUPPRESSION_V5 in operators


# What the file says about itself.


class Read:
    """A flatbuffer table by slot numbers, read without the code that wrote it."""

    def __init__(self, content: bytes, position: int | None = None) -> None:
        self.content = content
        start = encode.Get(number_types.UOffsetTFlags.packer_type, content, 0) if position is None else position
        self.table = Table(content, start)

    def _at(self, slot: int) -> int:
        return int(self.table.Offset(4 + 2 * slot))

    def number(self, slot: int, flags: Any = number_types.Int8Flags) -> Any:
        at = self._at(slot)
        return self.table.Get(flags, self.table.Pos + at) if at else 0

    def text(self, slot: int) -> str:
        return str(self.table.String(self.table.Pos + self._at(slot)).decode())

    def child(self, slot: int) -> Read | None:
        at = self._at(slot)
        return Read(self.content, int(self.table.Indirect(self.table.Pos + at))) if at else None

    def children(self, slot: int) -> list[Read]:
        at = self._at(slot)
        if not at:
            return []
        start = int(self.table.Vector(at))
        return [
            Read(self.content, int(self.table.Indirect(start + 4 * i))) for i in range(int(self.table.VectorLen(at)))
        ]

    def texts(self, slot: int) -> list[str]:
        at = self._at(slot)
        start = int(self.table.Vector(at))
        return [self.table.String(start + 4 * i).decode() for i in range(int(self.table.VectorLen(at)))]

    def numbers(self, slot: int, flags: Any) -> list[Any]:
        at = self._at(slot)
        return self.table.GetVectorAsNumpy(flags, at).tolist() if at else []


def metadata(whole: bytes | None = None) -> tuple[schema.ModelT, Read]:
    parsed = schema.ModelT.InitFromPackedBuf(content() if whole is None else whole, 0)
    entries = {entry.name: entry.buffer for entry in parsed.metadata}
    assert b"min_runtime_version" in entries  # the converter's own are still there
    inside = bytes(parsed.buffers[entries[b"TFLITE_METADATA"]].data)
    assert inside[4:8] == b"M001"
    return parsed, Read(inside)


def test_metadata_of_the_model() -> None:
    _, model = metadata()
    assert model.text(0) == "TinyDet-S"
    assert model.text(1) == "Finds objects of 3 classes in a picture. int8."
    assert model.text(2) == f"tinydet-tf {tinydet_tf.__version__}"
    assert model.text(7) == "1.2.0"
    (subgraph,) = model.children(3)
    (group,) = subgraph.children(8)
    assert group.text(0) == "detection_result" and group.texts(1) == ["location", "category", "score"]


def test_metadata_of_the_input() -> None:
    _, model = metadata()
    (image,) = model.children(3)[0].children(2)
    assert image.text(0) == "image"
    kind, properties = image.child(3).number(0), image.child(3).child(1)
    assert kind == 2 and properties.number(0) == 1  # ImageProperties, RGB
    sides = properties.child(1)
    assert [sides.number(slot, number_types.Uint32Flags) for slot in (0, 1)] == [SIZE, SIZE]
    (unit,) = image.children(4)
    assert unit.number(0) == 1  # NormalizationOptions
    assert [unit.child(1).numbers(slot, number_types.Float32Flags) for slot in (0, 1)] == [[0.0], [1.0]]
    stats = image.child(5)
    assert [stats.numbers(slot, number_types.Float32Flags) for slot in (0, 1)] == [[255.0], [0.0]]


def test_metadata_of_the_outputs() -> None:
    parsed, model = metadata()
    outputs = model.children(3)[0].children(3)
    assert [output.text(0) for output in outputs] == ["location", "category", "score", "number of detections"]
    # In the order of the graph's own outputs, which is the one that clients without metadata expect.
    (graph,) = parsed.subgraphs
    assert [graph.tensors[i].shape.tolist() for i in graph.outputs] == [[1, N, 4], [1, N], [1, N], [1]]
    names = {output.tensorIndex: output.name for output in parsed.signatureDefs[0].outputs}
    assert [names[i] for i in graph.outputs] == [b"location", b"category", b"score", b"count"]
    assert all(graph.tensors[i].name for i in [*graph.inputs, *graph.outputs])
    location, category, score, count = outputs
    assert [output.child(3).number(0) for output in outputs] == [3, 1, 1, 1]  # BoundingBoxProperties, FeatureProperties
    corners = location.child(3).child(1)
    assert corners.numbers(0, number_types.Uint32Flags) == [1, 0, 3, 2]
    assert (corners.number(1), corners.number(2)) == (1, 0)  # BOUNDARIES, RATIO
    for output in (location, category, score):
        rows = output.child(3).child(2)
        assert [rows.number(slot, number_types.Int32Flags) for slot in (0, 1)] == [2, 2]
    assert count.child(3).child(2) is None
    (labels,) = category.children(6)
    assert labels.text(0) == "labels.txt" and labels.number(2) == 3  # TENSOR_VALUE_LABELS
    (unit,) = score.children(4)
    assert unit.number(0) == 3  # ScoreThresholdingOptions
    assert unit.child(1).number(0, number_types.Float32Flags) == pytest.approx(0.3)


def test_the_score_threshold_is_what_the_run_suggests() -> None:
    whole = with_metadata(model("tasks", "int8", "S"), detector(), config(), "int8", None, "tasks", 0.42)
    score = metadata(whole)[1].children(3)[0].children(3)[2]
    assert score.children(4)[0].child(1).number(0, number_types.Float32Flags) == pytest.approx(0.42)
    assert parse_model(whole, "it").info.suggested_threshold == 0.42


def test_labels_and_tinydet_json_lie_behind_it() -> None:
    with zipfile.ZipFile(io.BytesIO(content())) as archive:
        assert archive.read("labels.txt").decode().split("\n") == [*NAMES, ""]
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
    file = parse_model(content(), "it")
    assert file.labels == NAMES and file.info.category_ids == (3, 1, 10) and file.info.postprocess == "tasks"


def test_one_graph_of_builtin_operators_and_static_shapes() -> None:
    parsed = schema.ModelT.InitFromPackedBuf(content(), 0)
    assert len(parsed.subgraphs) == 1
    assert all(code.customCode is None for code in parsed.operatorCodes)
    tensors = parsed.subgraphs[0].tensors
    assert all(t.shapeSignature is None or (np.asarray(t.shapeSignature) >= 0).all() for t in tensors)


def test_the_wrapper_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    write_tflite(content(), path)
    image = images(1, 8)[0]
    outputs = run(content(), image)
    count = int(outputs["count"][0])
    found = Detector(path, score_threshold=0.0)(image)
    assert len(found) == count > 10
    np.testing.assert_allclose(found.boxes, outputs["location"][0, :count][:, [1, 0, 3, 2]] * SIZE, rtol=1e-6)
    np.testing.assert_array_equal(found.scores, outputs["score"][0, :count])
    assert found.names == tuple(NAMES[int(c)] for c in outputs["category"][0, :count])
    wide = Detector(path, score_threshold=0.0, max_detections=5)(np.repeat(image, 3, axis=1)[:, : 2 * SIZE])
    assert len(wide) == 5 and wide.boxes[:, 2].max() > SIZE
    middle = float(found.scores[count // 2])
    assert Detector(path, score_threshold=middle)(image).scores.min() >= np.float32(middle)
    assert Detector(path).iou_threshold is None
    with pytest.raises(UserError, match=r"iou_threshold 0.5 came for a file of --postprocess tasks.*leave it out"):
        Detector(path, iou_threshold=0.5)


def test_what_does_not_fit_says_so() -> None:
    options = {"scheme": scheme_named("float32")}
    with pytest.raises(UserError, match="--postprocess phone does not exist; use host or tasks"):
        export(detector(), config(), postprocess="phone", **options)
    with pytest.raises(UserError, match="--picture-size is for --postprocess tasks"):
        export(detector(), config(), picture_size=(640, 480), **options)
    with pytest.raises(UserError, match="--picture-size 640x0 came; give at least 1x1"):
        export(detector(), config(), postprocess="tasks", picture_size=(640, 0), **options)


def test_the_command_refuses_sizes_that_are_none(command: Command, tmp_path: Path) -> None:
    arguments = ("export.py", "--model", "x", "--output", tmp_path / "x.tflite", "--picture-size")
    command(*arguments, "640x480").assert_refused_alone("--picture-size is for --postprocess tasks")
    command(*arguments, "640", "--postprocess", "tasks").assert_refused("'640' is not WxH in pixels")
    command(*arguments, "0x480", "--postprocess", "tasks").assert_refused("'0x480' is not WxH in pixels")
