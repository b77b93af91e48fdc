"""Quantized files: the same outside, int8 where it was asked for, float where it must be, near float32's numbers."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

import tinydet_tf
from random_detectors import convert, fit_statistics
from tinydet_lite import Detector
from tinydet_lite.errors import UserError
from tinydet_lite.metadata import parse_model
from tinydet_tf.config import Config
from tinydet_tf.export.calibration import Calibration, CalibrationImages
from tinydet_tf.export.convert import export, to_flatbuffer, write_tflite
from tinydet_tf.export.graph import HostGraph
from tinydet_tf.export.operators import Operator, builtin_code, operators
from tinydet_tf.export.packing import read, write
from tinydet_tf.export.quantize import Quantized, quantize
from tinydet_tf.export.schemes import FORMATS, Scheme, in_scopes, scheme_named
from tinydet_tf.export.shared_ranges import shared
from tinydet_tf.model.detector import TinyDet

SIZE, NAMES = 128, ("cat", "dog")
_GATHER = schema.BuiltinOperator.GATHER


@functools.cache
def detector() -> TinyDet:
    """Random weights whose moving statistics fit them."""
    keras.utils.set_random_seed(4)
    model = tinydet_tf.build_detector("S", num_classes=len(NAMES), input_size=SIZE)
    fit_statistics(model, images(2), times=10)
    return model


def config() -> Config:
    return Config(variant="S", model=detector().config, class_names=NAMES, category_ids=(1, 2))


def images(count: int, seed: int = 0, size: int = SIZE) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(0, 255, [count, 8, 8, 3])
    return np.asarray(tf.clip_by_value(tf.image.resize(coarse, [size, size], "bicubic"), 0, 255)).astype(np.uint8)


def samples(size: int = SIZE) -> CalibrationImages:
    return CalibrationImages(images(4, 1, size), (1, 2, 3, 4), ("a", "b", "c", "d"), "4 of 4 images of test.json", 0)


@functools.cache
def integer_form() -> bytes:
    """The float .tflite that int8 and int16 begin with."""
    return to_flatbuffer(HostGraph(detector(), arithmetic="integer"))


@functools.cache
def exported(name: str) -> Quantized:
    return export(detector(), config(), FORMATS[name], samples=samples())


def content(name: str) -> bytes:
    return exported(name).model


def kept() -> Calibration:
    calibration = exported("int8").calibration
    assert calibration is not None and calibration.factors and calibration.biases
    return calibration


@pytest.fixture(params=[name for name in FORMATS if name != "float32"])
def quantized(request: pytest.FixtureRequest) -> tuple[str, bytes]:
    return request.param, content(request.param)


def graph_of(model: bytes) -> tuple[schema.ModelT, schema.SubGraphT]:
    parsed = schema.ModelT.InitFromPackedBuf(model, 0)
    assert len(parsed.subgraphs) == 1
    return parsed, parsed.subgraphs[0]


def test_the_outside_stays(quantized: tuple[str, bytes], tmp_path: Path) -> None:
    name, model = quantized
    parsed, _ = graph_of(model)
    assert all(code.customCode is None for code in parsed.operatorCodes)
    runner = Interpreter(model_content=model).get_signature_runner()
    (image,) = runner.get_input_details().items()
    assert image[0] == "image" and image[1]["dtype"] == np.uint8
    assert {k: v["dtype"] for k, v in runner.get_output_details().items()} == {
        "boxes": np.float32, "class_probs": np.float32,
    }  # fmt: skip
    assert parse_model(model, "it").info.quantization == name
    path = tmp_path / "m.tflite"
    write_tflite(model, path)
    assert len(Detector(path, score_threshold=0.0)(images(1)[0])) > 0


def test_weights_are_where_they_should_be(quantized: tuple[str, bytes]) -> None:
    name, model = quantized
    parsed, graph = graph_of(model)
    of_type = {schema.TensorType.INT8: "int8", schema.TensorType.FLOAT16: "float16"}
    wanted = FORMATS[name].weights
    kernels = [t for t in graph.tensors if len(t.shape) == 4 and parsed.buffers[t.buffer].data is not None]
    shares = {wanted: 0, "other": 0}
    for tensor in kernels:
        shares[wanted if of_type.get(tensor.type) == wanted else "other"] += int(np.prod(tensor.shape))
    assert shares["other"] <= 0.08 * shares[wanted]  # dynamic: depthwise kernels are float16, measured 0.06
    if wanted == "int8":  # a scale a channel
        assert any(t.quantization.scale is not None and len(t.quantization.scale) > 100 for t in kernels)


@pytest.mark.parametrize("name", ["int8", "int16"])
def test_boxes_scores_and_coordinates_stay_float(name: str) -> None:
    _, graph = graph_of(content(name))
    integers = (schema.TensorType.INT8, schema.TensorType.INT16)
    for tensor in graph.tensors:
        if tensor.type in integers and tensor.quantization.scale is not None:
            assert not in_scopes(tensor.name.decode(), ("proposals", "final")), tensor.name


def test_a_pixel_is_an_int8() -> None:
    parsed, graph = graph_of(content("int8"))
    stem = next(op for op in graph.operators if builtin_code(parsed, op) == schema.BuiltinOperator.CONV_2D)
    quantization = graph.tensors[stem.inputs[0]].quantization
    assert (list(quantization.scale), list(quantization.zeroPoint)) == ([1.0], [-128])


def test_only_the_table_has_features_rescaled() -> None:
    parsed, graph = graph_of(content("int8"))
    rescaled = [
        graph.tensors[op.outputs[0]].name.decode()
        for op in graph.operators
        if builtin_code(parsed, op) == schema.BuiltinOperator.QUANTIZE
        and graph.tensors[op.inputs[0]].type == schema.TensorType.INT8
    ]
    assert len(rescaled) <= detector().config.roi_levels
    assert all(name.startswith(("table", "trunk/fpn")) for name in rescaled), rescaled


def test_tensors_that_exchange_numbers_have_one_range() -> None:
    found = {"a": (0.0, 1.0), "b": (-2.0, 0.5), "c": (0.0, 0.0), "d": (0.0, 9.0), "e": (-3.0, 0.0)}
    concatenation, reshape = schema.BuiltinOperator.CONCATENATION, schema.BuiltinOperator.RESHAPE
    chain = (
        Operator(concatenation, "c", ("a", "b", "c")),
        Operator(schema.BuiltinOperator.ADD, "d", ("c", "d")),
        Operator(reshape, "e", ("d", "e")),
    )
    assert shared(found, chain) == {**dict.fromkeys("abc", (-2.0, 1.0)), **dict.fromkeys("de", (-3.0, 9.0))}


@pytest.mark.slow
def test_fewer_proposals_take_kept_ranges() -> None:
    """Other pieces of the features' table are gathered then, of numbers whose ranges are known."""
    few = TinyDet(dataclasses.replace(detector().config, proposals_test=10), len(NAMES))
    few.set_weights(detector().get_weights())

    def rounded(model: TinyDet) -> set[str]:
        found = operators(to_flatbuffer(HostGraph(model, arithmetic="integer")))
        return {name for op in found if FORMATS["int8"].covers(op.name) for name in op.float_tensors}

    new = rounded(few) - set(kept().ranges)
    assert new and all(in_scopes(name, ("table",)) for name in new), new
    calibration = export(few, config(), FORMATS["int8"], kept=kept()).calibration
    assert calibration is not None
    tables = {limits for name, limits in kept().ranges.items() if in_scopes(name, ("table",))}
    assert {calibration.ranges[name] for name in new} <= tables


