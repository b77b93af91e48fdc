"""Multiply-accumulates by shapes, against sums written out."""

import pytest

from tinydet_lite.lab.macs import operator_macs


@pytest.mark.parametrize(
    ("operator", "inputs", "outputs", "expected"),
    [
        ("CONV_2D", [[1, 8, 8, 6], [10, 3, 3, 6], [10]], [[1, 4, 5, 10]], 4 * 5 * 10 * 3 * 3 * 6),
        # Grouped: TFLite keeps the channels of one group in the weights' last axis.
        ("CONV_2D", [[1, 4, 4, 245], [245, 1, 1, 5], [245]], [[1, 4, 4, 245]], 16 * 245 * 5),
        ("DEPTHWISE_CONV_2D", [[1, 9, 9, 7], [1, 5, 3, 14], [14]], [[1, 4, 4, 14]], 16 * 14 * 5 * 3),
        ("FULLY_CONNECTED", [[200, 245], [1024, 245], []], [[200, 1024]], 200 * 245 * 1024),
        ("TRANSPOSE_CONV", [[4], [8, 3, 2, 6], [1, 5, 7, 6]], [[1, 10, 14, 8]], 5 * 7 * 6 * 3 * 2 * 8),
        ("BATCH_MATMUL", [[3, 4, 5], [3, 5, 6]], [[3, 4, 6]], 3 * 4 * 5 * 6),
        ("BATCH_MATMUL", [[3, 5, 4], [3, 5, 6]], [[3, 4, 6]], 3 * 4 * 5 * 6),  # the first one transposed
        ("BATCH_MATMUL", [[4, 5], [3, 5, 6]], [[3, 4, 6]], 3 * 4 * 5 * 6),  # and broadcast
        ("CONV_3D", [[1, 4, 4, 4, 3], [2, 3, 1, 3, 8], [8]], [[1, 3, 2, 4, 8]], 24 * 8 * 2 * 3 * 3),
        ("MUL", [[1, 8, 8, 6], [6]], [[1, 8, 8, 6]], 0),
    ],
)
def test_macs(operator, inputs, outputs, expected):
    assert operator_macs(operator, inputs, outputs) == expected
