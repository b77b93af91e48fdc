"""Train a detector's backbone as an image classifier, for train --init.

The data is a folder a class, DIR/CLASS/IMAGE, or the same below DIR/train and DIR/val."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from pathlib import Path

from tinydet_lite.errors import UserError
from tinydet_tf.cli.options import log_to_terminal, seed
from tinydet_tf.commands import command_words
from tinydet_tf.config import VARIANTS, load_config

#: A multiple of 64, the coarsest stride, as every input size has to be; the usual 224 of classifiers is not one.
INPUT_SIZE = 192


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a folder of images a class")
    parser.add_argument("--variant", help=f"one of {', '.join(VARIANTS)} (default: the config's, else S)")
    parser.add_argument("--config", type=Path, metavar="F", help="a YAML file; its model: section says which backbone")
    parser.add_argument("--val-fraction", type=float, metavar="F", help="of each class, without a val/ (default: 0.1)")
    parser.add_argument("--epochs", type=int, default=100, metavar="N", help="passes over the images (default: 100)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images a step (default: 64)")
    parser.add_argument(
        "--learning-rate", type=float, default=0.002, metavar="F", help="at its highest (default: 0.002)"
    )
    parser.add_argument(
        "--input-size", type=int, default=INPUT_SIZE, metavar="N", help=f"pixels of a side (default: {INPUT_SIZE})"
    )
    parser.add_argument("--no-flip", action="store_true", help="never mirror, where it would change the class")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of all that is random (default: 0)")
    parser.add_argument("--output", type=Path, required=True, metavar="RUN", help="a new folder")
    return parser.parse_args()


def main() -> None:
    args = parse()
    log_to_terminal()
    config = load_config(args.config, variant=args.variant)
    dataclasses.replace(config.model, input_size=args.input_size)  # or refused, before the data is read
    if not args.data.is_dir():
        raise UserError(f"--data {args.data} is no folder; give one with a folder of images a class")

    from tinydet_tf.data.class_folders import read_class_folders
    from tinydet_tf.training.run.pretrain import BACKBONE, Recipe, pretrain

    recipe = Recipe(
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        horizontal_flip=not args.no_flip,
        seed=args.seed,
    )
    data = read_class_folders(args.data, val_fraction=args.val_fraction, seed=args.seed).usable()
    print(f"{len(data.class_names)} classes, {len(data.train.paths)} images to train on, {len(data.val.paths)} to "
          f"validate on; backbone {config.model.backbone}, {args.input_size}x{args.input_size}")  # fmt: skip
    best = pretrain(config, data, args.output, recipe, input_size=args.input_size)
    weights = args.output / BACKBONE
    print(f"Best epoch {best['epoch']}: accuracy {best['val_accuracy']:.3f} on the validation images")
    print(f"{weights}: the backbone of that epoch. Next:")
    command = [*command_words("train"), "--variant", config.variant]
    command += ["--config", str(args.config)] if args.config else []
    print(f"  {shlex.join([*command, '--init', str(weights)])} --data DIR")
