"""The rewritten graph, in its two forms and in every configuration: the same function as the Keras model."""

from __future__ import annotations

import functools
from typing import Any, get_args

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.python import schema_py_generated as schema

import references
import tinydet_tf
from partners import assert_same_rows, first
from random_detectors import fit_statistics
from tinydet_tf.anchors import all_anchors
from tinydet_tf.boxes import clip, decode
from tinydet_tf.config import VARIANTS
from tinydet_tf.export.convert import to_flatbuffer
from tinydet_tf.export.graph import HostGraph
from tinydet_tf.export.rewrites import proposals, psroi, rows
from tinydet_tf.export.rewrites.pooled_depthwise import over_pooled, pool_and_convolve
from tinydet_tf.export.rewrites.positions import FloatPositions, WholePositions
from tinydet_tf.export.rewrites.trained import Convolution, as_dense
from tinydet_tf.export.rewrites.trunk import FLOAT_TILE, first_of_groups, merged
from tinydet_tf.export.schemes import Arithmetic
from tinydet_tf.layers.psroi_align import psroi_align
from tinydet_tf.model.detector import TinyDet

FORMS = pytest.mark.parametrize("arithmetic", get_args(Arithmetic))
#: float16's trunk is float32's.
TRUNKS = pytest.mark.parametrize("arithmetic", ["float32", "integer"])
CLASSES = 3


@functools.cache
def lively_detector(variant: str, **overrides: Any) -> TinyDet:
    """Random weights, BN's included, whose moving statistics fit them."""
    keras.utils.set_random_seed(4)
    detector = tinydet_tf.build_detector(variant, num_classes=CLASSES, **overrides)
    rng = np.random.default_rng(0)
    for layer in detector.pyramid.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(rng.uniform(0.7, 1.3, layer.gamma.shape))
            layer.beta.assign(rng.normal(size=layer.beta.shape) * 0.2)
    for model in (detector.pyramid, detector.rpn_head, detector.rcnn_head):
        for layer in model.layers:
            bias = getattr(layer, "bias", None)
            if bias is not None:
                bias.assign(rng.normal(size=bias.shape) * 0.1)
            if layer.name in ("rpn_score", "rcnn_score"):  # ties and flat softmaxes prove little
                layer.kernel.assign(layer.kernel * 10)
    fit_statistics(detector, picture(detector, 1), times=8)
    return detector


def picture(detector: TinyDet, seed: int) -> np.ndarray:
    size = detector.config.input_size
    rng = np.random.default_rng(seed)
    layers = [np.asarray(tf.image.resize(rng.uniform(0, 255, [1, n, n, 3]), [size, size])) for n in (3, 12, 48)]
    return np.clip(sum(layers) / 3, 0, 255).astype(np.uint8)


#: Errors behind the whole network, in pixels and in probabilities: here 4.6e-5 and 1.6e-5 (on a trained S 9.2e-5 and
#: 6.9e-6); a rewrite that computes something else moves every row by more. Of whole numbers, each box is rounded twice,
#: to a 64th of a pixel.
TOLERANCES = {"float32": (0.01, 5e-4), "integer": (0.01, 5e-4), "float16": (0.1, 0.02)}


def check(detector: TinyDet, arithmetic: Arithmetic) -> None:
    """The rewritten float graph against Keras, row by row."""
    image = picture(detector, 7)
    # In LiteRT: TensorFlow without oneDNN cannot run the grouped convolutions that the graph is made of.
    graph = to_flatbuffer(HostGraph(detector, arithmetic=arithmetic))
    outputs = Interpreter(model_content=graph).get_signature_runner()(image=image)
    expected = {name: value.numpy() for name, value in detector(image).items()}
    assert len(np.unique(expected["rois"][0], axis=0)) > 0.5 * detector.config.proposals_test
    pixels, probability = TOLERANCES[arithmetic]
    assert_same_rows(first(outputs), first(expected), pixels=pixels, probability=probability)


SMALL: dict[str, Any] = {"input_size": 128, "proposals_test": 60, "nms_pre_test": 100}


@FORMS
def test_same_function_as_keras(arithmetic: Arithmetic) -> None:
    check(lively_detector("S", **SMALL), arithmetic)


CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "M": ("M", {}),
    "no alignment": ("S", {"align": False}),
    "aligned stem": ("S", {"align_stem": True}),
    "no squeeze-excite, mean": ("S", {"squeeze_excite": False, "psroi_reduce": "mean"}),
    "conventional, one channel a bin": (
        "S", {"pyramid_conv": "conventional", "channels": 49, "fpn_groups": (1, 1, 1, 1), "rpn_groups": 1},
    ),
    "other groups": ("S", {"channels": 98, "fpn_groups": (49, 14, 2, 1), "rpn_groups": 7}),
    "every level pooled": ("S", {"roi_levels": 4, "anchor_ratios": (1.0,)}),
    "samples outside the map": ("M", {"roi_finest": 0.5}),
    "odd input": ("S", {"input_size": 192}),
    "edge": ("S", {"backbone": "edge_s", "channels": 196, "fpn_groups": (7, 7, 1, 1)}),
    "edge, not aligned": ("M", {"backbone": "edge_m", "align": False}),
    "mobilenetv2": ("M", {"backbone": "mobilenetv2"}),
    "mobilenetv3large": ("M", {"backbone": "mobilenetv3large", "align": False}),
    "mobilenetv3large, aligned": ("M", {"backbone": "mobilenetv3large"}),
    "efficientnet_lite0": ("S", {"backbone": "efficientnet_lite0", "align": False}),
    "efficientnet_lite0, aligned": ("S", {"backbone": "efficientnet_lite0"}),
}  # fmt: skip


@pytest.mark.parametrize("name, arithmetic", [("edge", "float32"), ("mobilenetv2", "integer")])
def test_other_configurations(name: str, arithmetic: Arithmetic) -> None:
    variant, overrides = CONFIGURATIONS[name]
    check(lively_detector(variant, **{**SMALL, **overrides}), arithmetic)


@pytest.mark.slow
@FORMS
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration(name: str, arithmetic: Arithmetic) -> None:
    variant, overrides = CONFIGURATIONS[name]
    check(lively_detector(variant, **{**SMALL, **overrides}), arithmetic)


@pytest.mark.slow
@FORMS
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_at_its_size(variant: str, arithmetic: Arithmetic) -> None:
    check(lively_detector(variant), arithmetic)


@TRUNKS
def test_every_operator_lies_in_a_scope(arithmetic: Arithmetic) -> None:
    """Read from the converted file: quantization selects operators by these names."""
    model = schema.ModelT.InitFromPackedBuf(
        to_flatbuffer(HostGraph(lively_detector("S", **SMALL), arithmetic=arithmetic)), 0
    )
    graph = model.subgraphs[0]
    names = [graph.tensors[op.outputs[0]].name.decode() for op in graph.operators]
    outputs = {graph.tensors[index].name.decode() for index in graph.outputs}
    scopes = {"/".join(name.split("/")[: 2 if name.startswith("trunk/") else 1]) for name in set(names) - outputs}
    blocks = [f"trunk/block{i}" for i in range(1, 17)]
    levels = [f"trunk/{part}{level}" for part in ("lateral", "fpn", "rpn") for level in range(4)]
    assert scopes == {"image", "trunk/stem", *blocks, *levels, "proposals", "table", "roi", "head", "final"}


