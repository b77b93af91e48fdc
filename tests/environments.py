"""Python environments of tests' own, for clients whose pins clash with ours or that must not see our packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def without_our_paths() -> dict[str, str]:
    """The variables for a process that sees its own packages alone."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def python_with(folder: Path, *installs: Sequence[str], base: str = sys.executable) -> Path:
    """A new environment's Python; the test is skipped, and says so, where a package has no distribution to be had.

    Args:
      folder: where it is made.
      installs: what pip is called with, one call after the other.
      base: the Python it is made of.
    """
    subprocess.run([base, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    for arguments in installs:
        command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments]
        done = subprocess.run(command, env=without_our_paths(), capture_output=True, text=True, check=False)
        if done.returncode != 0 and "No matching distribution" in done.stderr:
            pytest.skip(f"{' '.join(arguments)} cannot be had here: {done.stderr.strip().splitlines()[-1]}")
        assert done.returncode == 0, done.stderr
    return python


def share_packages(python: Path) -> None:
    """Has a new environment's Python find what this process has, behind what is installed in its own environment."""
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = run_apart(python.parent, python, "-c", where).strip()
    # Folders that a .pth file names are searched last, and the .pth files in them, as of editable packages, not read.
    Path(packages, "others.pth").write_text("\n".join(others))


def python_with_wheels(folder: Path) -> Path:
    """A new environment's Python that has both wheels; all else is what this process has, read in its place.

    Args:
      folder: where it is made, outside any checkout.
    """
    # A copy, so that nothing is left in the checkout, and nothing that lies about there gets into a wheel.
    source = folder / "source"
    rubbish = shutil.ignore_patterns("__pycache__", "build", "*.egg-info", ".*")
    for name in ("tinydet_tf", "configs", "tflite"):
        shutil.copytree(ROOT / name, source / name, ignore=rubbish)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    python = python_with(folder / "environment")
    share_packages(python)
    pip = (python, "-m", "pip", "--disable-pip-version-check", "-q")
    built = ("--no-deps", "--no-build-isolation", "-w", folder / "built")
    # Our setuptools before the older one that a new environment of Python 3.10 or 3.11 has.
    ours = os.pathsep.join(path for path in sys.path if Path(path).name == "site-packages")
    run_apart(folder, *pip, "wheel", *built, source / "tflite", source, PYTHONPATH=ours)
    shutil.rmtree(source)
    run_apart(folder, *pip, "install", "--no-deps", "--force-reinstall", *(folder / "built").glob("*.whl"))
    return python


def run_apart(folder: Path, *command: object, **variables: str) -> str:
    """What a command writes to stdout that is started in the folder, with a cache of its own and without our paths."""
    environment = {**without_our_paths(), "TINYDET_CACHE": str(folder / "cache"), **variables}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
