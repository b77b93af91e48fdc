"""Runs the whole way and tinydet_lite's tests under each Python that pyproject.toml promises: `make test-pythons`.

Interpreters are python3.X on the PATH or those of pyenv; one that is absent is named. Each gets an environment of its
own, .venvs/3.X, which `make` builds as it builds .venv. Needs Python's standard library alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ["data.digits_train_images=4", "data.digits_val_images=2"]
RECIPE = ["train.batch_size=4", "train.epochs=1", "train.proposals=100", "train.rcnn_samples=32"]  # one step


def promised() -> list[str]:
    """The minor versions of requires-python, such as '3.10'."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^requires-python = ">=3\.(\d+),<3\.(\d+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit('pyproject.toml: requires-python is not of the form ">=3.A,<3.B"')
    return [f"3.{minor}" for minor in range(int(found[1]), int(found[2]))]


def interpreter(version: str) -> Path | None:
    """A Python of that minor version; None where the machine has none that starts."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    candidates = [shutil.which(f"python{version}"), *map(str, pyenv.glob(f"{version}.*/bin/python{version}"))]
    for candidate in filter(None, candidates):
        # pyenv's shims are on the PATH for versions that are not switched on, and then fail.
        with contextlib.suppress(OSError):
            done = subprocess.run([candidate, "-c", "import venv, ensurepip"], capture_output=True, check=False)
            if done.returncode == 0:
                return Path(candidate)
    return None


def check(version: str, python: Path) -> None:
    """Installs, trains a step, exports, detects, and runs tinydet_lite's tests.

    Raises:
      subprocess.CalledProcessError: a step failed; its output went through.
    """
    environment = ROOT / ".venvs" / version
    run("make", f"VENV={environment}", f"PYTHON={python}", f"{environment}/.installed")
    bin_python = environment / "bin" / "python"
    run(bin_python, "-c", "import tinydet_lite, tinydet_tf; print(tinydet_lite.__version__, tinydet_tf.__version__)")
    with tempfile.TemporaryDirectory() as folder:
        trained, sample = Path(folder, "run"), Path(folder, "sample.jpg")
        values = [part for value in (*DATA, *RECIPE) for part in ("--set", value)]
        script(bin_python, "train.py", "--config", ROOT / "configs/digits_s.yaml", "--output", trained, *values)
        script(bin_python, "make_digits.py", "--sample", sample)
        for form in ("float32", "int8"):
            model = Path(folder, f"{form}.tflite")
            script(bin_python, "export.py", "--model", trained, "--format", form, "--output", model)
            script(bin_python, "detect.py", "--model", model, "--source", sample, "--output", Path(folder, form))
            if not Path(folder, form, "detections.json").is_file():
                raise SystemExit(f"{version}: detect.py wrote no detections.json for the {form} model")
    run(bin_python, "-m", "pytest", "-q", "-m", "not slow", "tests/lite")


def script(python: Path, name: str, *arguments: object) -> None:
    run(python, ROOT / "scripts" / name, *arguments)


def run(*command: object) -> None:
    print("+", *command, flush=True)
    subprocess.run([*map(str, command)], cwd=ROOT, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="*", metavar="3.X", help="(default: all that pyproject.toml promises)")
    lines, failed = [], False
    for version in parser.parse_args().versions or promised():
        python = interpreter(version)
        if python is None:
            lines.append(f"{version:6}  not tested: this machine has no Python {version}")
            continue
        print(f"=== Python {version}: {python}", flush=True)
        start = time.monotonic()
        try:
            check(version, python)
            result = "passed"
        except (subprocess.CalledProcessError, SystemExit) as error:
            failed, result = True, f"FAILED: {error}"
        lines.append(f"{version:6}  {result}, {(time.monotonic() - start) / 60:.1f} minutes")
    print("\n".join(lines))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
