"""Room for biases: weights that are wide enough for the bias that int8 writes in steps of them.

An int8 convolution has its bias in an int32, in steps of the input's scale times the channel's own, which is a 127th of
the channel's largest weight. Where weight decay has all but killed the weights and left the bias, it does not fit and
would be cut off. So the largest weight of such a channel is raised, to where it moves the output by no more than a
30,000th of the bias.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tinydet_tf.export.calibration import Range
from tinydet_tf.export.constants import Constants
from tinydet_tf.export.operators import DEPTHWISE, WEIGHTED, builtin_code
from tinydet_tf.export.packing import read, write

#: Of a bias in steps: half of an int32, so that the sum that it is added to has the other half.
_LARGEST = 2**30
_WEIGHT_STEPS, _INPUT_STEPS = 127, 255


def with_room_for_biases(model: bytes, ranges: Mapping[str, Range]) -> bytes:
    """A float .tflite whose channels' weights are wide enough for their biases; the same bytes where all are.

    Args:
      model: of one subgraph.
      ranges: of the tensors that will be int8, by name. Layers that read others stay as they are.
    """
    parsed = read(model)
    (graph,) = parsed.subgraphs
    constants, changed = Constants(parsed), False

    def constant(index: int) -> bool:
        return index >= 0 and parsed.buffers[graph.tensors[index].buffer].data is not None

    for op in graph.operators:
        code = builtin_code(parsed, op)
        found = ranges.get(graph.tensors[op.inputs[0]].name.decode())
        if code not in WEIGHTED or found is None or len(op.inputs) < 3 or not all(map(constant, op.inputs[1:])):
            continue
        kernel, bias = (constants.read(op, place, np.float32) for place in (1, 2))
        channels = kernel.reshape(-1, bias.size).T if code == DEPTHWISE else kernel.reshape(bias.size, -1)
        scale = (found[1] - found[0]) / _INPUT_STEPS
        least = np.abs(bias) / (scale * _LARGEST) * _WEIGHT_STEPS
        narrow = np.flatnonzero(np.abs(channels).max(1) < least)
        if not narrow.size:
            continue
        raised = channels.copy()
        places = np.abs(channels[narrow]).argmax(1)
        raised[narrow, places] = np.copysign(least[narrow], channels[narrow, places])
        values = raised.T if code == DEPTHWISE else raised
        constants.replace(op, 1, np.ascontiguousarray(values, np.float32).reshape(kernel.shape))
        changed = True
    return write(parsed) if changed else model
