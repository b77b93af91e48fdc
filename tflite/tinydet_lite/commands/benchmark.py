"""`benchmark`: time one or several models side by side; print a table, write JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from ..benchmark import BenchmarkResult, benchmark
from ..cli import printable, run
from ..files import atomic_write, check_target
from ..preprocess import as_rgb_array


def main(argv: Sequence[str] | None = None) -> None:
    """Parse `argv` (sys.argv without the program's name if None), measure, print and write.

    Raises:
        UserError: something given is wrong.
    """
    arguments = _parser().parse_args(argv)
    if arguments.json is not None:
        check_target(arguments.json)  # minutes later would be a pity
    image = None if arguments.image is None else as_rgb_array(arguments.image)
    results = benchmark(arguments.models, arguments.threads, arguments.runs, arguments.warmup, image)
    if image is None:
        picture = "a synthetic picture (seeded noise, 640 x 480)"
    else:
        picture = f"{Path(arguments.image).name} ({image.shape[1]} x {image.shape[0]})"
    print(f"{arguments.runs} runs each, interleaved, on {printable(picture)}; milliseconds")
    print("invoke: the interpreter alone; total: resize, invoke and soft-NMS, decoding not included")
    print(_table(results))
    if arguments.json is not None:
        report = {
            "machine": platform.machine(),
            "system": platform.system(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "image": picture,
            "results": [dataclasses.asdict(result) for result in results],
        }
        atomic_write(arguments.json, (json.dumps(report, indent=2) + "\n").encode())


def console() -> None:
    """The entry point `tinydet-benchmark`."""
    run(main)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Time TinyDet .tflite files side by side on this machine.")
    parser.add_argument("models", nargs="+", metavar="X.tflite")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], metavar="N", help="each one (default: 1)")
    parser.add_argument("--image", metavar="IMG", help="default: a synthetic picture, in which little is found")
    parser.add_argument("--runs", type=int, default=50, metavar="N", help="default: %(default)s")
    parser.add_argument("--warmup", type=int, default=5, metavar="N", help="default: %(default)s")
    parser.add_argument("--json", metavar="OUT", help="also write the results there")
    return parser


def _table(results: Sequence[BenchmarkResult]) -> str:
    header = [
        "model", "variant", "format", "input", "MB", "runtime", "threads", "found",
        "invoke median", "min", "p95", "total median", "min", "p95",
    ]  # fmt: skip
    rows = [header]
    for result in results:
        rows.append(
            [
                printable(Path(result.file).name),
                printable(result.variant),
                printable(result.quantization),
                str(result.input_size),
                f"{result.file_bytes / 1e6:.2f}",
                result.runtime,
                str(result.threads),
                str(result.detections),
                *(
                    f"{value:.2f}"
                    for times in (result.invoke, result.total)
                    for value in (times.median, times.min, times.p95)
                ),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    texts = 3  # columns of words; numbers follow, except the runtime
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < texts or header[column] == "runtime" else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
