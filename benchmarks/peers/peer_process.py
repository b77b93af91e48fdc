"""Runs a peer's programs as child processes, in Python environments of their own, and measures their processor time."""

from __future__ import annotations

import os
import re
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_write

#: What pip is called with for the peers' environment: releases that ran together, all from PyPI.
INSTALLS = (
    ("torch==2.14.1", "torchvision==0.29.1"),
    ("ultralytics==8.4.190",),
    ("litert-torch==0.10.0", "ai-edge-litert==2.3.0", "ai-edge-quantizer==0.10.0"),
)
_PINS_FILE = "installed.txt"
_TAIL = 15  # lines of a log that a failure shows


@dataclass(frozen=True)
class Usage:
    """What a child and all of its own children took: minutes of processor time, user and system, and of the clock."""

    processor_minutes: float
    wall_minutes: float


@dataclass(frozen=True)
class Job:
    """One run of a peer.

    Attributes:
      python: of the environment that it runs in.
      source: the data set as given; limit: of it the first N images of every split, or None.
      arguments: for our own training alone.
      data: a temporary folder, for the data set as the peer reads it.
      output: where its weights and what it found go; log: a file in it, for all that it prints.
    """

    python: Path
    source: Path
    limit: int | None
    arguments: tuple[str, ...]
    data: Path
    output: Path
    log: Path


def environment(folder: Path, installs: Sequence[Sequence[str]] = INSTALLS) -> Path:
    """The Python of an environment that holds what `installs` name; it is built at the first call.

    Args:
      folder: the environment's. One that was built with other pins is refused, not changed.
      installs: what pip is called with, one call after the other.

    Raises:
      UserError: the folder holds something else, or pip fails; then the environment counts as not built.
    """
    python, pins = folder / "bin" / "python", folder / _PINS_FILE
    wanted = "".join(shlex.join(arguments) + "\n" for arguments in installs)
    if pins.is_file():
        if pins.read_text() != wanted:
            raise UserError(f"{folder} was built with other versions ({pins}); remove it, or give another folder")
        return python
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise UserError(f"{folder} is no Python environment; give a folder that is empty or absent")
    print(f"Building the environment {folder}; this takes minutes and gigabytes", flush=True)
    log = folder.with_name(f"{folder.name}.log")
    folder.parent.mkdir(parents=True, exist_ok=True)
    run([sys.executable, "-m", "venv", str(folder)], log)
    for arguments in installs:
        run([str(python), "-m", "pip", "install", *arguments], log)
    atomic_write(pins, wanted.encode())
    return python


def run(command: Sequence[str], log: Path, *, variables: Mapping[str, str] | None = None) -> Usage:
    """Runs a command, its output in `log` (appended), and waits for it.

    Args:
      command: the program and its arguments.
      log: a text file.
      variables: of the environment, beside those that this process has. PYTHONPATH is left out, so that the child sees
        its own packages alone.

    Raises:
      UserError: it ended with another code than 0; the message has the last lines of the log.
    """
    inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    with log.open("a") as file:
        file.write(f"$ {shlex.join(command)}\n")
        file.flush()
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(
            command, env={**inherited, **(variables or {})}, stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
    if done.returncode:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise UserError(
            f"{Path(command[0]).name} ended with {done.returncode}; see {log}: " + " / ".join(lines[-_TAIL:])
        )
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Usage(seconds / 60, wall / 60)


def versions(python: Path, packages: Sequence[str], log: Path) -> dict[str, str]:
    """The version of each package that an environment has, and of its Python."""
    program = (
        "import importlib.metadata as m, platform, sys\n"
        "print('version python', platform.python_version())\n"
        "for name in sys.argv[1:]: print('version', name, m.version(name))\n"
    )
    start = log.stat().st_size if log.is_file() else 0
    run([str(python), "-c", program, *packages], log)
    printed = log.read_bytes()[start:].decode(errors="replace")
    return dict(re.findall(r"^version (\S+) (\S+)$", printed, re.MULTILINE))
