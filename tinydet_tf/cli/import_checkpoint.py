"""Turn the authors' published PyTorch weights (tinydet_{S,M,L}.pth, mobilenetv3_{d,bc}.pt) into Keras weights."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from tinydet_lite.errors import UserError, printable
from tinydet_tf.cli.options import check_variant, check_weights_output
from tinydet_tf.commands import command_text
from tinydet_tf.config import VARIANTS
from tinydet_tf.run_files import SUFFIX


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, metavar="IN", help="a .pth or .pt file")
    parser.add_argument("--variant", required=True, help=f"one of {', '.join(VARIANTS)}")
    parser.add_argument("--output", type=Path, required=True, metavar=f"OUT{SUFFIX}", help="the weights file to write")
    return parser.parse_args()


def main() -> None:
    args = parse()
    check_variant(args.variant)
    check_weights_output(args.output)
    if not args.checkpoint.exists():
        raise UserError(f"checkpoint {args.checkpoint} does not exist; give the .pth or .pt file")

    from tinydet_tf.checkpoints.published import import_published
    from tinydet_tf.weights import save_backbone, save_weights

    imported = import_published(args.checkpoint, args.variant)
    if imported.backbone_only:
        save_backbone(imported.detector, imported.config, args.output)
        what = f"the backbone of TinyDet-{args.variant} ({imported.config.model.backbone}) alone"
    else:
        save_weights(imported.detector, imported.config, args.output)
        what = f"TinyDet-{args.variant}, {imported.detector.num_classes} classes"
    print(f"{args.output}: {what}")
    if args.variant in ("M", "L") and not imported.backbone_only:
        print("M and L have the same shapes: nothing in the file says which it is, --variant decides")
    print(f"{imported.num_tensors} tensors used, {imported.num_parameters:,} trainable parameters")
    if imported.left_out:
        print(f"{len(imported.left_out)} tensors left out, not of the backbone:")
        for name in imported.left_out:
            print(f"  {printable(name)}")
    file = shlex.quote(str(args.output))
    print("Next:")
    if not imported.backbone_only:
        tflite = args.output.with_name(args.output.name.removesuffix(SUFFIX) + ".tflite")
        print(f"  {command_text('evaluate')} --model {file} --data DIR")
        print(f"  {command_text('export')} --model {file} --output {shlex.quote(str(tflite))}")
    print(f"  {command_text('train')} --variant {args.variant} --init {file} --data DIR")
