"""Peak memory: of the child alone, and of what the model adds."""

import sys

import numpy as np
import pytest

from tinydet_lite import UserError
from tinydet_lite.lab.ceiling import conv_stack
from tinydet_lite.lab.memory import peak_memory

pytest.importorskip("ai_edge_litert")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")


def test_the_parents_memory_is_not_counted_and_the_models_is(tmp_path, monkeypatch):
    path = tmp_path / "stack.tflite"
    path.write_bytes(conv_stack(False))
    monkeypatch.chdir(tmp_path)
    ballast = np.ones(400 << 20, np.uint8)  # a fork inherits the peak of what getrusage tells
    peak = peak_memory("stack.tflite", "ai_edge_litert")
    assert ballast[-1] == 1
    assert peak.process < 400 << 20
    # Two feature maps of 6.6 MB at least; measured 37.9 MB.
    assert 2 * 80 * 80 * 256 * 4 < peak.model < peak.process


def test_a_model_that_does_not_run_is_told_in_one_line(tmp_path):
    path = tmp_path / "broken.tflite"
    path.write_bytes(b"\0\0\0\0nope")
    with pytest.raises(UserError, match="its memory could not be measured") as error:
        peak_memory(path, "ai_edge_litert")
    assert "\n" not in str(error.value)
