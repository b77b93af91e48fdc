"""`benchmark`: time one or several models side by side; print tables, write JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cli import run
from ..errors import printable
from ..files import atomic_write, check_target
from ..guard.trial import try_model
from ..lab.benchmark import FOREIGN, BenchmarkReport, BenchmarkResult, FileResult, benchmark
from ..lab.ceiling import CHANNELS, SIZE
from ..lab.operators import PARTS
from ..models import model_file
from ..preprocess import as_rgb_array
from ..status import StatusLine
from .tables import table

_UNKNOWN = "-"


def main(argv: Sequence[str] | None = None) -> None:
    """Parse `argv` (sys.argv without the program's name if None), measure, print and write.

    Raises:
        UserError: something given is wrong.
    """
    arguments = _parser().parse_args(argv)
    if arguments.json is not None:
        check_target(arguments.json)  # minutes later would be a pity
    image = None if arguments.image is None else as_rgb_array(arguments.image)
    for model in [*arguments.models, *arguments.others]:
        try_model(model)
    with StatusLine(sys.stderr) as status:
        report = benchmark(
            arguments.models,
            arguments.threads,
            arguments.runs,
            arguments.warmup,
            image,
            times_only=arguments.times_only,
            others=arguments.others,
            tell=lambda text: status.show(printable(text)),
        )
    if image is None:
        picture = "a synthetic picture (seeded noise, 640 x 480)"
    else:
        picture = f"{Path(arguments.image).name} ({image.shape[1]} x {image.shape[0]})"
    print("\n".join(_lines(report, arguments.runs, picture)))
    if arguments.json is not None:
        atomic_write(arguments.json, (json.dumps(_json(report, picture), indent=2) + "\n").encode())


def console() -> None:
    """The entry point `tinydet-benchmark`."""
    run(main)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time TinyDet .tflite files side by side on this machine, against the fastest it can multiply."
    )
    parser.add_argument("models", type=model_file, nargs="+", metavar="X.tflite", help="what tinydet export made")
    parser.add_argument(
        "--others", nargs="+", default=[], metavar="Y.tflite",
        help="files of other makers that take one picture, timed in the same rounds; their total has no NMS",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, nargs="+", default=[1], metavar="N", help="each one (default: 1)")
    parser.add_argument("--image", metavar="IMG", help="default: a synthetic picture, in which little is found")
    parser.add_argument("--runs", type=int, default=50, metavar="N", help="default: %(default)s")
    parser.add_argument("--warmup", type=int, default=5, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--times-only", action="store_true", help="leave out the ceiling, the memory and the shares of the parts"
    )
    parser.add_argument("--json", metavar="OUT", help="also write the results there")
    return parser


def _lines(report: BenchmarkReport, runs: int, picture: str) -> list[str]:
    lines = [
        f"{runs} runs each, interleaved, on {printable(picture)}; milliseconds",
        "invoke: the interpreter alone, ratio: its median over the first file's; "
        "total: resize, invoke and soft-NMS, decoding not included; "
        "% of ceiling: int8 models of int8's, others of float32's",
        _time_table(report.results),
    ]
    if report.ceilings:
        stack = f"plain 1x1 convolutions, {CHANNELS} channels at {SIZE} x {SIZE}"
        lines += ["", f"The ceiling, in the same rounds: a stack of {stack}"]
        rows = [
            [
                ceiling.format,
                str(ceiling.threads),
                f"{ceiling.invoke.median:.2f}",
                f"{ceiling.macs_per_second / 1e9:.1f}",
            ]
            for ceiling in report.ceilings
        ]
        lines.append(table(["format", "threads", "median", "GMAC/s"], rows, left={"format"}))
    if report.files:
        lines += [
            "",
            "peak MB: of a process that runs the file, + what the file adds to one with the runtime alone; "
            "parts: % of the operators' time",
            _file_table(report.files),
        ]
    lines += [f"note: {printable(note)}" for note in report.notes]
    return lines


def _time_table(results: Sequence[BenchmarkResult]) -> str:
    header = [
        "model", "variant", "format", "input", "runtime", "threads", "found",
        "invoke median", "min", "p95", "ratio", "total median", "min", "p95", "MMACs", "GMAC/s", "% of ceiling",
    ]  # fmt: skip
    rows = [
        [
            name,
            printable(result.variant),
            printable(result.quantization),
            str(result.input_size),
            result.runtime,
            str(result.threads),
            _UNKNOWN if result.variant == FOREIGN else str(result.detections),
            *(f"{value:.2f}" for value in dataclasses.astuple(result.invoke)),
            f"{result.ratio:.3f}",
            *(f"{value:.2f}" for value in dataclasses.astuple(result.total)),
            _UNKNOWN if result.macs is None else f"{result.macs / 1e6:.1f}",
            _UNKNOWN if result.macs_per_second is None else f"{result.macs_per_second / 1e9:.1f}",
            _percent(result.share_of_ceiling),
        ]
        for name, result in zip(_names([result.file for result in results]), results)
    ]
    return table(header, rows, left={"model", "variant", "format", "runtime"})


def _file_table(files: Sequence[FileResult]) -> str:
    header = ["model", "MB", "peak MB", "+ MB", "partitions", "undelegated", *PARTS]
    rows = [
        [
            name,
            f"{file.file_bytes / 1e6:.2f}",
            _UNKNOWN if file.peak is None else f"{file.peak.process / 1e6:.1f}",
            _UNKNOWN if file.peak is None else f"{file.peak.model / 1e6:.1f}",
            _UNKNOWN if file.partitions is None else str(file.partitions),
            _UNKNOWN if file.undelegated is None else str(file.undelegated),
            *(_percent(None if file.parts is None else file.parts[part]) for part in PARTS),
        ]
        for name, file in zip(_names([file.file for file in files]), files)
    ]
    return table(header, rows, left={"model"})


def _names(files: Sequence[str]) -> list[str]:
    """The files' names, or their paths where two of them have the same name."""
    distinct = len({Path(file).name for file in files}) == len(set(files))
    return [printable(Path(file).name if distinct else file) for file in files]


def _percent(share: float | None) -> str:
    return _UNKNOWN if share is None else f"{100 * share:.1f}"


def _json(report: BenchmarkReport, picture: str) -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "image": picture,
        "results": [
            {
                **dataclasses.asdict(result),
                "ceiling_format": result.ceiling_format,
                "macs_per_second": result.macs_per_second,
            }
            for result in report.results
        ],
        "ceilings": [
            {**dataclasses.asdict(ceiling), "macs_per_second": ceiling.macs_per_second} for ceiling in report.ceilings
        ],
        "files": [dataclasses.asdict(file) for file in report.files],
        "notes": list(report.notes),
    }