@pytest.mark.parametrize("side", [6, 8, 20])
def test_pool_and_convolution_as_one_conv(side: int) -> None:
    rng = np.random.default_rng(side)
    x = rng.normal(size=(1, side, side, 5)).astype(np.float32)
    kernel, shift = rng.normal(size=(3, 3, 5, 1)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    pooled = tf.nn.avg_pool2d(x, 2, 1, "VALID")
    expected = tf.nn.relu(tf.nn.depthwise_conv2d(pooled, kernel, [1, 2, 2, 1], "SAME") + shift).numpy()
    y = pool_and_convolve(x, kernel, shift, tf.nn.relu).numpy()
    np.testing.assert_allclose(y, expected, atol=1e-5)  # measured 9.5e-7
    naive = tf.nn.relu(tf.nn.depthwise_conv2d(x, over_pooled(kernel), [1, 2, 2, 1], "SAME") + shift).numpy()
    difference = np.abs(naive - expected)
    assert difference[:, 1:-1, 1:-1].max() < 1e-5
    assert difference.max() > 0.1, "zeros around the map do as well: compute no border apart"


@pytest.mark.parametrize("arithmetic", [pytest.param("float32", marks=pytest.mark.slow), "integer"])
def test_widths_of_the_trunk_fill_the_runtimes_tiles(arithmetic: Arithmetic) -> None:
    """M has widths of 36, 60, 108, 180 and 245. That the outputs stay the same is test_every_configuration's."""
    content = to_flatbuffer(HostGraph(lively_detector("M", **SMALL), arithmetic=arithmetic))
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    widths: dict[int, set[int]] = {}
    for operator in graph.operators:
        shapes = [graph.tensors[index].shape for index in (*operator.inputs[:2], operator.outputs[0])]
        if model.operatorCodes[operator.opcodeIndex].builtinCode != schema.BuiltinOperator.CONV_2D or shapes[2][1] == 1:
            continue  # squeeze-and-excite has one cell
        groups = int(shapes[0][3] // shapes[1][3])
        widths.setdefault(groups, set()).add(int(shapes[2][3]) // groups)
    if arithmetic == "integer":
        assert {36, 60, 108, 180, 245} <= widths[1]
        assert widths[17] == {15} and widths[7] == {35} and widths[5] == {49} and set(widths) == {1, 5, 7, 17}
    else:
        assert {40, 64, 112, 184, 248} <= widths[1] and all(width % FLOAT_TILE == 0 for width in widths[1])
        assert widths[7] == {40} and widths[5] == {56} and set(widths) == {1, 5, 7}


@pytest.mark.parametrize("groups", [1, 5])
def test_groups_are_filled_up_and_taken_out_again(groups: int) -> None:
    rng = np.random.default_rng(groups)
    kernel, shift = rng.normal(size=(1, 1, 2, 15)).astype(np.float32), rng.normal(size=15).astype(np.float32)
    x = rng.normal(size=(1, 3, 4, 2 * groups)).astype(np.float32)
    wide = Convolution(kernel, shift).with_group_outputs(groups, 16)
    y = tf.concat([tf.nn.conv2d(part, k, 1, "VALID") for part, k in zip(
        np.split(x, groups, 3), np.split(wide.kernel, groups, 3), strict=True)], 3)  # fmt: skip
    assert y.shape[-1] == 16 * groups and np.all(y.numpy().reshape(-1, groups, 16)[..., 15 // groups :] == 0)
    expected = tf.concat([tf.nn.conv2d(part, k, 1, "VALID") for part, k in zip(
        np.split(x, groups, 3), np.split(kernel, groups, 3), strict=True)], 3)  # fmt: skip
    # Sums of two products of normal numbers, in whichever order and with one rounding or two: 4 * 2^-24 of up to 16.
    np.testing.assert_allclose(first_of_groups(y, groups, 15 // groups), expected, rtol=0, atol=4e-6)
    np.testing.assert_array_equal(first_of_groups(wide.shift[None, None, None], groups, 15 // groups)[0, 0, 0], shift)


@pytest.mark.parametrize(
    "groups, together, fewer, width", [(49, 3, 17, 15), (49, 7, 7, 35), (35, 2, 18, 14), (5, 5, 1, 245)]
)
def test_narrow_groups_are_merged(groups: int, together: int, fewer: int, width: int) -> None:
    rng = np.random.default_rng(0)
    narrow = Convolution(
        rng.normal(size=(1, 1, 245 // groups, 245)).astype(np.float32), rng.normal(size=245).astype(np.float32)
    )
    wide, count = merged(narrow, groups, together)
    assert (count, wide.kernel.shape[2]) == (fewer, width)
    dense = as_dense(wide.kernel, count)
    np.testing.assert_array_equal(dense[:245, :245], as_dense(narrow.kernel, groups))
    np.testing.assert_array_equal(wide.shift[:245], narrow.shift)
    assert not dense[245:].any()
    # What is cut off again has the weights of its neighbour: integers would have no scale for zeros.
    assert (dense[:, 245:] == dense[:, 244:245]).all() and (wide.shift[245:] == wide.shift[244]).all()


def rois_of(size: int, count: int, seed: int) -> np.ndarray:
    """Any size, clipped to the image, and among them points and lines on its borders."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-40, size + 40, (count, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], -1)
    boxes[: count // 2, 2:] = boxes[: count // 2, :2] + rng.uniform(0, 30, (count // 2, 2))
    last = size - 1
    boxes[:6] = [[last] * 4, [0] * 4, [0, 0, last, last], [last, 0, last, last], [5, 5, 5, 5], [0, last, last, last]]
    return np.clip(boxes, 0, last).astype(np.float32)


@pytest.mark.parametrize("reduce", ["max", "mean"])
@pytest.mark.parametrize("cut", [rows.bins, rows.single_channels], ids=lambda f: f.__name__)
@pytest.mark.parametrize("variant, channels", [("S", 245), ("M", 245), ("L", 98)])
def test_pooling(variant: str, channels: int, cut: Any, reduce: str) -> None:
    overrides = {"channels": channels, "psroi_reduce": reduce, "fpn_groups": (1,) * len(VARIANTS[variant].strides)}
    detector_config = tinydet_tf.config.model_config(variant, **overrides)
    levels = detector_config.roi_levels
    rng = np.random.default_rng(0)
    features = [tf.constant(rng.normal(size=(1, n, n, channels)), tf.float32) for n in detector_config.level_sizes]
    rois = tf.constant(rois_of(detector_config.input_size, 150, 3))
    how = cut(channels)
    assert rows.samples_stay_inside(detector_config)
    expected = psroi_align(
        features[:levels],
        rois,
        np.zeros(len(rois), np.int32),
        strides=detector_config.strides[:levels],
        finest=detector_config.roi_finest,
        reduce=reduce,
    ).numpy()
    positions = FloatPositions(detector_config.input_size)
    pooled = psroi.pool(features[:levels], rois, detector_config, how, positions).numpy()
    # crop_and_resize divides positions by the map's size and multiplies again: at up to 80 cells each of a few float32
    # operations is off by 80 * 2^-24 = 5e-6 of a cell at most, and neighbours of normal features differ by up to 8.
    np.testing.assert_allclose(pooled, expected[:, how.channel_of.reshape(-1)], atol=4 * 5e-6 * 8)


@pytest.mark.parametrize("size", [320, 640])
@pytest.mark.parametrize("variant", VARIANTS)
def test_pooling_by_whole_numbers(variant: str, size: int) -> None:
    config = tinydet_tf.config.model_config(variant, input_size=size)
    rng = np.random.default_rng(0)
    levels = range(config.roi_levels)
    features = [tf.constant(rng.normal(size=(1, n, n, 245)), tf.float32) for n in config.level_sizes[: len(levels)]]
    positions, how = WholePositions(size), rows.table_rows(config)
    assert positions.unit == {320: 64, 640: 32}[size]
    rois = np.round(rois_of(size, 150, 3) * positions.unit)
    pixels, which = (rois / positions.unit).astype(np.float32), np.zeros(len(rois), np.int32)
    options: dict[str, Any] = {"finest": config.roi_finest, "reduce": config.psroi_reduce}
    expected = psroi_align(features, pixels, which, strides=config.strides[: len(levels)], **options).numpy()
    pooled = psroi.pool(features, tf.constant(rois, tf.int32), config, how, positions).numpy()
    # Samples lie on a grid of 1 / (4 * unit * stride / finest) cells; neighbours of normal features differ by up to 8.
    np.testing.assert_allclose(pooled, expected[:, how.channel_of.reshape(-1)], atol=4 * 8 / (4 * positions.unit * 4))


@pytest.mark.parametrize("positions", [FloatPositions(320), WholePositions(320)], ids=lambda p: type(p).__name__)
def test_boxes_move_as_in_the_model(positions: Any) -> None:
    """Boxes anywhere, deltas of any size that move them by less than the image."""
    rng = np.random.default_rng(2)
    boxes = np.round(rois_of(320, 400, 1))
    deltas = (rng.normal(size=[400, 4]) * rng.choice([0.1, 1, 20], [400, 1])).astype(np.float32)
    stds = (0.1, 0.1, 0.2, 0.2)
    deltas[:, :2] = deltas[:, :2].clip(-10, 10) * np.minimum(1, 320 / (boxes[:, 2:] - boxes[:, :2] + 1))
    expected = clip(decode(boxes, deltas, stds), 320).numpy()
    moved = positions.decode(positions.constant(boxes), tf.constant(deltas), stds)
    assert np.abs(moved.numpy() / positions.unit - expected).max() < (1e-3 if positions.unit == 1 else 1.5 / 64)
    np.testing.assert_array_equal(positions.shares(moved).numpy(), moved.numpy() / np.float32(positions.unit))


def test_small_tables_are_transposed() -> None:
    assert {v: rows.table_rows(VARIANTS[v]).transposed for v in VARIANTS} == {"S": True, "M": True, "L": False}


def test_a_table_that_float32_cannot_number_is_refused() -> None:
    large = tinydet_tf.config.model_config("L", input_size=1024)
    assert rows.table_rows(large).transposed, "single channels are too many, bins are not"
    with pytest.raises(ValueError, match="use a smaller input"):
        rows.table_rows(tinydet_tf.config.model_config("L", input_size=4096))


@pytest.mark.parametrize("cut", [rows.bins, rows.single_channels], ids=lambda f: f.__name__)
def test_samples_outside_the_map_are_zeros(cut: Any) -> None:
    """RoIs of a point on level 2: raised to 0.1 cells they reach out of the map."""
    config = tinydet_tf.config.model_config("M", roi_finest=0.2, psroi_reduce="mean")
    assert not rows.samples_stay_inside(config)
    features = [tf.ones([1, n, n, 245]) for n in config.level_sizes[:3]]
    rois = tf.constant([[319.0, 319, 319, 319], [318, 300, 319, 319]])
    expected = psroi_align(features, rois, [0, 0], strides=config.strides[:3], finest=0.2, reduce="mean").numpy()
    how = cut(245)
    pooled = psroi.pool(features, rois, config, how, FloatPositions(320)).numpy()
    whole = WholePositions(320)
    units = tf.cast(rois * whole.unit, tf.int32)
    np.testing.assert_allclose(psroi.pool(features, units, config, how, whole), pooled, atol=0.01)
    assert expected.min() < 0.9, "nothing lies outside: the test shows nothing"
    np.testing.assert_allclose(pooled, expected[:, how.channel_of.reshape(-1)], atol=1e-5)


SIZE = 128
ANCHORS = all_anchors((16, 8, 4, 2), (8, 16, 32, 64), 2.25, (0.5, 1.0, 2.0))
OPTIONS: dict[str, Any] = {"image_size": SIZE, "nms_pre": 200, "max_proposals": 60, "iou_threshold": 0.7}


def rpn_outputs(case: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(5)
    logits = [rng.normal(size=len(a)).astype(np.float32) for a in ANCHORS]
    deltas = [(rng.normal(size=a.shape) * 0.4).astype(np.float32) for a in ANCHORS]
    if case == "no area":  # the best are pushed out of the image: clipped, they are lines and points on its border
        for level in range(len(ANCHORS)):
            deltas[level][::3, 0] = 40.0
            deltas[level][1::3, 1] = -40.0
            deltas[level][::5] = [-50.0, 60.0, -9.0, -9.0]
            logits[level][::3] += 20.0
    if case == "tied":
        logits = [np.full(len(a), 30.0, np.float32) for a in ANCHORS]
    if case == "tied by rounding":  # as int8 ties them; 40 and 50 have the same sigmoid, 1.0
        logits = [rng.choice([40.0, 50.0, 60.0], len(a)).astype(np.float32) for a in ANCHORS]
    return logits, deltas


@pytest.mark.parametrize("positions", [FloatPositions(SIZE), WholePositions(SIZE)], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("case", ["random", "no area", "tied", "tied by rounding"])
def test_proposals_in_tflite(case: str, positions: Any) -> None:
    """LiteRT's NMS repeats a zero-area box until the output is full and orders ties as it likes: neither may happen."""
    logits, deltas = rpn_outputs(case)
    levels = range(len(ANCHORS))

    class Graph(tf.Module):
        @tf.function(autograph=False)
        def serve(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            rois, valid = proposals.select_proposals(
                [inputs[f"logits{i}"] for i in levels],
                [inputs[f"deltas{i}"] for i in levels],
                ANCHORS,
                ratios=3,
                **OPTIONS,
                positions=positions,
            )
            return {"rois": positions.shares(rois), "valid": valid}

    graph = Graph()
    values = {f"{kind}{i}": v for kind, vs in (("logits", logits), ("deltas", deltas)) for i, v in enumerate(vs)}
    specs = {name: tf.TensorSpec(v.shape, tf.float32, name=name) for name, v in values.items()}
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.serve.get_concrete_function(**specs)], graph)
    interpreter = Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        name = next(n for n in values if n in detail["name"])
        interpreter.set_tensor(detail["index"], values[name])
    interpreter.invoke()
    results = [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]
    rois, valid = sorted(results, key=lambda r: -r.ndim)
    expected = references.select_proposals(logits, deltas, ANCHORS, **OPTIONS)
    if positions.unit == 1:
        assert valid.sum() == len(expected)
        np.testing.assert_allclose(rois[: len(expected)], expected, atol=1e-3)  # measured 7.6e-6
    else:  # rounded, two that overlap by nearly the threshold may come out otherwise, and with them what follows
        found = rois[valid > 0]
        distance = np.abs(found[:, None] - expected[None]).max(-1)
        for axis in (0, 1):
            assert (distance.min(axis) < 2 / positions.unit).mean() > 0.95
    assert len(np.unique(rois, axis=0)) > 0.9 * len(expected), "one box over and over"


@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_a_uniform_image_gives_many_different_proposals(quantization: str) -> None:
    """Everything ties and boxes pile up at the borders there, in the whole rewritten graph, in the runtime."""
    detector = lively_detector("S", **SMALL)
    run = Interpreter(
        model_content=to_flatbuffer(HostGraph(detector, arithmetic="integer" if quantization == "int8" else "float32"))
    ).get_signature_runner()
    for value in (0, 255):
        boxes = run(image=np.full([1, 128, 128, 3], value, np.uint8))["boxes"][0]
        assert len(np.unique(boxes.round(1), axis=0)) > 45
