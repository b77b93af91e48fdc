"""Measure where each pyramid level looks: the effective receptive field against the anchors (the paper's figure 3)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_write, check_target
from tinydet_tf.config import VARIANTS, Config, DataConfig, load_config

if TYPE_CHECKING:
    from tinydet_tf.analysis.receptive_field import LevelField

#: Minutes for M on two cores; the aligned rows' standard errors are then 0.2 to 0.6 pixels.
RANDOM_DRAWS = 4
IMAGE_DRAWS = 32
MAX_SIZE = 4096

Rows = list[tuple[str, list["LevelField"]]]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Without --model: random weights, without alignment, as published, and with the stem aligned too. With "
        "--model: its own weights on real images, in the one setting that it was trained in.",
    )
    parser.add_argument("--variant", help=f"one of {', '.join(VARIANTS)} (default: S, or what --model says)")
    parser.add_argument("--config", type=Path, metavar="F", help="a YAML whose model section is measured")
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="for example model.anchor_scale=4")
    draws = f"pairs of random weights (default {RANDOM_DRAWS}), or images of --model ({IMAGE_DRAWS})"
    parser.add_argument("--draws", type=int, metavar="N", help=draws)
    parser.add_argument("--seed", type=int, default=0)
    size = "measure on N x N pixels (default: 768, where next to nothing is cut off; of --model its own)"
    parser.add_argument("--input-size", type=int, metavar="N", help=size)
    parser.add_argument("--through-gates", action="store_true", help="differentiate squeeze-and-excite gates too")
    parser.add_argument("--unpaired", action="store_true", help="independent draws instead of antithetic pairs")
    parser.add_argument("--model", type=Path, metavar="RUN|WEIGHTS", help="instead of random weights")
    parser.add_argument("--data", metavar="DIR", help="images for --model, as in train (default: the digits)")
    parser.add_argument("--figure", type=Path, metavar="OUT.png")
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args()


def check(args: argparse.Namespace) -> None:
    """Raises a UserError for what can be refused before TensorFlow is loaded."""
    if args.variant is not None and args.variant not in VARIANTS:
        raise UserError(f"variant {args.variant!r} does not exist; choose one of {', '.join(VARIANTS)}")
    if args.draws is not None and args.draws < 1:
        raise UserError(f"--draws is {args.draws}; give at least 1")
    if args.seed < 0:
        raise UserError(f"--seed is {args.seed}; give 0 or more")
    if args.input_size is not None and (args.input_size % 64 or not 64 <= args.input_size <= MAX_SIZE):
        # 64 is the coarsest stride of every backbone.
        raise UserError(f"--input-size is {args.input_size}; give a multiple of 64 up to {MAX_SIZE}")
    if args.figure is not None and args.figure.suffix != ".png":
        raise UserError(f"--figure {args.figure}: only PNG is written; end the name in .png")
    for target in (args.figure, args.json):
        if target is not None:
            check_target(target)
    if args.model is None:
        if args.data is not None:
            raise UserError("--data belongs to --model; random weights are measured on noise")
        if any(assignment.startswith(("model.align=", "model.align_stem=")) for assignment in args.set):
            raise UserError("--set model.align: the alignments are what is compared; leave it out")
    else:
        if args.config is not None or args.set or args.unpaired:
            raise UserError("--config, --set and --unpaired belong to random weights; leave them out with --model")
        if not args.model.exists():
            raise UserError(f"model {args.model} does not exist; give a run folder or a .weights.h5 file")


def measure_random_weights(args: argparse.Namespace, config: Config) -> tuple[Rows, int, int]:
    """The rows, the measured size and the number of draws."""
    from tinydet_tf.analysis import receptive_field as rf

    model, draws, size = config.model, args.draws or RANDOM_DRAWS, args.input_size or rf.CANVAS
    rows: Rows = []
    for alignment in rf.alignments(model):
        fields = rf.measure_random(
            rf.random_pyramid(model, alignment),
            model.strides,
            alignment,
            draws=draws,
            seed=args.seed,
            size=size,
            through_gates=args.through_gates,
            paired=not args.unpaired,
        )
        print(f"\n{alignment.name}\n{rf.table(fields)}", flush=True)
        rows.append((alignment.name, fields))
    return rows, size, draws


def measure_model(args: argparse.Namespace) -> tuple[Rows, int, int, Config]:
    """As `measure_random_weights`, and the model's configuration."""
    from tinydet_lite.preprocess import resize_to
    from tinydet_tf.analysis import receptive_field as rf
    from tinydet_tf.data.pipeline import load_arrays
    from tinydet_tf.data.splits import load_split
    from tinydet_tf.weights import load_detector

    detector, config = load_detector(args.model, variant=args.variant)
    size = args.input_size or config.model.input_size
    dataset = load_split(DataConfig(root=args.data, limit=args.draws or IMAGE_DRAWS), "val")
    print(f"{args.model}: TinyDet-{config.variant} on {len(dataset)} images of {dataset.annotation_file}")
    fields = rf.measure_images(
        detector,
        (resize_to(load_arrays(image)[0], size) for image in dataset.images),
        seed=args.seed,
        through_gates=args.through_gates,
    )
    name = rf.alignment_of(config.model).name
    print(f"\n{name} (a model has one setting)\n{rf.table(fields)}")
    if size <= config.model.input_size:
        print(f"{size} pixels cut the coarse fields off, which pulls their centroids in: --input-size 768 does not.")
    return [(name, fields)], size, len(dataset), config


def main() -> None:
    args = parse()
    check(args)
    if args.model is None:
        config = load_config(args.config, variant=args.variant, assignments=args.set)
        print(f"TinyDet-{config.variant}, random weights. Offsets: ERF centroid - anchor centre, in pixels")
        rows, size, draws = measure_random_weights(args, config)
    else:
        rows, size, draws, config = measure_model(args)

    from tinydet_tf.analysis import receptive_field as rf

    if args.figure is not None:
        what = "random weights" if args.model is None else "trained weights"
        # The row with the stem too looks like the published one; the table tells them apart.
        rf.draw_figure(
            args.figure,
            rows[:2],
            window=config.model.input_size,
            anchor_scale=config.model.anchor_scale,
            title=f"TinyDet-{config.variant}, {what}: effective receptive field and offset of its centroid (x, y), "
            f"{config.model.input_size} x {config.model.input_size} pixels around the anchor centre",
        )
        print(f"Written: {args.figure}")
    if args.json is not None:
        content = {
            "variant": config.variant,
            "weights": "random" if args.model is None else str(args.model),
            "input_size": size,
            "draws": draws,
            "seed": args.seed,
            "gates": "differentiated" if args.through_gates else "constant",
            "settings": [{"name": name, "levels": rf.as_json(fields)} for name, fields in rows],
        }
        # strict JSON has no NaN
        atomic_write(args.json, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
        print(f"Written: {args.json}")
