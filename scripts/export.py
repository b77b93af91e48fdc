#!/usr/bin/env python3
"""Export a run or weights file to one .tflite that needs builtin operators only."""

from __future__ import annotations

import argparse
from pathlib import Path

from tinydet_lite.cli import run
from tinydet_lite.errors import UserError
from tinydet_tf.config import VARIANTS


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="RUN|WEIGHTS")
    parser.add_argument("--variant", help=f"one of {', '.join(VARIANTS)}; needed only for weights that do not say it")
    parser.add_argument("--format", choices=("float32", "float16", "dynamic", "int8"), default="float32")
    parser.add_argument("--postprocess", choices=("host", "tasks"), default="host")
    parser.add_argument("--calibration", metavar="DATA", help="images for int8")
    parser.add_argument("--output", type=Path, required=True, metavar="X.tflite")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.variant is not None and args.variant not in VARIANTS:
        raise UserError(f"variant {args.variant!r} does not exist; choose one of {', '.join(VARIANTS)}")
    if args.calibration is not None:
        raise UserError("--calibration belongs to --format int8, which is not there yet; leave it out")
    if not args.output.parent.is_dir():
        raise UserError(f"--output {args.output}: there is no folder {args.output.parent}")

    from tinydet_tf.export.convert import convert, count_operators, write_tflite
    from tinydet_tf.weights import load_detector

    detector, config = load_detector(args.model, variant=args.variant)
    content = convert(detector, config, quantization=args.format, postprocess=args.postprocess)
    write_tflite(content, args.output)
    operators = count_operators(content)
    print(f"TinyDet-{config.variant}, {detector.num_classes} classes, {config.model.input_size}x"
          f"{config.model.input_size}, {args.format}: {args.output}, {len(content) / 1e6:.1f} MB")  # fmt: skip
    print(f"{sum(operators.values())} operators, builtin only: "
          + ", ".join(f"{name} {count}" for name, count in operators.most_common()))  # fmt: skip
    print(f"Next:\n  python scripts/detect.py --model {args.output} --source IMAGE")


if __name__ == "__main__":
    run(main)
