"""Another accelerator than the CPU: what is found there, what is said where there is none, and what LiteRT is asked."""

import enum
import logging
import sys
import types
from typing import ClassVar

import numpy as np
import pytest

from tinydet_lite import Detector, accelerated
from tinydet_lite.errors import UserError
from tinydet_lite.models import SHIPPED
from tinydet_lite.runtime import Session

PICTURE = np.random.default_rng(0).integers(0, 256, [240, 320, 3], np.uint8)


class _Buffer:
    def __init__(self):
        self.value = None

    def write(self, value):
        assert value.flags["C_CONTIGUOUS"]
        self.value = value.copy()

    def read(self, count, dtype):
        return self.value.astype(dtype).reshape(-1)[:count]


class _FakeModel:
    """A CompiledModel whose `boxes` are the image plus one; the accelerator takes `fully` of it."""

    asked: ClassVar[dict] = {}
    fully = True
    failure: Exception | None = None

    @classmethod
    def from_buffer(cls, model, options):
        cls.asked = options
        if cls.failure is not None:
            raise cls.failure
        return cls()

    def get_signature_list(self):
        return {"serving_default": {"inputs": ["image"], "outputs": ["boxes"]}}

    def get_input_tensor_details(self, _key):
        return {"image": {"shape": [1, 2, 2, 3], "dtype": "uint8"}}

    def get_output_tensor_details(self, _key):
        return {"boxes": {"shape": [1, 2, 2, 3], "dtype": "float32"}}

    def create_input_buffers(self, _index):
        return [_Buffer()]

    def create_output_buffers(self, _index):
        return [_Buffer()]

    def is_fully_accelerated(self):
        return self.fully

    def run_by_index(self, _index, inputs, outputs):
        outputs[0].value = inputs[0].value + 1.0


@pytest.fixture
def litert(monkeypatch):
    """A LiteRT with every accelerator."""
    fakes = {
        "compiled_model": {"CompiledModel": _FakeModel},
        "hardware_accelerator": {"HardwareAccelerator": enum.IntFlag("HardwareAccelerator", "CPU GPU NPU")},
        "options": dict.fromkeys(("CpuOptions", "GpuOptions", "Options"), dict),
    }
    for name, content in fakes.items():
        monkeypatch.setitem(sys.modules, f"ai_edge_litert.{name}", types.SimpleNamespace(**content))
    monkeypatch.setattr(_FakeModel, "fully", True)
    monkeypatch.setattr(_FakeModel, "failure", None)
    return _FakeModel


def test_runs_on_the_gpu_and_asks_it_for_float32(litert, caplog):
    with caplog.at_level(logging.WARNING):
        session = accelerated.open_session(b"model", 3, "gpu")
    assert not caplog.records
    assert litert.asked == {
        "hardware_accelerators": 3,
        "cpu_options": {"num_threads": 3},
        "gpu_options": {"enforce_f32": True},
    }
    image = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    outputs, seconds = session.run({"image": image})
    np.testing.assert_array_equal(outputs["boxes"], image + 1.0)
    assert outputs["boxes"].dtype == np.float32 and seconds > 0
    assert session.runtime == "ai_edge_litert, gpu" and session.num_threads == 3
    assert session.inputs == {"image": {"shape": [1, 2, 2, 3], "dtype": np.uint8}}


def test_says_what_the_cpu_takes(litert, caplog, monkeypatch):
    monkeypatch.setattr(litert, "fully", False)
    accelerated.open_session(b"model", 1, "npu")
    assert [r.message for r in caplog.records] == ["the NPU does not take all of the model; the CPU runs the rest"]
    assert litert.asked["hardware_accelerators"] == 5


@pytest.mark.parametrize("accelerator", ["gpu", "npu"])
def test_without_one_the_cpu_detects_the_same(litert, caplog, monkeypatch, accelerator):
    monkeypatch.setattr(litert, "failure", RuntimeError("ERROR: [./litert/cc/litert_compiled_model.h:1961]\nmore"))
    found = Detector(SHIPPED["digits"], num_threads=1, accelerator=accelerator)
    (record,) = caplog.records
    name = accelerator.upper()
    assert record.message == (
        f"the {name} cannot be used (LiteRT found none that works: no {name} or no driver); the CPU runs the model"
    )
    expected = Detector(SHIPPED["digits"], num_threads=1).raw(PICTURE)
    for output, values in found.raw(PICTURE).items():
        np.testing.assert_array_equal(values, expected[output])


def test_an_old_litert_is_named(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.compiled_model", None)
    session = accelerated.open_session(SHIPPED["digits"].read_bytes(), 1, "gpu")
    assert isinstance(session, Session)
    assert "it needs ai-edge-litert 2.3 or newer" in caplog.text


def test_an_unknown_accelerator_is_refused():
    with pytest.raises(UserError, match=r"accelerator 'tpu' came; expected one of cpu, gpu, npu"):
        Detector(SHIPPED["digits"], accelerator="tpu")


def test_the_number_of_threads_is_checked_as_on_the_cpu(litert):
    with pytest.raises(UserError, match="0 threads came; expected 1 to 256"):
        Detector(SHIPPED["digits"], num_threads=0, accelerator="gpu")


def test_the_real_compiled_model_gives_the_interpreters_outputs(caplog):
    """No machine of ours has an NPU: LiteRT then runs all of it on the CPU, by its newer way."""
    pytest.importorskip("ai_edge_litert.compiled_model", reason="ai-edge-litert 2 is not installed here")
    found = Detector(SHIPPED["digits"], num_threads=1, accelerator="npu")
    assert "NPU" in caplog.text
    expected = Detector(SHIPPED["digits"], num_threads=1).raw(PICTURE)
    for output, values in found.raw(PICTURE).items():
        np.testing.assert_array_equal(values, expected[output])
