"""How many multiply-accumulates (MACs; the paper says FLOPs) one operator of a .tflite costs, from its shapes alone.

Shape letters: N batch, H, W height and width of what comes out, C channels in, O channels out, G groups.

Counted are the multiplications of convolutions, fully connected layers and matrix products, as they are in the file: a
grouped convolution that the exporter spread out with zeros costs what the runtime computes, zeros too. Biases, SE's
scaling and everything element-wise count nothing; `tinydet_tf.analysis` has the paper's rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Shape = Sequence[int]


def operator_macs(operator: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """MACs of one operator; 0 of one that multiplies no matrix.

    Args:
        operator: its name in TFLite's schema, "CONV_2D".
        inputs: the shape of each input in the schema's order: of a convolution the picture, the weights, the bias.
            An optional input that is left out has the shape ().
        outputs: the shape of each output.
    """
    if operator in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "CONV_3D"):
        weights = inputs[1]
        # CONV_2D's weights are [O, kh, kw, C / G], FULLY_CONNECTED's [O, C]: each output is a sum over all but O.
        # DEPTHWISE_CONV_2D's are [1, kh, kw, O], CONV_3D's [kd, kh, kw, C / G, O].
        terms = weights[1:3] if operator == "DEPTHWISE_CONV_2D" else weights[1:]
        return math.prod(outputs[0]) * math.prod(weights[:-1] if operator == "CONV_3D" else terms)
    if operator == "TRANSPOSE_CONV":
        _, weights, picture = inputs[:3]  # [4], [O, kh, kw, C], [N, h, w, C]
        return math.prod(picture) * math.prod(weights[:-1])
    if operator == "BATCH_MATMUL":
        # [..., M, K] or, transposed, [..., K, M]: K is what is left of either beside M.
        rows = outputs[0][-2]
        return math.prod(outputs[0]) * (math.prod(inputs[0][-2:]) // rows) if rows else 0
    return 0
