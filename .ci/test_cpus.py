"""Runs the tests that touch arithmetic as if on other processors, and prints a table: `make test-cpus`.

TensorFlow's kernels are chosen by oneDNN, which can be told to use less of the processor or be left out, as on a Mac.
LiteRT's are chosen by XNNPACK, which asks the processor itself; qemu's user mode shows it an older one.
Each setting is one process, and two settings run at a time: two processes of one setting would both make the module's
fixtures and start TensorFlow. What a setting is for `make test` itself is an environment variable before it, such as
`ONEDNN_MAX_CPU_ISA=AVX2 make test`.
Needs Python's standard library and the environment that `make` has built.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
#: What computes with TensorFlow, and what computes with LiteRT.
TENSORFLOW = [
    "tests/layers", "tests/model", "tests/training", "tests/export", "tests/checkpoints", "tests/test_evaluation.py",
    "tests/test_weights.py",
]  # fmt: skip
LITE = ["tests/lite"]
#: Of TENSORFLOW what computes nothing that a setting changes: a file or a test, and what it is about. A new test runs
#: until it is named here.
LEFT_OUT = {
    "tests/checkpoints/test_command.py": "commands; their numbers are test_published.py's",
    "tests/checkpoints/test_torch_file.py": "reading files",
    "tests/checkpoints/test_without_torch.py": "a message",
    "tests/export/test_calibration.py": "choosing images, ranges in numpy",
    "tests/layers/test_grouped_conv.py::test_falls_back_where_the_gradient_is_missing": "its own setting",
    "tests/training/test_plans.py": "lists of runs",
    "tests/training/test_precision.py::test_the_trial_outlives_a_kernel_that_ends_the_process": "its own setting",
    "tests/training/test_resume.py": "files of runs",
    "tests/training/test_seeing.py": "what a run notes in its logs and prints",
}
#: Of LITE what runs a model or computes with numpy in its own process; what a test starts runs on the real processor.
COMPUTING_LITE = [
    f"tests/lite/test_{name}.py"
    for name in ("boxes", "detector", "forms", "postprocess", "preprocess", "runtime", "shipped", "tiles")
]
SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "sse41": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "no-onednn": {"TF_ENABLE_ONEDNN_OPTS": "0"},
}
QEMU = "qemu-haswell"
EMULATOR = ["qemu-x86_64", "-cpu", "Haswell"]


class Row(NamedTuple):
    """What one setting gave."""

    setting: str
    passed: int
    failed: int
    skipped: Counter[str]  # by reason
    minutes: float
    ended_well: bool


_printing = threading.Lock()


def run(setting: str) -> Row:
    """One setting's tests. Their output comes in one piece, when they have ended."""
    start = time.monotonic()
    if setting == QEMU:
        command = [*EMULATOR, sys.executable, "-m", "pytest", *COMPUTING_LITE]
    else:
        command = [sys.executable, "-m", "pytest", *TENSORFLOW, *(f"--deselect={name}" for name in LEFT_OUT)]
        command += LITE if setting == "default" else []  # LiteRT asks no variable of oneDNN's
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command += ["-q", "-m", "not slow", f"--junitxml={report}"]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **SETTINGS.get(setting, {})}, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        with _printing:
            print(f"=== {setting}\n{done.stdout}", flush=True)
        passed, failed, skipped = 0, 0, Counter[str]()
        for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
            reason = case.find("skipped")
            if reason is not None:
                skipped[reason.get("message", "")] += 1
            elif case.find("failure") is not None or case.find("error") is not None:
                failed += 1
            else:
                passed += 1
    return Row(setting, passed, failed, skipped, (time.monotonic() - start) / 60, done.returncode == 0)


def why_not_emulated() -> str | None:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"it emulates x86-64 Linux on x86-64 Linux; this is {platform.machine()} {platform.system()}"
    if shutil.which(EMULATOR[0]) is None:
        return f"there is no {EMULATOR[0]} (Debian's package qemu-user) here"
    return None


def table(rows: list[Row]) -> str:
    lines = ["setting        passed  failed  skipped  minutes"]
    for row in rows:
        ended = "" if row.ended_well or row.failed else "  ended early"
        lines.append(
            f"{row.setting:14} {row.passed:6}  {row.failed:6}  {row.skipped.total():7}  {row.minutes:7.1f}{ended}"
        )
        lines += [f"    {count} skipped: {reason}" for reason, count in row.skipped.items()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", nargs="*", help=f"of {', '.join([*SETTINGS, QEMU])} (default: all)")
    wanted = parser.parse_args().settings or [*SETTINGS, QEMU]
    if unknown := [setting for setting in wanted if setting not in (*SETTINGS, QEMU)]:
        parser.error(f"{unknown[0]!r} is no setting; choose of {', '.join([*SETTINGS, QEMU])}")
    absent = []
    if QEMU in wanted and (reason := why_not_emulated()):
        wanted.remove(QEMU)
        absent = [f"{QEMU:14} not run: {reason}"]
    print(f"{', '.join(wanted)}: two at a time, the output of each when it ends", flush=True)
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(run, wanted))
    print("\n".join([table(rows), *absent]))
    return 0 if all(row.ended_well for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
