"""The check-up of a machine: what it says where a runtime is absent or cannot work, and of which processor."""

import importlib
import types

import numpy as np
import pytest

from tinydet_lite import runtime
from tinydet_lite.commands.doctor import EXIT_ILL, main, told
from tinydet_lite.lab import checkup
from tinydet_lite.lab.checkup import Finding, check_up, features

PI_4 = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU part\t: 0xd08\n"
PI_5 = "processor\t: 0\nFeatures\t: fp asimd evtstrm fphp asimdhp cpuid asimddp\nCPU part\t: 0xd0b\n"
LAPTOP = "model name\t: Intel(R) Core(TM) i5-8250U CPU\nflags\t\t: fpu sse4_2 avx avx2 fma\n"
SERVER = "model name\t: AMD EPYC\nflags\t\t: fpu avx2 fma avx512f avx512_vnni avx512_bf16\n"


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "text"),
    [
        (PI_4, "aarch64", "asimd; no dot products (asimddp), so int8 gains little over float32"),
        (PI_5, "aarch64", "asimd, asimdhp, asimddp"),
        (LAPTOP, "x86_64", "avx2, fma; no AVX-512 VNNI, so int8 gains less over float32"),
        (SERVER, "x86_64", "avx2, fma, avx512f, avx512_vnni, avx512_bf16"),
        ("flags\t: fpu sse2\n", "x86_64", "none of those that networks use; no AVX2, so all is slow"),
        ("", "arm64", "unknown: this system has no /proc/cpuinfo that lists them"),
    ],
)
def test_features(cpuinfo, machine, text):
    assert features(cpuinfo, machine) == Finding("features", text)


@pytest.mark.parametrize(("cpuinfo", "name"), [(PI_4, "Cortex-A72"), (PI_5, "Cortex-A76"), (SERVER, "AMD EPYC")])
def test_processor(cpuinfo, name, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(checkup, "_CPUINFO", tmp_path / "cpuinfo")
    assert checkup.processor().startswith(f"{name}, ")


@pytest.fixture
def only(monkeypatch):
    """only(module=what it raises, ...): these runtimes are there, and fail when they are built."""

    def install(**failures):
        def import_module(name):
            if name.split(".")[0] not in failures:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])

            def interpreter(**_):
                raise failures[name.split(".")[0]]

            return types.SimpleNamespace(Interpreter=interpreter)

        monkeypatch.setattr(importlib, "import_module", import_module)
        monkeypatch.setattr(checkup, "try_model", lambda _: None)  # its process has the real modules
        monkeypatch.delenv(runtime.RUNTIME_VARIABLE, raising=False)

    return install


def test_without_a_runtime(only, capsys):
    only()
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == EXIT_ILL
    lines = capsys.readouterr().out.splitlines()
    for name in runtime.RUNTIMES:
        assert f"runtime    {name}: not installed" in lines
    none = lines.index("runtime    none works, so nothing can be detected")
    assert lines[none + 1] == f"           -> pip install {runtime.PACKAGE}"
    assert lines[none + 2].startswith("model      the digits model does not run: no TFLite runtime")


def test_tflite_runtime_under_numpy_2(only, monkeypatch):
    monkeypatch.setattr(np, "__version__", "2.1.0")
    only(tflite_runtime=RuntimeError("numpy.core.multiarray failed"))
    found = {finding.text: finding for finding in check_up()}
    finding = found["tflite_runtime: works with numpy below 2 only, and 2.1.0 is here"]
    assert finding.advice == f"pip install {runtime.PACKAGE}"


def test_a_32_bit_system(monkeypatch):
    monkeypatch.setattr(checkup.platform, "machine", lambda: "armv7l")
    assert "64-bit" in next(check_up()).advice


def test_here(capsys):
    """Where the tests run there is a runtime."""
    findings = list(check_up())
    assert not [finding for finding in findings if finding.advice]
    assert findings[-1].text.startswith("the digits model detects: ")
    assert all("\n" not in finding.text for finding in findings)
    told(findings)
    assert capsys.readouterr().out.endswith("All is well.\n")