@pytest.mark.slow
def test_what_was_kept_gives_the_same_file() -> None:
    """Channels, ranges and biases, without images; and they are those of the tasks' graph."""
    assert export(detector(), config(), FORMATS["int8"], kept=kept()).model == content("int8")
    tasks = export(detector(), config(), FORMATS["int8"], postprocess="tasks", kept=kept()).calibration
    assert tasks is not None and tasks.ranges == kept().ranges
    for nothing in ({"biases": {}}, {"ranges": {}}):
        with pytest.raises(UserError, match="another version"):
            quantize(integer_form(), FORMATS["int8"], kept=dataclasses.replace(kept(), **nothing))


def test_sizes() -> None:
    sizes = {name: len(content(name)) for name in FORMATS}
    assert sizes["float16"] < 0.56 * sizes["float32"]
    assert sizes["dynamic"] < 0.35 * sizes["float32"]
    assert sizes["int8"] < 0.42 * sizes["float32"]


def class_probs(model: bytes) -> np.ndarray:
    run = Interpreter(model_content=model).get_signature_runner()
    return np.stack([np.sort(run(image=image[None])["class_probs"][0, :, 1])[::-1] for image in images(2, 9)])


def test_scores_stay_near(quantized: tuple[str, bytes]) -> None:
    name, model = quantized
    error = np.abs(class_probs(model) - class_probs(content("float32"))).mean()
    assert error <= TOLERANCES[name], error


