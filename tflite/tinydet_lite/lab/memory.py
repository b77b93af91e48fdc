"""How much memory a model takes, measured in a process of its own.

The process first imports the runtime and notes its peak, then reads the model, builds the interpreter, runs it twice
and notes the peak again. Linux tells the peak of a process (VmHWM in /proc); resource.getrusage would also count what
the parent had when it forked, so it is asked only where there is no /proc.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..cli import run
from ..files import PathLike
from ..guard.child import run_module
from ..guard.flatbuffer import read_flatbuffer
from ..runtime import RUNTIME_VARIABLE, RUNTIMES, Session

_STATUS = Path("/proc/self/status")
_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class PeakMemory:
    """Bytes of resident memory at their peak.

    Attributes:
        process: of the whole process: Python, numpy, the runtime, the file, the model at work.
        model: what the model adds to a process that has imported its runtime and built no interpreter.
    """

    process: int
    model: int


def peak_memory(path: PathLike, runtime: str, num_threads: int = 1) -> PeakMemory | None:
    """Of one model, in a child process.

    Args:
        path: a .tflite with one signature.
        runtime: one of `runtime.RUNTIMES`, which works here.
        num_threads: for the interpreter.

    Returns:
        None where the system does not tell (Windows).

    Raises:
        UserError: the child cannot run the model.
    """
    told = run_module(
        "lab.memory",
        [os.path.abspath(path), runtime, str(num_threads)],
        f"{path}: its memory could not be measured",
        _TIMEOUT_SECONDS,
        {RUNTIME_VARIABLE: runtime},
    )
    values = json.loads(told.splitlines()[-1])
    return None if values is None else PeakMemory(**values)


def peak_bytes() -> int | None:
    """Resident memory of this process at its peak so far, in bytes; None where the system does not tell (Windows)."""
    with suppress(OSError):
        told = re.search(r"^VmHWM:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
        if told:
            return int(told[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _main() -> None:
    path, runtime, threads = sys.argv[1:]
    importlib.import_module(RUNTIMES[runtime][0])
    before = peak_bytes()
    session = Session(read_flatbuffer(path), int(threads))
    inputs = {name: np.zeros(details["shape"], details["dtype"]) for name, details in session.inputs.items()}
    for _ in range(2):
        session.run(inputs)
    after = peak_bytes()
    told = None if before is None or after is None else {"process": after, "model": after - before}
    print(json.dumps(told))


if __name__ == "__main__":
    run(_main)
