"""Export a run or weights file to one .tflite that needs builtin operators only."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

from tinydet_lite.errors import UserError
from tinydet_lite.metadata import DEFAULT_THRESHOLD, POSTPROCESS
from tinydet_tf.cli.options import add_model, check_least, check_outputs, check_variant, seed
from tinydet_tf.commands import command_text
from tinydet_tf.data.labelled import SPLIT_CHOICES


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model(parser)
    parser.add_argument(
        "--format",
        choices=("float32", "float16", "dynamic", "int8", "int16"),
        default="float32",
        help="of weights and arithmetic (default: %(default)s)",
    )
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
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="0..1",
        help="the score from which the file's user sees detections, unless told otherwise (default: the one with the "
        "best F1 on the run's validation images)",
    )
    parser.add_argument(
        "--proposals",
        type=int,
        metavar="N",
        help="how many boxes the second stage looks at (default: the run's, 200): 100 take 0.93 of the time in int8 "
        "and are enough for pictures of few objects; evaluate says what they cost",
    )
    calibration = parser.add_argument_group("images that int8 and int16 take their ranges from")
    calibration.add_argument(
        "--data", "--calibration", metavar="DIR", help="as in train (default: what the run was trained on)"
    )
    calibration.add_argument("--split", choices=SPLIT_CHOICES, help="of --data (default: train)")
    calibration.add_argument("--calibration-images", type=int, metavar="N", help="how many of them (default: 128)")
    calibration.add_argument("--seed", type=seed, help="which of them (default: 0)")
    parser.add_argument("--output", type=Path, required=True, metavar="X.tflite", help="the file to write")
    return parser.parse_args()


def size(text: str) -> tuple[int, int]:
    """'640x480' -> (640, 480)."""
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not WxH in pixels, for example 640x480")
    return int(found[1]), int(found[2])


def told(threshold: float | None, *, measured: bool) -> str:
    """What the file says about scores, for people."""
    if threshold is None:
        return (
            f"Score threshold in the file: none, users get {DEFAULT_THRESHOLD:g}; {command_text('evaluate')} --report "
            "measures the best one, --threshold puts one in"
        )
    source = "the best F1 on the validation images" if measured else "as given"
    return f"Score threshold in the file: {threshold:g}, {source}"


def main() -> None:
    args = parse()
    check_variant(args.variant)
    check_least(args, calibration_images=1, proposals=1)
    if args.threshold is not None and not 0.0 <= args.threshold <= 1.0:
        raise UserError(f"--threshold is {args.threshold:g}; give a score from 0 to 1")
    if args.picture_size is not None and args.postprocess != "tasks":
        raise UserError("--picture-size is for --postprocess tasks: the host sees how large the picture is")
    check_outputs(args.output)

    from tinydet_lite.lab.inspection import inspect_model
    from tinydet_tf.api import export
    from tinydet_tf.export.calibration import calibration_file

    exported = export(
        args.model,
        args.output,
        format=args.format,
        postprocess=args.postprocess,
        picture_size=args.picture_size,
        threshold=args.threshold,
        proposals=args.proposals,
        data=args.data,
        split=args.split,
        calibration_images=args.calibration_images,
        seed=args.seed,
        variant=args.variant,
        progress=True,
    )
    config, content, calibration = exported.config, exported.quantized.model, exported.quantized.calibration
    if calibration is not None:
        print(f"Calibrated with {calibration.note()}: {calibration_file(args.output)}")
    print(f"TinyDet-{config.variant}, {len(config.class_names)} classes, {config.model.input_size}x"
          f"{config.model.input_size}, {args.format}: {args.output}, {len(content) / 1e6:.1f} MB")  # fmt: skip
    inspection = inspect_model(content)
    print(f"{len(inspection.nodes)} operators, builtin only: every TFLite runtime takes the file "
          f"({command_text('profile')} has the list)")  # fmt: skip
    print(told(exported.threshold, measured=args.threshold is None))
    model = shlex.quote(str(args.output))
    print("Next:")
    if calibration is not None:
        data = shlex.quote(args.data or config.data.root or "DIR")
        print(f"  {command_text('evaluate')} --model {model} --data {data}    # against the run's AP: what it costs")
    print(f"  {command_text('detect')} --model {model} --source IMAGE")
