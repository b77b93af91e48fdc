"""The operators of a .tflite's main graph, by the names of the tensors that they read and write."""

from __future__ import annotations

import dataclasses
from typing import Any

from tensorflow.lite.python import schema_py_generated as schema

_FLOAT = schema.TensorType.FLOAT32
_BUILTIN = schema.BuiltinOperator


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator.

    code: a schema.BuiltinOperator. name: of the first tensor it writes. float_tensors: all float ones it reads or
    writes, but for constants.
    """

    code: int
    name: str
    float_tensors: tuple[str, ...]

    @property
    def moves_numbers(self) -> bool:
        """Whether each number that it writes is one that it reads, or a constant."""
        return self.code in _MOVING

    @property
    def has_weights(self) -> bool:
        """Whether it is a convolution or a fully connected layer."""
        return self.code in WEIGHTED


def operators(model: bytes) -> tuple[Operator, ...]:
    """The operators of a float .tflite, in order."""
    parsed = schema.ModelT.InitFromPackedBuf(model, 0)
    graph = parsed.subgraphs[0]

    def name(index: int) -> str:
        return str(graph.tensors[index].name.decode())

    def computed(index: int) -> bool:
        tensor = graph.tensors[index]
        return index >= 0 and tensor.type == _FLOAT and parsed.buffers[tensor.buffer].data is None

    def operator(op: Any) -> Operator:
        return Operator(
            builtin_code(parsed, op),
            name(op.outputs[0]),
            tuple(name(i) for i in (*op.inputs, *op.outputs) if computed(i)),
        )

    return tuple(operator(op) for op in graph.operators)


def builtin_code(model: schema.ModelT, op: schema.OperatorT) -> int:
    """What an operator of the model is, a schema.BuiltinOperator: older files have it in another field."""
    code = model.operatorCodes[op.opcodeIndex]
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


DEPTHWISE = _BUILTIN.DEPTHWISE_CONV_2D
#: What has weights: a kernel, and mostly a bias.
WEIGHTED = (_BUILTIN.CONV_2D, DEPTHWISE, _BUILTIN.FULLY_CONNECTED)
_MOVING = (
    _BUILTIN.CONCATENATION,
    _BUILTIN.GATHER,
    _BUILTIN.PAD,
    _BUILTIN.RESHAPE,
    _BUILTIN.RESIZE_NEAREST_NEIGHBOR,
    _BUILTIN.STRIDED_SLICE,
    _BUILTIN.TRANSPOSE,
)
