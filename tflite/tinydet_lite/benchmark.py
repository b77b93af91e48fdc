"""How long detection takes: several models measured side by side in one run.

The models take turns, one detection each a round, so that a machine that warms up or is disturbed does so for
all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .detector import Detector
from .errors import UserError
from .files import PathLike
from .preprocess import ImageSource, as_rgb_array


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
        variant, quantization, input_size: what the file says.
        runtime: which TFLite runtime ran it.
        threads: given to the interpreter.
        runs: measured detections; the warm-up is not among them.
        detections: how many objects the picture gave; soft-NMS takes longer with more.
        invoke: the interpreter alone.
        total: resizing, interpreter and soft-NMS. Decoding the picture's file is not in it.
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


def benchmark(
    paths: Sequence[PathLike],
    num_threads: Sequence[int] = (1,),
    runs: int = 50,
    warmup: int = 5,
    image: ImageSource | None = None,
) -> list[BenchmarkResult]:
    """Measure every model with every number of threads, interleaved.

    Args:
        paths: .tflite files.
        num_threads: thread counts, each at least 1.
        runs: rounds that count.
        warmup: rounds before them that do not.
        image: what to detect on; None for `synthetic_image()`.

    Returns:
        A result for each path and thread count, paths outermost.

    Raises:
        UserError: a model or the image cannot be used, or a number is out of range.
    """
    if not paths or not num_threads:
        raise UserError("nothing to measure: give at least one model and one number of threads")
    if runs < 1 or warmup < 0:
        raise UserError(f"{runs} runs and {warmup} warm-up rounds came; expected at least 1 and 0")
    pixels = synthetic_image() if image is None else as_rgb_array(image)
    pairs = [(path, Detector(path, num_threads=threads)) for path in paths for threads in num_threads]
    invoke: list[list[float]] = [[] for _ in pairs]
    total: list[list[float]] = [[] for _ in pairs]
    found = [0] * len(pairs)
    for round_number in range(warmup + runs):
        for index, (_, detector) in enumerate(pairs):
            detections, timing = detector.timed(pixels)
            found[index] = len(detections)
            if round_number >= warmup:
                invoke[index].append(timing.invoke_ms)
                total[index].append(timing.total_ms)
    return [
        BenchmarkResult(
            file=str(path),
            file_bytes=Path(path).stat().st_size,
            variant=detector.info.variant,
            quantization=detector.info.quantization,
            input_size=detector.input_size,
            runtime=detector.runtime,
            threads=detector.num_threads,
            runs=runs,
            detections=found[index],
            invoke=Milliseconds.of(invoke[index]),
            total=Milliseconds.of(total[index]),
        )
        for index, (path, detector) in enumerate(pairs)
    ]


def synthetic_image(seed: int = 0) -> NDArray[np.uint8]:
    """Smooth coloured noise, uint8 [480, 640, 3], fixed by its seed. A detector finds little in it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC))