#: Mean difference of the sorted scores of two images, which are spread over 0..1. Roundings of 2**-11, 2**-8, 2**-8 and
#: 2**-15 of a range add up over sixty layers; where a range or a scale is wrong, most scores are off by tenths.
TOLERANCES = {"float16": 0.002, "dynamic": 0.02, "int8": 0.06, "int16": 0.01}


def test_float16_alone_asks_for_float16_arithmetic(quantized: tuple[str, bytes]) -> None:
    name, model = quantized
    parsed, _ = graph_of(model)
    entries = {entry.name: bytes(parsed.buffers[entry.buffer].data) for entry in parsed.metadata}
    assert entries.get(b"reduced_precision_support") == (b"fp16accfp16" if name == "float16" else None)


def test_no_float_finds_the_features_where_arithmetic_is_float16() -> None:
    """Above 2048 a float16 has no odd numbers, and XNNPACK makes one of every float that it computes."""
    parsed, graph = graph_of(content("float16"))
    writer = {op.outputs[0]: op for op in graph.operators}
    gathers = [op for op in graph.operators if parsed.operatorCodes[op.opcodeIndex].builtinCode == _GATHER]
    of_features = [op for op in gathers if in_scopes(graph.tensors[op.outputs[0]].name.decode(), ("roi", "table"))]
    waiting, seen = [op.inputs[1] for op in of_features], set()
    while waiting:
        index = waiting.pop()
        tensor = graph.tensors[index]
        if index in seen or index not in writer or not in_scopes(tensor.name.decode(), ("roi", "table")):
            continue
        seen.add(index)
        assert tensor.type in (schema.TensorType.INT32, schema.TensorType.BOOL), tensor.name
        waiting += [index for index in writer[index].inputs if index >= 0]
    assert len(seen) > 30


def test_bias_correction_brings_the_channels_means_back() -> None:
    """Of all that the pictures of the calibration make of each layer, biases alone being other than without it."""
    scheme = dataclasses.replace(FORMATS["int8"], equalization=False)  # the float network's channels
    rounded = dataclasses.replace(scheme, bias_correction=False)
    files = {
        "corrected": quantize(integer_form(), scheme, samples()).model,
        "rounded": quantize(integer_form(), rounded, samples()).model,
        "float": integer_form(),
    }
    means = {name: channel_means(model) for name, model in files.items()}
    errors = {
        name: np.mean([
            np.abs(mean - means["float"][layer]).mean() / np.abs(means["float"][layer]).mean()
            for layer, mean in means[name].items()
            if layer in means["float"] and layer.startswith("trunk/")
        ])
        for name in ("corrected", "rounded")
    }  # fmt: skip
    print(errors)
    assert errors["corrected"] < 0.7 * errors["rounded"]
    kept = {name: parameters(files[name]) for name in ("corrected", "rounded")}
    assert set(kept["corrected"]) == set(kept["rounded"])
    changed = [name for name, value in kept["corrected"].items() if value.tobytes() != kept["rounded"][name].tobytes()]
    assert len(changed) > 30 and all(kept["corrected"][name].dtype == np.int32 for name in changed)


