"""Bias correction: what int8 moves the mean of a channel by, taken back in the bias of its convolution.

Rounded weights and clipped activations do not only add noise: each output channel of each layer is off by some amount
on average, and these amounts add up along the network. As in Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction" (arXiv 1906.04721), section 4.2, but measured on calibration images: layer by layer,
in the graph's order, the mean of each channel is brought to that of the float network.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema
from tqdm import tqdm

from tinydet_tf.export.constants import Constants
from tinydet_tf.export.operators import builtin_code
from tinydet_tf.export.packing import read, write

#: How many pictures a mean is taken of.
IMAGES = 16
#: Without an activation inside of the operator. They carry on what those before them are off by: to correct depthwise
#: and rectified ones as well gave no more AP and takes three times as long (docs/quantization.md).
_CORRECTED = (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.FULLY_CONNECTED)
_NO_ACTIVATION = schema.ActivationFunctionType.NONE


def correct_biases(
    model: schema.ModelT, reference: bytes, images: np.ndarray, *, progress: bool = False
) -> dict[str, np.ndarray]:
    """Changes the biases of an int8 model's convolutions and fully connected layers.

    Args:
      model: of one subgraph, as `packing.read` gives it; its biases are changed.
      reference: the float .tflite that it was made of; the same layers have the same names in it.
      images: uint8 [N, S, S, 3], prepared as for calibration; the first `IMAGES` are used.
      progress: show a bar on a terminal.

    Returns:
      Of each of these layers, by the tensor that it writes: its biases as they are now, int32 [C].
    """
    (graph,) = model.subgraphs
    images = images[:IMAGES]
    positions = _corrected(model)
    names = [graph.tensors[graph.operators[position].outputs[0]].name for position in positions]
    expected = _float_means(reference, names, images)
    constants = Constants(model)
    corrected = {}
    bar = tqdm(positions, unit="layer", disable=None if progress else True)
    for position, name in zip(bar, names, strict=True):
        op = graph.operators[position]
        output = graph.tensors[op.outputs[0]]
        (mean,) = _means(_first_operators(model, position + 1, [int(op.outputs[0])]), images)
        scale, zero = output.quantization.scale[0], output.quantization.zeroPoint[0]
        error = expected[name] - (mean - zero) * scale
        bias = constants.read(op, 2, np.int32)
        steps = bias + np.round(error / graph.tensors[op.inputs[2]].quantization.scale).astype(np.int64)
        limits = np.iinfo(np.int32)
        corrected[name.decode()] = steps.clip(limits.min, limits.max).astype(np.int32)
        constants.replace(op, 2, corrected[name.decode()])
    return corrected


def put_biases(model: schema.ModelT, biases: Mapping[str, np.ndarray]) -> None:
    """Changes the biases to what `correct_biases` gave for the same weights and ranges.

    Raises:
      KeyError: a layer that is to be corrected has none.
    """
    (graph,) = model.subgraphs
    constants = Constants(model)
    for position in _corrected(model):
        op = graph.operators[position]
        constants.replace(op, 2, biases[graph.tensors[op.outputs[0]].name.decode()])


def _corrected(model: schema.ModelT) -> list[int]:
    """Where in the graph the layers are whose biases are corrected."""
    return [index for index, op in enumerate(model.subgraphs[0].operators) if _is_corrected(model, op)]


def _is_corrected(model: schema.ModelT, op: schema.OperatorT) -> bool:
    (graph,) = model.subgraphs
    return (
        builtin_code(model, op) in _CORRECTED
        and op.builtinOptions.fusedActivationFunction == _NO_ACTIVATION
        and len(op.inputs) > 2
        and op.inputs[2] >= 0
        and graph.tensors[op.inputs[2]].type == schema.TensorType.INT32
        and graph.tensors[op.outputs[0]].type == schema.TensorType.INT8
    )


def _float_means(reference: bytes, names: Sequence[bytes], images: np.ndarray) -> dict[bytes, np.ndarray]:
    """Of each of these tensors of the float model: float64 [channels]."""
    model = read(reference)
    (graph,) = model.subgraphs
    index_of = {tensor.name: index for index, tensor in enumerate(graph.tensors)}
    content = _first_operators(model, len(graph.operators), [index_of[name] for name in names])
    return dict(zip(names, _means(content, images), strict=True))


def _first_operators(model: schema.ModelT, count: int, outputs: Sequence[int]) -> bytes:
    """The first operators alone, with other outputs; the model stays as it is."""
    part, graph = copy.copy(model), copy.copy(model.subgraphs[0])
    graph.operators = graph.operators[:count]
    graph.outputs = np.array(outputs, np.int32)
    part.subgraphs, part.signatureDefs = [graph], None
    return write(part)


def _means(model: bytes, images: np.ndarray) -> list[np.ndarray]:
    """Of each output in order: float64 [channels], its mean over images and positions, in its own steps."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    outputs = [detail["index"] for detail in interpreter.get_output_details()]
    sums: list[np.ndarray] = []
    for pixels in images:
        interpreter.set_tensor(image["index"], pixels[None])
        interpreter.invoke()
        values = [interpreter.get_tensor(index) for index in outputs]
        means = [value.reshape(-1, value.shape[-1]).mean(0, dtype=np.float64) for value in values]
        sums = [a + b for a, b in zip(sums, means, strict=True)] if sums else means
    return [total / len(images) for total in sums]
