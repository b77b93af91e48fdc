"""LiteRT's own profiler, by way of its C library: the microseconds of every operator, inside the delegate too.

ai_edge_litert's Python API cannot switch the profiler on, so this talks to libLiteRt through ctypes. That is fragile: a
C library does not check what it is given, and its structures may change with its version. Therefore the calls are made
in a process of their own (this module run as a program), where each return code is checked and the layout of what comes
back is recognised before any of it is believed; whatever goes wrong there is one line here. The library's summary text
is not used: it merges operators of different partitions that have the same number and kind.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np
from numpy.typing import NDArray

from ..cli import run
from ..errors import UserError
from ..guard.child import ChildCrashed, ChildTimedOut, run_module

_PACKAGE = "ai_edge_litert"
_LIBRARIES = ("libLiteRt.so", "libLiteRt.dylib", "libLiteRt.dll", "LiteRt.dll")
#: The version whose structures were looked at.
WRITTEN_FOR = "2.3"
_TIMEOUT_SECONDS = 600

# litert_common.h, litert_options.h, litert_tensor_buffer.h, litert_layout.h
_ACCELERATOR_CPU = 1
_LOCK_WRITE = 1
_MAX_RANK = 8
# litert_profiler_event.h: bits of event_type
_PLAIN, _OPERATOR, _DELEGATE_OPERATOR, _DELEGATE_PROFILED = 1, 2, 4, 8
_EVENT_TYPES = frozenset(1 << bit for bit in range(9))
_EVENT_SOURCES = frozenset(range(3))
# An event as 64-bit words: tag, type, start, elapsed, memory before and after, 2 x metadata, source. Memory takes 3
# words each; LiteRT's header for C, which its own library does not follow, has 2.
_EVENT_WORDS = 13
_MOST_WORDS = 16


@dataclass(frozen=True)
class Event:
    """One operator in one run.

    Attributes:
        name: TFLite's for the runtime's own kernels ("GATHER"), XNNPACK's inside a partition.
        node: the operator's place in the file; None inside a partition, where it is not told.
        partition: which partition it belongs to, counted in the order they run; None outside.
        microseconds: how long it took, to the microsecond.
    """

    name: str
    node: int | None
    partition: int | None
    microseconds: int


@dataclass(frozen=True)
class Run:
    """One run of a model: its operators in the order they ran, and how long it took in all, in microseconds."""

    events: tuple[Event, ...]
    microseconds: int


def profile_runs(
    model: bytes, inputs: dict[str, NDArray[Any]], runs: int, warmup: int = 3, num_threads: int = 1
) -> list[Run]:
    """Run a flatbuffer under LiteRT's profiler.

    Args:
        model: a .tflite.
        inputs: an array for each input tensor, by its name; its dtype and shape must be the tensor's.
        runs: how many are recorded, at least 1.
        warmup: runs before them.
        num_threads: for XNNPACK, at least 1.

    Returns:
        `runs` runs; all of the same operators in the same order.

    Raises:
        UserError: ai_edge_litert is not there or has no profiler, or the profiler does not do what it did in the
            version this was written for.
    """
    if runs < 1 or warmup < 0 or num_threads < 1:
        raise UserError(
            f"{runs} runs, {warmup} warm-up runs and {num_threads} threads came; expected at least 1, 0 and 1"
        )
    _find_library()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(model)
        names = list(inputs)
        for index, name in enumerate(names):
            np.save(Path(folder, f"input{index}.npy"), inputs[name])
        request = {"names": names, "runs": runs, "warmup": warmup, "threads": num_threads}
        Path(folder, "request.json").write_text(json.dumps(request))
        _call_child(folder)
        result = json.loads(Path(folder, "result.json").read_text())
    recorded = [Run(tuple(Event(*event) for event in events), microseconds) for microseconds, events in result["runs"]]
    shape = [(event.name, event.node, event.partition) for event in recorded[0].events]
    if not shape or any(
        [(event.name, event.node, event.partition) for event in run.events] != shape for run in recorded
    ):
        raise UserError(
            "the runs of this model differ in their operators (it has loops, perhaps); they cannot be averaged"
        )
    return recorded


def litert_version() -> str:
    """Of the installed ai_edge_litert; "unknown" where its metadata is missing."""
    try:
        return importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _find_library() -> Path:
    specification = importlib.util.find_spec(_PACKAGE)
    if specification is None or specification.origin is None:
        raise UserError(
            "time per operator needs ai-edge-litert, which is not installed (tflite-runtime has no such profiler); "
            "`pip install ai-edge-litert`"
        )
    folder = Path(specification.origin).parent
    for name in _LIBRARIES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"ai-edge-litert {litert_version()} has no {_LIBRARIES[0]} in it, so there is no time per operator; "
        f"this was written for {WRITTEN_FOR}"
    )


def _call_child(folder: str) -> None:
    try:
        run_module("lab.litert_profiler", [folder], "LiteRT's profiler", _TIMEOUT_SECONDS)
    except ChildTimedOut as error:
        raise UserError(f"{error}; ask for fewer runs") from error
    except ChildCrashed as error:
        raise UserError(
            f"{error}; this was written for ai-edge-litert {WRITTEN_FOR}, here is {litert_version()}"
        ) from error
    if not Path(folder, "result.json").is_file():
        raise UserError(f"LiteRT's profiler wrote no result; ai-edge-litert {litert_version()} is here")


# What follows runs in the process of its own.


class _TensorType(ctypes.Structure):
    """LiteRtRankedTensorType with its LiteRtLayout."""

    _fields_ = (
        ("element_type", ctypes.c_int),
        ("rank", ctypes.c_uint32),
        ("dimensions", ctypes.c_int32 * _MAX_RANK),
        ("strides", ctypes.c_uint32 * _MAX_RANK),
    )


class _Library:
    """libLiteRt: its functions by name, each call's return code checked."""

    def __init__(self, path: Path) -> None:
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise UserError(f"{path.name} cannot be loaded ({error})") from error

    def function(self, name: str) -> Any:
        try:
            return getattr(self._library, name)
        except AttributeError as error:
            raise UserError(
                f"{_PACKAGE} {litert_version()} has no {name}, so there is no time per operator; "
                f"this was written for {WRITTEN_FOR}"
            ) from error

    def call(self, name: str, *arguments: Any) -> None:
        """Raises UserError where the function does not return kLiteRtStatusOk."""
        status = self.function(name)(*arguments)
        if status != 0:
            raise UserError(f"{_PACKAGE} {litert_version()}: {name} failed with status {status}")

    def made(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """Of a function whose last argument is where it writes a handle: the handle."""
        handle = ctypes.c_void_p()
        self.call(name, *arguments, ctypes.byref(handle))
        if not handle.value:
            raise UserError(f"{_PACKAGE} {litert_version()}: {name} gave nothing")
        return handle

    def destroyer(self, name: str, handle: ctypes.c_void_p) -> Callable[[], None]:
        destroy = self.function(name)
        destroy.restype = None
        return lambda: destroy(handle)


def _profile(folder: Path) -> list[tuple[int, list[Event]]]:
    request = json.loads((folder / "request.json").read_text())
    inputs = {name: np.load(folder / f"input{index}.npy") for index, name in enumerate(request["names"])}
    library = _Library(_find_library())
    with ExitStack() as stack:

        def keep(destroy: str, handle: ctypes.c_void_p) -> ctypes.c_void_p:
            stack.callback(library.destroyer(destroy, handle))
            return handle

        environment = keep("LiteRtDestroyEnvironment", library.made("LiteRtCreateEnvironment", 0, None))
        path = str(folder / "model.tflite").encode()
        model = keep("LiteRtDestroyModel", library.made("LiteRtCreateModelFromFile", environment, path))
        options = keep("LiteRtDestroyOptions", library.made("LiteRtCreateOptions"))
        library.call("LiteRtSetOptionsHardwareAccelerators", options, _ACCELERATOR_CPU)
        # LiteRT calls this to free the texts; they are ours, and live to the end.
        ignore = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
        texts = {
            b"runtime_options_string": b"enable_profiling = true\n",
            b"xnnpack": f"num_threads = {request['threads']}\n".encode(),
        }
        buffers = [(name, ctypes.create_string_buffer(text)) for name, text in texts.items()]
        for name, buffer in buffers:
            payload = ctypes.cast(buffer, ctypes.c_void_p)
            opaque = library.made("LiteRtCreateOpaqueOptions", name, payload, ignore)
            library.call("LiteRtAddOpaqueOptions", options, opaque)
        compiled = keep(
            "LiteRtDestroyCompiledModel", library.made("LiteRtCreateCompiledModel", environment, model, options)
        )
        profiler = library.made("LiteRtCompiledModelGetProfiler", compiled)  # the compiled model's own
        signature = library.made("LiteRtGetModelSignature", model, ctypes.c_size_t(0))

        def buffers_of(kind: str, fill: dict[str, NDArray[Any]] | None) -> Any:
            count = ctypes.c_size_t()
            library.call(f"LiteRtGetNumSignature{kind}s", signature, ctypes.byref(count))
            made = (ctypes.c_void_p * count.value)()
            for index in range(count.value):
                place = ctypes.c_size_t(index)
                tensor = library.made(f"LiteRtGetSignature{kind}TensorByIndex", signature, place)
                tensor_type = _TensorType()
                library.call("LiteRtGetRankedTensorType", tensor, ctypes.byref(tensor_type))
                requirements = library.made(
                    f"LiteRtGetCompiledModel{kind}BufferRequirements", compiled, ctypes.c_size_t(0), place
                )
                buffer = library.made(
                    "LiteRtCreateManagedTensorBufferFromRequirements",
                    environment,
                    ctypes.byref(tensor_type),
                    requirements,
                )
                made[index] = keep("LiteRtDestroyTensorBuffer", buffer)
                if fill is not None:
                    name = ctypes.c_char_p()
                    library.call("LiteRtGetTensorName", tensor, ctypes.byref(name))
                    _write(library, buffer, (name.value or b"").decode(errors="replace"), fill)
            return made

        sources, targets = buffers_of("Input", inputs), buffers_of("Output", None)

        def run() -> None:
            library.call(
                "LiteRtRunCompiledModel",
                compiled,
                ctypes.c_size_t(0),
                ctypes.c_size_t(len(sources)),
                sources,
                ctypes.c_size_t(len(targets)),
                targets,
            )

        for _ in range(request["warmup"]):
            run()
        recorded = []
        for _ in range(request["runs"]):
            # One run at a time, for the profiler's memory is bounded.
            library.call("LiteRtResetProfiler", profiler)
            library.call("LiteRtStartProfiler", profiler)
            run()
            library.call("LiteRtStopProfiler", profiler)
            recorded.append(_events(library, profiler))
    return recorded


def _write(library: _Library, buffer: ctypes.c_void_p, name: str, inputs: dict[str, NDArray[Any]]) -> None:
    if name not in inputs:
        raise UserError(f"LiteRT calls an input {name!r}; expected one of {sorted(inputs)}")
    content = np.ascontiguousarray(inputs[name])
    size = ctypes.c_size_t()
    library.call("LiteRtGetTensorBufferPackedSize", buffer, ctypes.byref(size))
    if content.nbytes != size.value:
        raise UserError(f"the input {name!r} has {content.nbytes} bytes; LiteRT expects {size.value}")
    address = ctypes.c_void_p()
    library.call("LiteRtLockTensorBuffer", buffer, ctypes.byref(address), _LOCK_WRITE)
    ctypes.memmove(address, content.ctypes.data, content.nbytes)
    library.call("LiteRtUnlockTensorBuffer", buffer)


def _events(library: _Library, profiler: ctypes.c_void_p) -> tuple[int, list[Event]]:
    """(microseconds of the run, its operators)."""
    count = ctypes.c_int()
    library.call("LiteRtGetNumProfilerEvents", profiler, ctypes.byref(count))
    if count.value < 1:
        raise UserError(f"{_PACKAGE} {litert_version()}: the profiler recorded nothing")
    words = np.zeros(count.value * _MOST_WORDS, np.uint64)
    library.call("LiteRtGetProfilerEvents", profiler, count, words.ctypes.data_as(ctypes.c_void_p))
    return group_events(split_words(words, count.value), lambda address: ctypes.string_at(address).decode())


def split_words(words: NDArray[np.uint64], count: int) -> list[tuple[int, int, int, int, int]]:
    """Recognise the layout of LiteRT's event structures.

    Args:
        words: uint64, the structures one behind the other, and zeros.
        count: how many events are in it.

    Returns:
        (address of the tag, type, elapsed microseconds, first metadata, source) of each event.

    Raises:
        UserError: it is not the one that is known.
    """
    low = np.uint64(0xFFFFFFFF)  # enumerations fill half a word; what is in the other half is not defined
    table = words[: count * _EVENT_WORDS].reshape(count, _EVENT_WORDS)
    types, sources = table[:, 1] & low, table[:, -1] & low
    fits = set(types.tolist()) <= _EVENT_TYPES and set(sources.tolist()) <= _EVENT_SOURCES
    if fits and (table[:, 0] != 0).all() and not words[count * _EVENT_WORDS :].any():
        columns = (table[:, 0], types, table[:, 3], table[:, 10], sources)
        return list(zip(*(column.tolist() for column in columns)))
    raise UserError(
        f"the events of {_PACKAGE} {litert_version()}'s profiler are laid out in a way that is not known; "
        f"this was written for {WRITTEN_FOR}"
    )


def group_events(
    records: Sequence[tuple[int, int, int, int, int]], text: Callable[[int], str]
) -> tuple[int, list[Event]]:
    """Sort one run's events into operators and partitions.

    Args:
        records: as `split_words` gives them.
        text: of a tag's address.

    Returns:
        (microseconds of the whole run, its operators in order)
    """
    events: list[Event] = []
    total = 0
    partition = -1
    last_inside: int | None = None  # number of the last operator inside the present partition
    for address, kind, elapsed, metadata, _ in records:
        if kind == _PLAIN and text(address) == "Invoke":
            total = elapsed
        elif kind in (_DELEGATE_OPERATOR, _DELEGATE_PROFILED):
            # The numbers start anew in each partition, also where two follow each other.
            if last_inside is None or metadata <= last_inside:
                partition += 1
            last_inside = metadata
            events.append(Event(text(address), None, partition, elapsed))
        elif kind == _OPERATOR:
            last_inside = None
            events.append(Event(text(address), metadata, None, elapsed))
    return total, events


def _main() -> None:
    folder = Path(sys.argv[1])
    recorded = _profile(folder)
    result = {
        "runs": [
            (total, [(event.name, event.node, event.partition, event.microseconds) for event in events])
            for total, events in recorded
        ]
    }
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    run(_main)
