"""Export a run or weights file to one .tflite that needs builtin operators only."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

from tinydet_lite.errors import UserError
from tinydet_lite.metadata import POSTPROCESS
from tinydet_tf.cli.options import add_model, check_least, check_variant
from tinydet_tf.commands import command_text
from tinydet_tf.data.labelled import SPLIT_CHOICES


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser)
    parser.add_argument("--format", choices=("float32", "float16", "dynamic", "int8", "int16"), default="float32")
    parser.add_argument(
        "--postprocess",
        choices=POSTPROCESS,
        default="host",
        help="where soft-NMS runs: in tinydet_lite, or in the file, for MediaPipe Tasks and Android (docs/tasks.md)",
    )
    parser.add_argument(
        "--picture-size",
        type=size,
        metavar="WxH",
        help="of tasks: the pictures whose boxes shall be exact to the pixel (default: the input's own size)",
    )
    calibration = parser.add_argument_group("images that int8 and int16 take their ranges from")
    calibration.add_argument(
        "--data", "--calibration", metavar="DIR", help="as in train (default: what the run was trained on)"
    )
    calibration.add_argument("--split", choices=SPLIT_CHOICES, default="train")
    calibration.add_argument("--calibration-images", type=int, metavar="N", help="how many of them (default: 32)")
    calibration.add_argument("--seed", type=int, default=0, help="which of them (default: 0)")
    parser.add_argument("--output", type=Path, required=True, metavar="X.tflite")
    return parser.parse_args()


def size(text: str) -> tuple[int, int]:
    """'640x480' -> (640, 480)."""
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not WxH in pixels, for example 640x480")
    return int(found[1]), int(found[2])


def main() -> None:
    args = parse()
    check_variant(args.variant)
    check_least(args, calibration_images=1)
    if args.picture_size is not None and args.postprocess != "tasks":
        raise UserError("--picture-size is for --postprocess tasks: the host sees how large the picture is")
    if not args.output.parent.is_dir():
        raise UserError(f"--output {args.output}: there is no folder {args.output.parent}")

    from tinydet_lite.lab.inspection import inspect_model
    from tinydet_tf.data.splits import load_split
    from tinydet_tf.export.calibration import (
        DEFAULT_IMAGES,
        calibration_data,
        calibration_file,
        load_calibration_images,
        write_calibration,
    )
    from tinydet_tf.export.convert import export, write_tflite
    from tinydet_tf.export.kept_ranges import kept_ranges
    from tinydet_tf.export.schemes import scheme_named
    from tinydet_tf.weights import load_detector

    detector, config = load_detector(args.model, variant=args.variant)
    scheme, samples, observations = scheme_named(args.format), None, None
    if args.format == "int8" and args.data is None and args.calibration_images is None:
        samples, observations = kept_ranges(args.model) or (None, None)  # of a quantization-aware run
    if scheme.integer and samples is None:
        dataset = load_split(calibration_data(config, args.data, args.model), args.split)
        count = args.calibration_images or DEFAULT_IMAGES
        samples = load_calibration_images(dataset, config.model.input_size, count=count, seed=args.seed)
    elif args.data is not None or args.calibration_images is not None:
        raise UserError(f"--data and --calibration-images are for --format int8 and int16, not {args.format}")
    exported = export(
        detector,
        config,
        scheme,
        postprocess=args.postprocess,
        picture_size=args.picture_size,
        samples=samples,
        observations=observations,
        progress=True,
    )
    content = exported.model
    write_tflite(content, args.output)
    if exported.calibration is not None:
        write_calibration(exported.calibration, calibration_file(args.output))
        print(f"Calibrated with {exported.calibration.note()}: {calibration_file(args.output)}")
    inspection = inspect_model(content)
    operators = Counter(node.operator for node in inspection.nodes)
    print(f"TinyDet-{config.variant}, {detector.num_classes} classes, {config.model.input_size}x"
          f"{config.model.input_size}, {args.format}: {args.output}, {len(content) / 1e6:.1f} MB")  # fmt: skip
    print(f"{sum(operators.values())} operators, builtin only: "
          + ", ".join(f"{name} {count}" for name, count in operators.most_common()))  # fmt: skip
    print("\n".join(inspection.lines()))
    print(f"Next:\n  {command_text('detect')} --model {args.output} --source IMAGE")
