"""Turn the ImageNet weights of Keras's MobileNetV2 or MobileNetV3Large into a backbone file for train --init."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from tinydet_lite.errors import UserError
from tinydet_lite.files import check_target
from tinydet_tf.commands import command_text
from tinydet_tf.config import VARIANTS, model_config

#: As tinydet_tf.weights.SUFFIX, which would wait for TensorFlow.
SUFFIX = ".weights.h5"
BACKBONES = ("mobilenetv2", "mobilenetv3large")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True, help=f"one of {', '.join(BACKBONES)}")
    parser.add_argument(
        "--weights", default="imagenet", metavar="FILE.h5", help="Keras's file (default: imagenet, Keras downloads it)"
    )
    parser.add_argument("--variant", default="M", help=f"one of {', '.join(VARIANTS)} (default: M)")
    parser.add_argument("--output", type=Path, required=True, metavar=f"OUT{SUFFIX}")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.backbone not in BACKBONES:
        raise UserError(f"--backbone {args.backbone} is not one of Keras's; choose one of {', '.join(BACKBONES)}")
    model_config(args.variant, backbone=args.backbone)
    if not args.output.name.endswith(SUFFIX):
        raise UserError(f"--output {args.output} does not end in {SUFFIX}; give it that ending")
    check_target(args.output)
    if args.weights != "imagenet" and not Path(args.weights).is_file():
        raise UserError(f"--weights {args.weights} does not exist; give imagenet or an .h5 file of Keras's network")

    from tinydet_tf.checkpoints.keras_applications import import_application
    from tinydet_tf.weights import save_backbone

    imported = import_application(args.backbone, args.weights, args.variant)
    save_backbone(imported.detector, imported.config, args.output)
    print(f"{args.output}: the backbone {args.backbone} alone")
    print(
        f"{len(imported.taken)} layers taken; fresh, because Keras's network ends before: {', '.join(imported.fresh)}"
    )
    model = imported.config.model
    print("Next (with --set model.align=false the network starts as exactly Keras's):")
    print(f"  {command_text('train')} --variant {args.variant} --set model.backbone={model.backbone} "
          f"--init {shlex.quote(str(args.output))} --data DIR")  # fmt: skip
