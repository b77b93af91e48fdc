"""The stack of convolutions: that a runtime takes it whole, and that it computes what it says."""

import sys

import numpy as np
import pytest

from tinydet_lite import UserError
from tinydet_lite.lab.ceiling import CHANNELS, INPUT, LAYERS, OUTPUT, SIZE, STACK_MACS, conv_stack, stack_input
from tinydet_lite.lab.inspection import inspect_model
from tinydet_lite.runtime import Session

pytest.importorskip("ai_edge_litert", reason="the stack is built with the schema that ai_edge_litert ships")


@pytest.mark.parametrize("quantized", [False, True])
def test_the_stack_is_delegated_whole_and_has_the_macs_it_says(quantized):
    inspection = inspect_model(conv_stack(quantized))
    assert [node.operator for node in inspection.nodes] == ["CONV_2D"] * LAYERS
    assert inspection.partitions == (tuple(range(LAYERS)),)
    assert inspection.macs == STACK_MACS == LAYERS * SIZE * SIZE * CHANNELS**2
    assert inspection.inputs[0].dtype == ("int8" if quantized else "float32")


def test_int8_and_float_are_the_same_network():
    outputs = {}
    for quantized in (False, True):
        session = Session(conv_stack(quantized), 1)
        outputs[quantized] = session.run({INPUT: stack_input(quantized)})[0][OUTPUT].astype(np.float64)
    scale = 4 / 127
    # The values neither die out nor explode, which would make denormal or saturated, faster or slower, arithmetic.
    assert 0.9 < outputs[False].std() < 1.1
    error = outputs[True] * scale - outputs[False]
    # Measured: deviation 0.0257 against values of deviation 1.003.
    assert error.std() < 0.05


def test_without_the_schema_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.schema_py_generated", None)
    with pytest.raises(UserError, match="no ceiling: it takes ai-edge-litert"):
        conv_stack(False)
