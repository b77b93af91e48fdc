"""Tries a .tflite in a process of its own before this one loads it.

A runtime may corrupt its memory over a model whose flatbuffer is sound but whose operators contradict each other. Such
a model then ends the child, and here it is one line. A trial takes about as long as loading and running the model
twice; a file that passed is remembered in the user's cache folder and not tried again with the same runtimes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import PathLike
from ..models import SHIPPED
from ..runtime import RUNTIME_VARIABLE, build_interpreter
from .child import ChildCrashed, ChildNotStarted, run_module
from .flatbuffer import read_flatbuffer

_TIMEOUT_SECONDS = 120.0
_DISTRIBUTIONS = ("ai-edge-litert", "tflite-runtime", "tensorflow", "numpy")
_RUNS = 2


def try_unknown(path: PathLike) -> None:
    """`try_model`, unless the file comes with the package."""
    if Path(path) not in SHIPPED.values():
        try_model(path)


def try_model(path: PathLike, timeout: float = _TIMEOUT_SECONDS) -> None:
    """See that a model does not crash the runtime: load it apart, and run it on zeros.

    Whether it gives anything useful is not asked; a runtime's own errors come when the model is loaded here.

    Args:
        path: a .tflite, TinyDet's or another's.
        timeout: seconds that it may take.

    Raises:
        UserError: it cannot be read, is damaged, or crashes or blocks the runtime.
    """
    model = read_flatbuffer(path)
    stamp = _stamp(model)
    if stamp is not None and stamp.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        # The bytes that were checked, whatever happens to the file meanwhile.
        copy = Path(folder, "model.tflite")
        copy.write_bytes(model)
        try:
            run_module("guard.trial", [str(copy)], f"{path} cannot be run", timeout)
        except ChildNotStarted:
            # A sandbox, perhaps: what has no processes must do without a trial.
            return
        except ChildCrashed as error:
            raise UserError(f"{error}; it is damaged, or this runtime cannot take it: export it again") from error
    if stamp is not None:
        # Without a place to remember it, it is tried again.
        with suppress(OSError):
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.touch()


def _stamp(model: bytes) -> Path | None:
    digest = hashlib.sha256(model)
    for name in _DISTRIBUTIONS:
        with suppress(importlib.metadata.PackageNotFoundError):
            digest.update(f"{name} {importlib.metadata.version(name)}".encode())
    digest.update(f"{sys.version} {os.environ.get(RUNTIME_VARIABLE)}".encode())
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home
        return None
    return cache / "tinydet_lite" / "tried" / digest.hexdigest()


def _main() -> None:
    # What raises here raises there too, and is told there; only what does not return matters.
    with suppress(Exception):
        _, interpreter = build_interpreter(Path(sys.argv[1]).read_bytes(), 1)
        for details in interpreter.get_input_details():
            interpreter.set_tensor(details["index"], np.zeros(details["shape"], details["dtype"]))
        for _ in range(_RUNS):
            interpreter.invoke()
        for details in interpreter.get_output_details():
            interpreter.get_tensor(details["index"])


if __name__ == "__main__":
    _main()