def channel_means(model: bytes) -> dict[str, np.ndarray]:
    """Of each convolution's output by name: the mean of each channel over the calibration's pictures."""
    parsed, graph = graph_of(model)
    interpreter = Interpreter(model_content=model, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    kinds = (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D)
    outputs = [op.outputs[0] for op in graph.operators if parsed.operatorCodes[op.opcodeIndex].builtinCode in kinds]
    means: dict[str, Any] = {}
    for image in samples().images:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        for index in outputs:
            scale, zero = details[index]["quantization"]
            value = interpreter.get_tensor(index).astype(np.float64)
            value = (value - zero) * scale if scale else value
            means[details[index]["name"]] = means.get(details[index]["name"], 0.0) + value.mean((0, 1, 2))
    return {name: total / len(samples()) for name, total in means.items()}


def parameters(model: bytes) -> dict[bytes, np.ndarray]:
    """The constants of a model by name, int32 those that are."""
    parsed, graph = graph_of(model)
    types = {schema.TensorType.INT32: np.int32}
    return {
        tensor.name: np.frombuffer(bytes(parsed.buffers[tensor.buffer].data), types.get(tensor.type, np.uint8))
        for tensor in graph.tensors
        if parsed.buffers[tensor.buffer].data is not None
    }


def test_static_formats_need_images() -> None:
    for name in ("int8", "int16"):
        with pytest.raises(UserError, match=f"{name} needs calibration images"):
            convert(detector(), config(), quantization=name)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(UserError, match=r"\[1, 160, 160, 3\], the model takes image as uint8 \[1, 128, 128, 3\]"):
        quantize(integer_form(), FORMATS["int8"], samples(160))


def test_what_does_not_exist_is_listed() -> None:
    with pytest.raises(UserError, match="'int4' does not exist; choose from float32, float16, dynamic, int8, int16"):
        scheme_named("int4")
    with pytest.raises(UserError, match="calibration method 'kl' does not exist"):
        Scheme("int8", "int8", 8, method="kl")
    nowhere = Scheme("int8", "int8", 8, parts=("nowhere",))
    with pytest.raises(UserError, match=r"nothing of the model is in the parts .*nowhere"):
        quantize(integer_form(), nowhere, samples())


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litert_quantizer", None)
    with pytest.raises(UserError, match=r"quantization needs litert-quantizer .*pip install 'tinydet-tf\[quantize\]'"):
        convert(detector(), config(), quantization="dynamic")


def test_parts_kept_in_float_are_float() -> None:
    scheme = Scheme("int8", "int8", 8, parts=("trunk",), float_parts=("trunk/block2",))
    parsed, graph = graph_of(quantize(integer_form(), scheme, samples()).model)
    kinds = (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D)

    def types(block: str) -> set[int]:
        written = [
            graph.tensors[op.outputs[0]]
            for op in graph.operators
            if parsed.operatorCodes[op.opcodeIndex].builtinCode in kinds
        ]
        return {tensor.type for tensor in written if tensor.name.decode().startswith(f"trunk/{block}/")}

    assert types("block2") == {schema.TensorType.FLOAT32}
    assert types("block12") == {schema.TensorType.INT8}


def test_calibration_comes_back_and_is_noted() -> None:
    calibration = exported("int8").calibration
    assert calibration is not None and calibration.image_ids == (1, 2, 3, 4)
    assert len(calibration.ranges) > 50
    assert parse_model(content("int8"), "it").info.calibration == calibration.note()
    again = quantize(integer_form(), FORMATS["int8"], samples())
    assert again.calibration is not None and again.calibration.note() == calibration.note()
    assert again.calibration.ranges == calibration.ranges
    assert parse_model(content("int8"), "it").model == again.model  # the same every time


def test_packing_keeps_the_outputs() -> None:
    model = parse_model(content("float32"), "it").model
    packed = write(read(model))
    assert len(packed) <= len(model)
    np.testing.assert_array_equal(class_probs(packed), class_probs(model))
    parsed, _ = graph_of(packed)
    for index in range(len(parsed.buffers)):  # constants are aligned to 16 bytes
        data = schema.Model.GetRootAs(packed, 0).Buffers(index).DataAsNumpy()
        if isinstance(data, np.ndarray) and data.size:
            assert (data.ctypes.data - np.frombuffer(packed, np.uint8).ctypes.data) % 16 == 0
