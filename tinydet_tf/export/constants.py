"""The constants that the operators of a .tflite read, changed for one operator at a time."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import numpy.typing as npt
from tensorflow.lite.python import schema_py_generated as schema


class Constants:
    """Those of a model of one subgraph, as `packing.read` gives it; its operators, tensors and buffers are changed."""

    def __init__(self, parsed: schema.ModelT) -> None:
        self._parsed, self._graph = parsed, parsed.subgraphs[0]
        self._uses = Counter(int(index) for op in self._graph.operators for index in op.inputs)
        self._readers = Counter(tensor.buffer for tensor in self._graph.tensors)

    def read(self, op: schema.OperatorT, place: int, dtype: npt.DTypeLike) -> np.ndarray:
        """What the operator has as its input number `place`, of the tensor's shape; `dtype` is the tensor's."""
        tensor = self._graph.tensors[op.inputs[place]]
        return np.frombuffer(bytes(self._parsed.buffers[tensor.buffer].data), dtype).reshape(tensor.shape)

    def replace(self, op: schema.OperatorT, place: int, values: np.ndarray) -> None:
        """Gives the operator other values of the same type and shape: its own, where others read the same constant."""
        index, tensors = int(op.inputs[place]), self._graph.tensors
        tensor = tensors[index]
        if self._uses[index] > 1:
            self._uses[index] -= 1
            self._readers[tensor.buffer] += 1
            tensor = copy.copy(tensor)
            tensor.name += b";%d" % len(tensors)  # litert-quantizer wants names of their own
            inputs = np.array(op.inputs, np.int32)
            inputs[place] = len(tensors)
            op.inputs = inputs
            tensors.append(tensor)
        if self._readers[tensor.buffer] > 1:
            self._readers[tensor.buffer] -= 1
            tensor.buffer = len(self._parsed.buffers)
            self._parsed.buffers.append(schema.BufferT())
        self._parsed.buffers[tensor.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
