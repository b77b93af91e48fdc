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
    def made(kind: str, **fields: Any) -> Any:
        table = getattr(schema, f"{kind}T")()
        vars(table).update(fields)
        return table

    def tensor(name: str, values: NDArray[Any] | None, shape: list[int], kind: int, scales: Any) -> int:
        quantization = None
        if quantized:
            scale = [float(each) for each in scales]
            quantization = made("QuantizationParameters", scale=scale, zeroPoint=[0] * len(scale))
        place = 0
        if values is not None:
            buffers.append(made("Buffer", data=np.frombuffer(values.tobytes(), np.uint8)))
            place = len(buffers) - 1
        tensors.append(made("Tensor", name=name, shape=shape, type=kind, buffer=place, quantization=quantization))
        return len(tensors) - 1

    generator = np.random.default_rng(1)
    buffers = [made("Buffer")]  # the first one is the empty one, by the schema
    tensors: list[Any] = []
    operators: list[Any] = []
    types, picture = schema.TensorType, [1, SIZE, SIZE, CHANNELS]
    value_type = types.INT8 if quantized else types.FLOAT32
    first = source = tensor(INPUT, None, picture, value_type, [_INPUT_SCALE])
    options = made(
        "Conv2DOptions", padding=schema.Padding.VALID, strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1
    )
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
        name = OUTPUT if layer == LAYERS - 1 else f"{name}/output"
        source = tensor(name, None, picture, value_type, [_INPUT_SCALE])
        kind = schema.BuiltinOptions.Conv2DOptions
        operator = made("Operator", inputs=inputs, outputs=[source], builtinOptionsType=kind, builtinOptions=options)
        operators.append(operator)
    conv = schema.BuiltinOperator.CONV_2D
    graph = made("SubGraph", name="main", tensors=tensors, operators=operators, inputs=[first], outputs=[source])
    signature = made(
        "SignatureDef",
        signatureKey="serving_default",
        inputs=[made("TensorMap", name=INPUT, tensorIndex=first)],
        outputs=[made("TensorMap", name=OUTPUT, tensorIndex=source)],
    )
    return made(
        "Model",
        version=_SCHEMA_VERSION,
        description="1x1 convolutions",
        buffers=buffers,
        operatorCodes=[made("OperatorCode", builtinCode=conv, deprecatedBuiltinCode=conv, version=_CONV_2D_VERSION)],
        subgraphs=[graph],
        signatureDefs=[signature],
    )
