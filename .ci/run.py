"""All that a submission has to pass, on a machine that has Python and nothing else of ours.

Parts that share two processes among themselves run one after another; what follows them are parts of one process each,
two at a time. A part that fails does not stop the others: the table at the end has them all, and the exit code is 1.
Needs Python's standard library alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import test_cpus
import test_pythons

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ".venv/bin/python"
#: A run may take 90 minutes and is meant to take less than 60. No slow test that does not come first takes more than
#: 10, on a slow machine too, and no part of those that run two at a time more than 20: none begins after so many
#: seconds.
LAST_SLOW_TEST = 36 * 60
LAST_START = 46 * 60
#: What runs two at a time, the longest first, so that both lanes end together.
SETTINGS = ("avx2", "no-onednn", test_cpus.QEMU, "sse41")
PYTHONS = ("3.13", "3.10", "3.12", "3.11")
#: Of these what comes last, and only begins in time for a whole run of less than an hour: what stands between others.
#: TensorFlow's wheels need AVX, so that nobody has a processor like "sse41"; it is one more order of adding up.
SPARE = ("3.12", "3.11", "sse41")
SPARE_START = 40 * 60
#: A browser, the Raspberry Pis' processors and an older x86-64 under emulation. Without them their tests are skipped.
PACKAGES = ("chromium", "chromium-driver", "qemu-user", "mmdebstrap")

began = time.monotonic()
rows: list[tuple[str, str]] = []
failed: list[str] = []
printing = threading.Lock()


def say(text: str) -> None:
    with printing:
        print(f"##### {time.strftime('%H:%M:%S', time.gmtime())} {text}", flush=True)


def note(name: str, code: int, start: float) -> None:
    """A row of the table."""
    rows.append((name, f"{(time.monotonic() - start) / 60:5.1f}  {'passed' if code == 0 else 'FAILED'}"))
    if code != 0:
        failed.append(name)


def leave_out(name: str, reason: str) -> None:
    say(f"{name}: {reason}")
    rows.append((name, f"    -  {reason}"))


def debian_packages() -> None:
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        leave_out("Debian packages", "left out: there is no apt-get here, or no root")
        return
    say("Debian packages")
    start, quiet = time.monotonic(), {"stdout": subprocess.DEVNULL, "check": False}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
    done = subprocess.run(["apt-get", "update", "-qq"], **quiet)
    if done.returncode == 0:
        done = subprocess.run(install, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, **quiet)
    if done.returncode == 0:
        note("Debian packages", 0, start)
    else:
        leave_out("Debian packages", "cannot be had: some tests will be skipped")


def alone(name: str, *commands: list[str], environment: dict[str, str] | None = None) -> bool:
    """Commands one after another, until one fails. Their output goes through."""
    say(name)
    start, code = time.monotonic(), 0
    for command in commands:
        code = code or subprocess.run(command, cwd=ROOT, env={**os.environ, **(environment or {})}).returncode
    note(name, code, start)
    return code == 0


def beside_another(part: str, name: str, command: list[str]) -> None:
    """A command whose output comes in one piece, when it has ended; none that would begin too late for its part."""
    start = time.monotonic()
    if start - began > (SPARE_START if part in SPARE else LAST_START):
        leave_out(name, f"NOT RUN for want of time, after {(start - began) / 60:.0f} minutes")
        return
    say(f"{name} begins; its output comes when it ends")
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        code = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
        output.seek(0)
        say(f"{name}, output of {(time.monotonic() - start) / 60:.1f} minutes:\n{output.read()}")
    note(name, code, start)


def lanes() -> None:
    """Other vector units, without oneDNN, an older processor, other Pythons: the default of each was make test's."""
    jobs: list[tuple[str, str, list[str]]] = []
    for setting in SETTINGS:
        name = f"test-cpus {setting}"
        if setting == test_cpus.QEMU and (reason := test_cpus.why_not_emulated()):
            leave_out(name, f"not run: {reason}")
        else:
            jobs.append((setting, name, ["make", "test-cpus", f"CPUS={setting}"]))
    ours = subprocess.run(
        [PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    for version in PYTHONS:
        name = f"test-pythons {version}"
        if version == ours:
            leave_out(name, "left out: `make test` runs on it")
        elif test_pythons.interpreter(version) is None:
            leave_out(name, f"not tested: this machine has no Python {version}")
        else:
            jobs.append((version, name, ["make", "test-pythons", f"PYTHONS={version}"]))
    jobs.sort(key=lambda job: SPARE.index(job[0]) + 1 if job[0] in SPARE else 0)
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(beside_another, *job) for job in jobs]:
            future.result()


def main() -> int:
    argparse.ArgumentParser(prog=".ci/run", description=(__doc__ or "").split("\n\n")[0]).parse_args()
    debian_packages()
    if alone("environment, formatting, types", ["make", "lint"]):
        durations = {"PYTEST_ADDOPTS": "--durations=40"}
        alone("make test", ["make", "test"], environment=durations)
        # What make test skips where PyTorch is not.
        compared = [PYTHON, "-m", "pytest", "-m", "not slow", "-n", "2", "--dist", "loadfile", "tests/checkpoints"]
        alone("comparison with PyTorch", ["make", "torch"], compared, environment=durations)
        # They train on digits and, where the real images are beside the checkout, on those. Two processes, a file of
        # tests each: those that learn first, then in an order of the commit's own (tests/conftest.py).
        slow = ["-m", "slow", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-v", "--durations=40"]
        last = time.time() + LAST_SLOW_TEST - (time.monotonic() - began)
        turn = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        environment = {"TINYDET_TESTS_BEGIN_UNTIL": str(last), "TINYDET_TESTS_TURN": turn}
        alone("slow tests", [PYTHON, "-m", "pytest", *slow], environment=environment)
        lanes()
    say(f"after {(time.monotonic() - began) / 60:.1f} minutes")
    width = max(len(name) for name, _ in rows)
    print("\n".join([f"{'part':{width}}  minutes", *(f"{name:{width}}  {result}" for name, result in rows)]))
    print(f"FAILED: {', '.join(failed)}" if failed else "all that was run passed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
