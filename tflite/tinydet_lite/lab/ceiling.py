"""The ceiling of a machine: a .tflite of nothing but 1x1 convolutions, the fastest form of multiplying there is.

Shape letters: H = W = 80, C = 256 channels in and out: large enough to fill the caches and the kernels' tiles, and of
the size of TinyDet's finest feature map.

The file is built without TensorFlow, from the classes that ai_edge_litert ships for TFLite's schema.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..metadata import IDENTIFIER

SIZE = 80  # H and W
CHANNELS = 256
LAYERS = 4
#: Multiply-accumulates of one run.
STACK_MACS = LAYERS * SIZE * SIZE * CHANNELS * CHANNELS
INPUT, OUTPUT = "input", "output"
_SCHEMA = "ai_edge_litert.schema_py_generated"
_SCHEMA_VERSION = 3
_CONV_2D_VERSION = 3  # the first with int8 weights scaled by channel; float takes it too
# Values stay of the input's size: weights of deviation 1/sqrt(C) keep the variance.
_INPUT_SCALE = 4 / 127  # int8: four standard deviations


def conv_stack(quantized: bool) -> bytes:
    """A .tflite: input [1, H, W, C] -> LAYERS 1x1 convolutions with bias -> output [1, H, W, C].

    Args:
        quantized: int8 in and out with weights scaled by channel, else float32.

    Raises:
        UserError: the schema's classes are not there, as under tflite-runtime.
    """
    try:
        schema = importlib.import_module(_SCHEMA)
        flatbuffers = importlib.import_module("flatbuffers")
    except ImportError as error:
        raise UserError(
            "no ceiling: it takes ai-edge-litert, which ships TFLite's schema; `pip install ai-edge-litert`"
        ) from error
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(_model(schema, quantized).Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def stack_input(quantized: bool, seed: int = 0) -> NDArray[Any]:
    """A picture for `conv_stack`: [1, H, W, C] of the normal distribution, float32 or int8."""
    values = np.random.default_rng(seed).standard_normal((1, SIZE, SIZE, CHANNELS), np.float32)
    if not quantized:
        return values
    return np.asarray(np.clip(np.round(values / _INPUT_SCALE), -128, 127), np.int8)


def _model(schema: Any, quantized: bool) -> Any:
    generator = np.random.default_rng(1)
    model = schema.ModelT()
    model.version = _SCHEMA_VERSION
    model.description = "1x1 convolutions"
    model.buffers = [_buffer(schema, None)]  # number 0 is the empty one, by the schema
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CONV_2D
    code.version = _CONV_2D_VERSION
    model.operatorCodes = [code]
    graph = schema.SubGraphT()
    graph.name = "main"
    graph.tensors, graph.operators = [], []
    picture = [1, SIZE, SIZE, CHANNELS]

    def tensor(name: str, values: NDArray[Any] | None, shape: list[int], kind: int, scales: Any) -> int:
        added = schema.TensorT()
        added.name, added.shape, added.type, added.buffer = name, shape, kind, 0
        if values is not None:
            model.buffers.append(_buffer(schema, values))
            added.buffer = len(model.buffers) - 1
        if quantized:
            added.quantization = schema.QuantizationParametersT()
            added.quantization.scale = [float(scale) for scale in scales]
            added.quantization.zeroPoint = [0] * len(added.quantization.scale)
        graph.tensors.append(added)
        return len(graph.tensors) - 1

    types = schema.TensorType
    value_type = types.INT8 if quantized else types.FLOAT32
    source = tensor(INPUT, None, picture, value_type, [_INPUT_SCALE])
    graph.inputs = [source]
    for layer in range(LAYERS):
        weights = (generator.standard_normal((CHANNELS, 1, 1, CHANNELS)) / CHANNELS**0.5).astype(np.float32)
        bias = np.zeros(CHANNELS, np.int32 if quantized else np.float32)
        scales = np.abs(weights).max((1, 2, 3)) / 127  # [O]
        if quantized:
            weights = np.round(weights / scales[:, None, None, None]).astype(np.int8)
        name = f"conv{layer}"
        inputs = [
            source,
            tensor(f"{name}/weights", weights, list(weights.shape), value_type, scales),
            tensor(f"{name}/bias", bias, [CHANNELS], types.INT32 if quantized else value_type, scales * _INPUT_SCALE),
        ]
        last = layer == LAYERS - 1
        target = tensor(OUTPUT if last else f"{name}/output", None, picture, value_type, [_INPUT_SCALE])
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = 0, inputs, [target]
        operator.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
        options = schema.Conv2DOptionsT()
        options.padding = schema.Padding.VALID
        options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
        operator.builtinOptions = options
        graph.operators.append(operator)
        source = target
    graph.outputs = [source]
    model.subgraphs = [graph]
    model.signatureDefs = [_signature(schema, graph)]
    return model


def _signature(schema: Any, graph: Any) -> Any:
    def named(name: str, index: int) -> Any:
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        return entry

    signature = schema.SignatureDefT()
    signature.signatureKey = "serving_default"
    signature.subgraphIndex = 0
    signature.inputs = [named(INPUT, graph.inputs[0])]
    signature.outputs = [named(OUTPUT, graph.outputs[0])]
    return signature


def _buffer(schema: Any, values: NDArray[Any] | None) -> Any:
    buffer = schema.BufferT()
    if values is not None:
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    return buffer
