"""Which runtime is taken, in which order, and what is said when none works."""

import importlib
import os
import sys
import types

import numpy as np
import pytest

from tinydet_lite import runtime
from tinydet_lite.errors import UserError


class _FakeInterpreter:
    """Just enough of one: the model adds 1 to `image`."""

    def __init__(self, model_content, num_threads):
        self.num_threads = num_threads
        self.value = None

    def allocate_tensors(self):
        pass

    def get_signature_list(self):
        return {"serving_default": {"inputs": ["image"], "outputs": ["boxes"]}}

    def get_signature_runner(self, _key):
        details = types.SimpleNamespace(
            get_input_details=lambda: {"image": {"index": 3}},
            get_output_details=lambda: {"boxes": {"index": 8}},
        )
        return details

    def set_tensor(self, index, value):
        assert index == 3
        self.value = value

    def invoke(self):
        self.value = self.value + 1

    def get_tensor(self, index):
        assert index == 8
        return self.value


class _Broken:
    def __init__(self, **_options):
        print("A page of complaints, as numpy 2 prints them", file=sys.stderr)
        raise RuntimeError("numpy.core.multiarray failed\nsecond line")


@pytest.fixture
def modules(monkeypatch):
    """Runtimes by module name; what is absent is not installed. Notes what was imported, in order."""
    available = {}
    imported = []

    def import_module(name):
        imported.append(name)
        if name not in available:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])
        return types.SimpleNamespace(**{"lite" if name == "tensorflow" else "Interpreter": available[name]})

    monkeypatch.setattr(importlib, "import_module", import_module)
    monkeypatch.delenv(runtime.RUNTIME_VARIABLE, raising=False)
    available["imported"] = imported
    return available


def test_the_first_runtime_is_taken_and_the_others_are_not_imported(modules):
    modules["ai_edge_litert.interpreter"] = _FakeInterpreter
    modules["tensorflow"] = types.SimpleNamespace(Interpreter=_FakeInterpreter)
    session = runtime.Session(b"model", 2)
    assert session.runtime == "ai_edge_litert"
    assert session.num_threads == 2
    assert modules["imported"] == ["ai_edge_litert.interpreter"]
    outputs, seconds = session.run({"image": np.array([41])})
    assert outputs["boxes"].tolist() == [42]
    assert seconds >= 0


def test_a_runtime_that_imports_but_cannot_build_is_passed_over(modules, capsys):
    modules["ai_edge_litert.interpreter"] = _Broken
    modules["tflite_runtime.interpreter"] = _FakeInterpreter
    assert runtime.Session(b"model").runtime == "tflite_runtime"
    assert "tensorflow" not in modules["imported"]
    assert capsys.readouterr().err == ""


def test_tensorflow_is_the_last_resort(modules):
    modules["tensorflow"] = types.SimpleNamespace(Interpreter=_FakeInterpreter)
    assert runtime.Session(b"model").runtime == "tensorflow"
    assert modules["imported"] == [
        "ai_edge_litert.interpreter",
        "tflite_runtime.interpreter",
        "tensorflow",
    ]


def test_without_a_runtime_each_failure_is_told(modules, monkeypatch):
    modules["tflite_runtime.interpreter"] = _Broken
    monkeypatch.setattr(np, "__version__", "1.26.4")
    with pytest.raises(UserError) as error:
        runtime.Session(b"model")
    message = str(error.value)
    assert "ai_edge_litert: not installed" in message
    assert "tflite_runtime: RuntimeError: numpy.core.multiarray failed" in message
    assert "tensorflow: not installed" in message
    assert "install one with `pip install" in message
    assert "\n" not in message
    monkeypatch.setattr(np, "__version__", "2.1.0")
    with pytest.raises(UserError, match=r"works with numpy below 2 only, and 2\.1\.0 is here"):
        runtime.Session(b"model")


def test_the_variable_forces_one(modules, monkeypatch):
    modules["ai_edge_litert.interpreter"] = _FakeInterpreter
    modules["tensorflow"] = types.SimpleNamespace(Interpreter=_FakeInterpreter)
    monkeypatch.setenv(runtime.RUNTIME_VARIABLE, "tensorflow")
    assert runtime.Session(b"model").runtime == "tensorflow"
    assert modules["imported"] == ["tensorflow"]
    monkeypatch.setenv(runtime.RUNTIME_VARIABLE, "tflite_runtime")
    with pytest.raises(UserError, match="tflite_runtime: not installed"):
        runtime.Session(b"model")
    monkeypatch.setenv(runtime.RUNTIME_VARIABLE, "onnx")
    with pytest.raises(UserError, match=r"'onnx'; expected one of ai_edge_litert, tflite_runtime, tensorflow"):
        runtime.Session(b"model")


def test_a_missing_part_of_an_installed_runtime_is_not_called_uninstalled(modules, monkeypatch):
    def import_module(name):
        raise ModuleNotFoundError("No module named 'flatbuffers'", name="flatbuffers")

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(UserError, match="ai_edge_litert: ModuleNotFoundError: No module named 'flatbuffers'"):
        runtime.Session(b"model")


def test_threads(modules, monkeypatch):
    modules["ai_edge_litert.interpreter"] = _FakeInterpreter
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(3)), raising=False)
    assert runtime.Session(b"model").num_threads == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)), raising=False)
    assert runtime.Session(b"model").num_threads == 4
    with pytest.raises(UserError, match="0 threads"):
        runtime.Session(b"model", 0)
