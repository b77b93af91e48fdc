"""What this machine and installation are, and whether they can detect: what a person with a fault is asked first."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..detector import Detector
from ..errors import UserError, printable
from ..guard.trial import try_model
from ..metadata import read_model
from ..models import DIGITS
from ..runtime import NOT_INSTALLED, PACKAGE, RUNTIMES, RuntimeFailed, default_threads, interpreter_of
from .synthetic import synthetic_image

PACKAGES = (
    "numpy", "Pillow", "ai-edge-litert", "tflite-runtime", "tensorflow", "opencv-python", "opencv-python-headless",
)  # fmt: skip
#: What Linux calls the instructions that decide how fast a network runs, and what they are for.
X86_FEATURES = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
)
ARM_FEATURES = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve")
#: The processors of Raspberry Pis by /proc/cpuinfo's "CPU part".
ARM_PARTS = {"0xd03": "Cortex-A53", "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76"}
_CPUINFO = Path("/proc/cpuinfo")
_MEMINFO = Path("/proc/meminfo")
_RUNS = 5


@dataclass(frozen=True)
class Finding:
    """A line of the check-up.

    Attributes:
        topic: what it is about, a word.
        text: what was found, one line.
        advice: what to do about it; empty where nothing is wrong.
    """

    topic: str
    text: str
    advice: str = ""


def check_up() -> Iterator[Finding]:
    """The findings, one after another; loading a runtime takes a while. None of them raises."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}, Python {platform.python_version()}"
    yield Finding("system", system, _system_advice(platform.machine()))
    yield Finding("processor", processor())
    yield features(_read(_CPUINFO), platform.machine())
    versions = {name: _version(name) for name in PACKAGES}
    yield Finding("packages", ", ".join(f"{name} {version}" for name, version in versions.items() if version))
    yield from runtimes()
    yield shipped_model()


def processor() -> str:
    """The processor's name, its cores, and the memory, as far as the system tells."""
    cores, usable = os.cpu_count() or 1, default_threads()
    text = f"{_processor_name()}, {cores} cores, {usable} threads by default"
    total = re.search(r"MemTotal:\s+(\d+) kB", _read(_MEMINFO))
    return f"{text}, {int(total[1]) / 2**20:.1f} GB of memory" if total else text


def features(cpuinfo: str, machine: str) -> Finding:
    """Which instructions that networks use the processor has.

    Args:
        cpuinfo: the text of Linux's /proc/cpuinfo, empty elsewhere.
        machine: as `platform.machine()`.
    """
    listed = re.search(r"^(?:flags|Features)\s*: (.*)$", cpuinfo, re.MULTILINE)
    if listed is None:
        return Finding("features", "unknown: this system has no /proc/cpuinfo that lists them")
    has = set(listed[1].split())
    known = ARM_FEATURES if machine.lower() in ("aarch64", "arm64") else X86_FEATURES
    text = ", ".join(name for name in known if name in has) or "none of those that networks use"
    if known is ARM_FEATURES:
        if "asimddp" not in has:
            text += "; no dot products (asimddp), so int8 gains little over float32"
    elif "avx2" not in has:
        text += "; no AVX2, so all is slow"
    elif not has & {"avx512_vnni", "avx_vnni"}:
        text += "; no AVX-512 VNNI, so int8 gains less over float32"
    return Finding("features", text)


def runtimes() -> Iterator[Finding]:
    """Which TFLite runtimes can take the model that comes along. TensorFlow, which loads slowly, is asked last."""
    model, works = read_model(DIGITS).model, False
    for runtime in RUNTIMES:
        if runtime == "tensorflow" and works:
            continue
        try:
            interpreter_of(runtime, model, 1)
        except RuntimeFailed as error:
            reason, advice = str(error), ""
            if reason != NOT_INSTALLED and not works:
                advice = f"pip install {PACKAGE}"
            yield Finding("runtime", f"{runtime}: {printable(reason)}", advice)
        else:
            works = True
            yield Finding("runtime", f"{runtime}: works")
    if not works:
        yield Finding("runtime", "none works, so nothing can be detected", f"pip install {PACKAGE}")


def shipped_model() -> Finding:
    """Whether the model that comes along detects, and how long that takes."""
    try:
        try_model(DIGITS)
        detector, picture = Detector(DIGITS), synthetic_image()
        times = [detector.timed(picture)[1].total_ms for _ in range(_RUNS + 1)]
    except UserError as error:
        return Finding("model", f"the digits model does not run: {printable(str(error))}", f"pip install {PACKAGE}")
    median = statistics.median(times[1:])  # the first one is slower
    return Finding("model", f"the digits model detects: {median:.1f} ms on {detector.num_threads} threads")


def _system_advice(machine: str) -> str:
    if machine.lower() in ("armv6l", "armv7l", "i386", "i686"):
        return "runtimes are built for 64-bit systems: install a 64-bit one (Raspberry Pi OS, 64-bit)"
    return ""


def _processor_name() -> str:
    cpuinfo = _read(_CPUINFO)
    name = re.search(r"^model name\s*: (.+)$", cpuinfo, re.MULTILINE)
    if name is not None:
        return printable(name[1].strip())
    part = re.search(r"^CPU part\s*: (0x[0-9a-f]+)$", cpuinfo, re.MULTILINE)
    if part is not None:
        return ARM_PARTS.get(part[1], f"ARM part {part[1]}")
    if platform.system() == "Darwin":
        with suppress(OSError):
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
