"""Finds a TFLite runtime that works here and runs one model in it, by the names of its signature.

Shape letters: S input size.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import operator
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UserError

# Runtime -> module, and where in it the interpreter's class is. In this order: the first is maintained and
# small, the second is for old systems, the third takes seconds and hundreds of megabytes to import.
RUNTIMES = {
    "ai_edge_litert": ("ai_edge_litert.interpreter", "Interpreter"),
    "tflite_runtime": ("tflite_runtime.interpreter", "Interpreter"),
    # By way of `tensorflow`: the module tensorflow.lite, imported by itself, is empty.
    "tensorflow": ("tensorflow", "lite.Interpreter"),
}
# Forces one of RUNTIMES, to compare them or to look for a fault.
RUNTIME_VARIABLE = "TINYDET_RUNTIME"
# What pip installs to have a runtime on this Python.
PACKAGE = "-U ai-edge-litert" if sys.version_info >= (3, 10) else "tflite-runtime 'numpy<2'"
NOT_INSTALLED = "not installed"
# Beyond four threads these small networks gain nothing, and phones and boards have four fast cores at best.
MAX_DEFAULT_THREADS = 4
# XNNPACK crashes where the system gives it no more.
MOST_THREADS = 256


def default_threads() -> int:
    """The cores this process may use, at most four. (The interpreters' own default is one.)"""
    # macOS and Windows do not tell the affinity.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(usable or 1, MAX_DEFAULT_THREADS))


def checked_threads(num_threads: int | None) -> int:
    """The number given, or `default_threads()` for None.

    Raises:
        UserError: it is no whole number from 1 to MOST_THREADS.
    """
    if num_threads is None:
        return default_threads()
    try:
        number = operator.index(num_threads)  # also numpy's
    except TypeError as error:
        raise UserError(f"{num_threads!r} threads came; expected a whole number") from error
    if not 1 <= number <= MOST_THREADS:
        raise UserError(f"{number} threads came; expected 1 to {MOST_THREADS}")
    return number


class Session:
    """One model in one interpreter.

    Not for several threads at a time: an interpreter has one set of tensors.

    Attributes:
        runtime: which of RUNTIMES it is.
        num_threads: what the interpreter was given.
    """

    def __init__(self, model: bytes, num_threads: int | None = None) -> None:
        """Build an interpreter with the first runtime that can.

        Args:
            model: a flatbuffer that is known to be sound; interpreters crash on damaged ones
                (`flatbuffer.check_flatbuffer`, `trial.try_model`).
            num_threads: None for `default_threads()`.

        Raises:
            UserError: no runtime works; the message names each one tried and why it failed. Or the model has not
                one signature.
        """
        self.num_threads = checked_threads(num_threads)
        self.runtime, self._interpreter = build_interpreter(model, self.num_threads)
        # Some interpreters read from the caller's buffer for as long as they live.
        self._model = model
        with _as_user_error(self.runtime):
            signatures = list(self._interpreter.get_signature_list())
            if len(signatures) != 1:
                raise UserError(f"the model has {len(signatures)} signatures {signatures}; expected one")
            runner = self._interpreter.get_signature_runner(signatures[0])
            # The runner serves to look up tensor numbers by name; calling it would allocate anew at each picture.
            # It must be gone before the first run: interpreters refuse to run while anything else refers to them.
            self.inputs: dict[str, dict[str, Any]] = dict(runner.get_input_details())
            self.outputs: dict[str, dict[str, Any]] = dict(runner.get_output_details())

    def run(self, inputs: dict[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], float]:
        """Run the model once.

        Args:
            inputs: an array for each of the signature's inputs, of its exact shape and dtype.

        Returns:
            (a copy of each output by its name, seconds that the interpreter itself took)

        Raises:
            UserError: the interpreter refuses, in its words.
        """
        with _as_user_error(self.runtime):
            for name, value in inputs.items():
                self._interpreter.set_tensor(self.inputs[name]["index"], value)
            start = time.perf_counter()
            self._interpreter.invoke()
            seconds = time.perf_counter() - start
            outputs = {
                name: np.asarray(self._interpreter.get_tensor(details["index"]))
                for name, details in self.outputs.items()
            }
        return outputs, seconds


@contextlib.contextmanager
def _as_user_error(runtime: str) -> Iterator[None]:
    """What an interpreter raises over a model it cannot work with, as a UserError."""
    try:
        yield
    except UserError:  # is a ValueError too, and says what is wrong already
        raise
    except (RuntimeError, ValueError, MemoryError) as error:  # a text that is not UTF-8 is a ValueError
        raise UserError(f"{runtime} cannot run the model ({first_line(error)})") from error


def build_interpreter(model: bytes, num_threads: int) -> tuple[str, Any]:
    """The first runtime whose interpreter can be built *and* can take the model.

    An import alone proves nothing: tflite_runtime 2.14 imports under numpy 2 and fails when building.
    """
    forced = os.environ.get(RUNTIME_VARIABLE)
    if forced and forced not in RUNTIMES:
        raise UserError(f"{RUNTIME_VARIABLE} is {forced!r}; expected one of {', '.join(RUNTIMES)}, or unset")
    failures = []
    for runtime in [forced] if forced else list(RUNTIMES):
        try:
            return runtime, interpreter_of(runtime, model, num_threads)
        except RuntimeFailed as error:
            failures.append(f"{runtime}: {error}")
    raise UserError(
        f"no TFLite runtime can run the model ({'; '.join(failures)}); install one with `pip install {PACKAGE}`"
    )


class RuntimeFailed(Exception):
    """A runtime is absent or cannot take a model; the text says why, in a few words."""


def interpreter_of(runtime: str, model: bytes, num_threads: int) -> Any:
    """An interpreter of one of RUNTIMES, its tensors allocated.

    Raises:
        RuntimeFailed: there is none.
    """
    try:
        # numpy 2 prints a page when a module built for numpy 1 fails; below it is one line.
        with contextlib.redirect_stderr(io.StringIO()):
            module, attribute = RUNTIMES[runtime]
            interpreter_class = operator.attrgetter(attribute)(importlib.import_module(module))
            interpreter = interpreter_class(model_content=model, num_threads=num_threads)
            interpreter.allocate_tensors()
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == runtime
        raise RuntimeFailed(NOT_INSTALLED if missing else first_line(error)) from error
    # Whatever it is (numpy's ABI, an operator it lacks, a C library), another runtime may do better.
    except Exception as error:
        reason = first_line(error)
        if runtime == "tflite_runtime" and int(np.__version__.split(".")[0]) >= 2:
            reason = f"works with numpy below 2 only, and {np.__version__} is here"
        raise RuntimeFailed(reason) from error
    return interpreter


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
