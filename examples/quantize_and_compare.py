#!/usr/bin/env python3
"""Every format of a trained run: size, time and AP side by side.

    python examples/quantize_and_compare.py runs/mine --output exported

The run's own data is calibrated with (train) and measured on (val).
"""

import argparse
import statistics
from pathlib import Path

from tinydet_lite import Detector
from tinydet_lite.cli import run
from tinydet_lite.lab.synthetic import synthetic_image
from tinydet_tf import api

FORMATS = ("float32", "float16", "dynamic", "int8")
RUNS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--output", type=Path, default=Path("exported"), metavar="DIR", help="(default: exported)")
    parser.add_argument("--limit", type=int, metavar="N", help="measure on the first N pictures")
    args = parser.parse_args()

    args.output.mkdir(parents=True, exist_ok=True)
    data = api.data_of_model(Path(args.run))
    files = {name: args.output / f"{name}.tflite" for name in FORMATS}
    for name, path in files.items():
        api.export(args.run, path, format=name)
    times = interleaved_times(files)
    print(f"{'format':8} {'MB':>6} {'ms':>7} {'AP':>6} {'APs':>6}")
    for name, path in files.items():
        metrics = api.evaluate(path, data, limit=args.limit).metrics
        size = path.stat().st_size / 1e6
        print(f"{name:8} {size:6.2f} {times[name]:7.1f} {metrics['AP']:6.3f} {metrics['APs']:6.3f}")


def interleaved_times(files: dict[str, Path]) -> dict[str, float]:
    """Median milliseconds of a detection on one thread. The files take turns, so that a busy moment meets them all."""
    detectors = {name: Detector(path, num_threads=1) for name, path in files.items()}
    picture = synthetic_image()
    rounds = [
        {name: detector.timed(picture)[1].total_ms for name, detector in detectors.items()} for _ in range(RUNS + 1)
    ]
    return {name: statistics.median(each[name] for each in rounds[1:]) for name in files}  # the first is slower


if __name__ == "__main__":
    run(main)
