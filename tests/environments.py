"""Python environments of tests' own, for clients whose pins clash with ours or that must not see our packages."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest


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
