"""How long detection takes: several models measured side by side in one run, against what the machine can do.

The models take turns, one detection each a round, so that a machine that warms up or is disturbed does so for
all. The ceiling (see `ceiling`) takes its turn among them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..detector import Detector
from ..errors import UserError
from ..files import PathLike
from ..guard.flatbuffer import read_flatbuffer
from ..preprocess import ImageSource, as_rgb_array
from ..runtime import Session
from .ceiling import INPUT, STACK_MACS, conv_stack, stack_input
from .foreign import ForeignModel
from .inspection import inspect_model
from .memory import PeakMemory, peak_memory
from .operators import profile
from .synthetic import synthetic_image

#: What the ceiling is measured in.
CEILING_FORMATS = ("float32", "int8")
_MAX_PROFILE_RUNS = 20
#: The variant and the quantization of another's file, which does not say them as ours do.
FOREIGN = "-"


@dataclass(frozen=True)
class Milliseconds:
    """A spread of times in milliseconds."""

    median: float
    min: float
    p95: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Milliseconds:
        """Of at least one sample, in milliseconds."""
        return cls(float(np.median(samples)), float(np.min(samples)), float(np.percentile(samples, 95)))


@dataclass(frozen=True)
class BenchmarkResult:
    """One model with one number of threads.

    Attributes:
        file: the model's path as given.
        file_bytes: its size.
        variant, quantization, input_size: what the file says; FOREIGN for the first two of another's.
        runtime: which TFLite runtime ran it.
        threads: given to the interpreter.
        runs: measured detections; the warm-up is not among them.
        detections: how many objects the picture gave; soft-NMS takes longer with more. Of another's file 0.
        invoke: the interpreter alone.
        total: resizing, interpreter and soft-NMS, which another's file goes without. Decoding the picture's file is not
            in it.
        ratio: median invoke time over that of the first file with as many threads.
        macs: multiply-accumulates of one run, as `Inspection.macs` counts them: with those of zeros that the exporter
            puts between groups. None: the runtime does not tell.
        share_of_ceiling: MACs per median invoke time over the ceiling's, with as many threads, in `ceiling_format`;
            0..1. None: one of them is not known, or the file is another's.
    """

    file: str
    file_bytes: int
    variant: str
    quantization: str
    input_size: int
    runtime: str
    threads: int
    runs: int
    detections: int
    invoke: Milliseconds
    total: Milliseconds
    ratio: float = 1.0
    macs: int | None = None
    share_of_ceiling: float | None = None

    @property
    def ceiling_format(self) -> str:
        """Which ceiling it is held against: int8 models against int8's, all others, whose sums are wider, float's."""
        return "int8" if self.quantization == "int8" else "float32"

    @property
    def macs_per_second(self) -> float | None:
        """By the median invoke time."""
        return self.macs / self.invoke.median * 1e3 if self.macs else None


@dataclass(frozen=True)
class Ceiling:
    """The stack of 1x1 convolutions in one format with one number of threads."""

    format: str
    threads: int
    macs: int
    invoke: Milliseconds

    @property
    def macs_per_second(self) -> float:
        """By the median time."""
        return self.macs / self.invoke.median * 1e3


@dataclass(frozen=True)
class FileResult:
    """What does not depend on the rounds.

    Attributes:
        file: the model's path as given.
        file_bytes: its size.
        peak: resident memory of a process that runs it with the first number of threads; None: not known.
        partitions: how many pieces are delegated to XNNPACK; None: the runtime does not tell.
        undelegated: how many operators stay on the runtime's own kernels; None as before.
        parts: the share of the time, 0..1, of each of `profile.PARTS` with the first number of threads; None: no
            profiler here, or the file's tensors do not tell the parts.
    """

    file: str
    file_bytes: int
    peak: PeakMemory | None
    partitions: int | None
    undelegated: int | None
    parts: dict[str, float] | None


@dataclass(frozen=True)
class BenchmarkReport:
    """A whole run: results for each path and thread count, paths outermost; what is missing, a line each, in notes."""

    results: tuple[BenchmarkResult, ...]
    ceilings: tuple[Ceiling, ...]
    files: tuple[FileResult, ...]
    notes: tuple[str, ...]


def benchmark(
    paths: Sequence[PathLike],
    num_threads: Sequence[int] = (1,),
    runs: int = 50,
    warmup: int = 5,
    image: ImageSource | None = None,
    *,
    times_only: bool = False,
    others: Sequence[PathLike] = (),
    tell: Callable[[str], None] = lambda text: None,
) -> BenchmarkReport:
    """Measure every model with every number of threads, and the machine's ceiling, interleaved; then each file's
    memory and parts.

    Args:
        paths: .tflite files.
        num_threads: thread counts, each at least 1.
        runs: rounds that count.
        warmup: rounds before them that do not.
        image: what to detect on; None for `synthetic_image()`.
        times_only: leave out the ceiling, the memory and the parts.
        others: .tflite files of other makers, which take their turns after ours; their outputs are not looked at.
        tell: called now and then with what is being done.

    Raises:
        UserError: a model or the image cannot be used, or a number is out of range. What merely cannot be found out
            here becomes a note.
    """
    notes: list[str] = []
    stacks: dict[str, bytes] = {}
    try:
        stacks = {} if times_only else {kind: conv_stack(kind == "int8") for kind in CEILING_FORMATS}
    except UserError as error:
        notes.append(str(error))
    results, ceilings = _rounds(paths, others, num_threads, runs, warmup, image, stacks, tell)
    rates = {(ceiling.format, ceiling.threads): ceiling.macs_per_second for ceiling in ceilings}
    held = []
    for result in results:
        rate, top = result.macs_per_second, rates.get((result.ceiling_format, result.threads))
        share = rate / top if rate and top and result.quantization != FOREIGN else None
        held.append(dataclasses.replace(result, share_of_ceiling=share))
    files = []
    for path in [] if times_only else [*paths, *others]:
        tell(f"memory and parts of {path}")
        runtime = next(result.runtime for result in results if result.file == str(path))
        files.append(_file_result(path, runtime, num_threads[0], min(runs, _MAX_PROFILE_RUNS), image, notes))
    return BenchmarkReport(tuple(held), tuple(ceilings), tuple(files), tuple(dict.fromkeys(notes)))


def _rounds(
    paths: Sequence[PathLike],
    others: Sequence[PathLike],
    num_threads: Sequence[int],
    runs: int,
    warmup: int,
    image: ImageSource | None,
    stacks: dict[str, bytes],
    tell: Callable[[str], None],
) -> tuple[list[BenchmarkResult], list[Ceiling]]:
    if not paths or not num_threads:
        raise UserError("nothing to measure: give at least one model and one number of threads")
    if runs < 1 or warmup < 0:
        raise UserError(f"{runs} runs and {warmup} warm-up rounds came; expected at least 1 and 0")
    pixels = synthetic_image() if image is None else as_rgb_array(image)
    pairs: list[tuple[PathLike, Detector | ForeignModel]] = [
        *((path, Detector(path, num_threads=threads)) for path in paths for threads in num_threads),
        *((path, ForeignModel(path, num_threads=threads)) for path in others for threads in num_threads),
    ]
    tops = [
        (kind, Session(stack, threads), {INPUT: stack_input(kind == "int8")})
        for kind, stack in stacks.items()
        for threads in num_threads
    ]
    macs = {path: inspect_model(read_flatbuffer(path)).macs for path in dict.fromkeys([*paths, *others])}
    invoke: list[list[float]] = [[] for _ in pairs]
    total: list[list[float]] = [[] for _ in pairs]
    top_times: list[list[float]] = [[] for _ in tops]
    found = [0] * len(pairs)
    for round_number in range(warmup + runs):
        tell(f"round {round_number + 1} of {warmup + runs}")
        for index, (_, detector) in enumerate(pairs):
            if isinstance(detector, ForeignModel):
                timing = detector.timed(pixels)
            else:
                detections, timing = detector.timed(pixels)
                found[index] = len(detections)
            if round_number >= warmup:
                invoke[index].append(timing.invoke_ms)
                total[index].append(timing.total_ms)
        for index, (_, session, inputs) in enumerate(tops):
            seconds = session.run(inputs)[1]
            if round_number >= warmup:
                top_times[index].append(1e3 * seconds)
    spreads = [Milliseconds.of(samples) for samples in invoke]
    results = [
        BenchmarkResult(
            file=str(path),
            file_bytes=Path(path).stat().st_size,
            variant=FOREIGN if isinstance(detector, ForeignModel) else detector.info.variant,
            quantization=FOREIGN if isinstance(detector, ForeignModel) else detector.info.quantization,
            input_size=detector.input_size,
            runtime=detector.runtime,
            threads=detector.num_threads,
            runs=runs,
            detections=found[index],
            invoke=spreads[index],
            total=Milliseconds.of(total[index]),
            # The first file's results come first, in the same order of threads.
            ratio=spreads[index].median / spreads[index % len(num_threads)].median,
            macs=macs[path],
        )
        for index, (path, detector) in enumerate(pairs)
    ]
    ceilings = [
        Ceiling(kind, session.num_threads, STACK_MACS, Milliseconds.of(times))
        for (kind, session, _), times in zip(tops, top_times)
    ]
    return results, ceilings


def _file_result(
    path: PathLike, runtime: str, threads: int, runs: int, image: ImageSource | None, notes: list[str]
) -> FileResult:
    inspection = inspect_model(read_flatbuffer(path))
    undelegated = inspection.undelegated
    peak, parts = None, None
    try:
        peak = peak_memory(path, runtime, threads)
    except UserError as error:
        notes.append(str(error))
    if runtime == "ai_edge_litert":
        try:
            parts = profile(path, image, runs, num_threads=threads).parts()
        except UserError as error:
            notes.append(f"no shares of the parts: {error}")
    else:
        notes.append(f"no shares of the parts: {runtime} has no profiler (ai-edge-litert has)")
    return FileResult(
        file=str(path),
        file_bytes=Path(path).stat().st_size,
        peak=peak,
        partitions=None if inspection.partitions is None else len(inspection.partitions),
        undelegated=None if undelegated is None else len(undelegated),
        parts=parts,
    )
