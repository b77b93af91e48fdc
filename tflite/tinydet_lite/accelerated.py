"""One model on a GPU or an NPU, by way of LiteRT's CompiledModel; on the CPU `runtime.Session` is as fast.

Measured on x86-64 with the CPU as the only accelerator: equal outputs, equal time. So this one is for the others.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UserError
from .runtime import RuntimeFailed, Session, checked_threads, first_line

#: Where a network may run.
ACCELERATORS = ("cpu", "gpu", "npu")
_PACKAGE = "ai_edge_litert"
_LOG = logging.getLogger(__name__)


def open_session(model: bytes, num_threads: int | None, accelerator: str) -> Session | AcceleratedSession:
    """A model where it is wanted, or on the CPU, with a warning, where the accelerator cannot be had.

    Args:
        model, num_threads: as of `Session`.
        accelerator: one of ACCELERATORS.

    Raises:
        UserError: there is no such accelerator, or as `Session`.
    """
    if accelerator not in ACCELERATORS:
        raise UserError(f"accelerator {accelerator!r} came; expected one of {', '.join(ACCELERATORS)}")
    if accelerator == "cpu":
        return Session(model, num_threads)
    try:
        session = AcceleratedSession(model, num_threads, accelerator)
    except RuntimeFailed as failure:
        _LOG.warning("the %s cannot be used (%s); the CPU runs the model", accelerator.upper(), failure)
        return Session(model, num_threads)
    if not session.whole:
        _LOG.warning("the %s does not take all of the model; the CPU runs the rest", accelerator.upper())
    return session


class AcceleratedSession:
    """One model in one CompiledModel: what `Session` is to an interpreter, with the same use.

    The GPU computes in float32: row numbers and boxes of 320 pixels do not fit float16.

    Attributes:
        runtime: "ai_edge_litert, gpu" or "ai_edge_litert, npu".
        num_threads: of what the CPU does.
        whole: whether the accelerator takes all of the model.
        inputs, outputs: by name, each with "shape" and a numpy "dtype".
    """

    def __init__(self, model: bytes, num_threads: int | None, accelerator: str) -> None:
        """
        Args:
            model, num_threads: as of `Session`.
            accelerator: "gpu" or "npu"; the CPU takes what that does not.

        Raises:
            RuntimeFailed: ai_edge_litert is missing or too old, or finds no such accelerator.
            UserError: the number of threads is below 1.
        """
        try:
            from ai_edge_litert.compiled_model import CompiledModel
            from ai_edge_litert.hardware_accelerator import HardwareAccelerator
            from ai_edge_litert.options import CpuOptions, GpuOptions, Options
        except ImportError as error:
            raise RuntimeFailed(f"it needs ai-edge-litert 2.3 or newer: {first_line(error)}") from error
        self.num_threads = checked_threads(num_threads)
        self.runtime = f"{_PACKAGE}, {accelerator}"
        # Kept, since LiteRT may read from it for as long as it lives.
        self._bytes = model
        try:
            self._model = CompiledModel.from_buffer(
                model,
                options=Options(
                    hardware_accelerators=HardwareAccelerator[accelerator.upper()] | HardwareAccelerator.CPU,
                    cpu_options=CpuOptions(num_threads=self.num_threads),
                    gpu_options=GpuOptions(enforce_f32=True),
                ),
            )
            signatures = self._model.get_signature_list()
            if len(signatures) != 1:
                raise RuntimeFailed(f"the model has {len(signatures)} signatures; expected one")
            ((key, names),) = signatures.items()
            self.inputs = _details(names["inputs"], self._model.get_input_tensor_details(key))
            self.outputs = _details(names["outputs"], self._model.get_output_tensor_details(key))
            self._input_buffers = dict(zip(names["inputs"], self._model.create_input_buffers(0), strict=True))
            self._output_buffers = dict(zip(names["outputs"], self._model.create_output_buffers(0), strict=True))
            self.whole = bool(self._model.is_fully_accelerated())
        except (RuntimeError, ValueError, TypeError, KeyError, MemoryError) as error:
            raise RuntimeFailed(_reason(error, accelerator)) from error

    def run(self, inputs: dict[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], float]:
        """`Session.run`; the seconds are those until the outputs have been read."""
        try:
            for name, value in inputs.items():
                self._input_buffers[name].write(np.ascontiguousarray(value))
            start = time.perf_counter()
            self._model.run_by_index(0, list(self._input_buffers.values()), list(self._output_buffers.values()))
            outputs = {name: self._read(name) for name in self._output_buffers}
            seconds = time.perf_counter() - start
        except (RuntimeError, ValueError, MemoryError) as error:
            raise UserError(f"{self.runtime} cannot run the model ({first_line(error)})") from error
        return outputs, seconds

    def _read(self, name: str) -> NDArray[Any]:
        shape, dtype = self.outputs[name]["shape"], self.outputs[name]["dtype"]
        values: NDArray[Any] = self._output_buffers[name].read(int(np.prod(shape)), dtype)
        return values.reshape(shape)


def _details(names: list[str], found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """As an interpreter's, in which a dtype is numpy's."""
    return {name: {"shape": found[name]["shape"], "dtype": np.dtype(found[name]["dtype"]).type} for name in names}


def _reason(error: Exception, accelerator: str) -> str:
    """LiteRT says places in its own source where it found no device."""
    said = first_line(error)
    return f"LiteRT found none that works: no {accelerator.upper()} or no driver" if "ERROR: [" in said else said
