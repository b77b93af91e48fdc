"""Measure where each pyramid level looks: the effective receptive field against the anchors (the paper's figure 3)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tinydet_lite.errors import UserError
from tinydet_tf.cli.options import add_set, check_least, check_outputs, check_variant, seed, write_json
from tinydet_tf.config import VARIANTS, Config, load_config

if TYPE_CHECKING:
    from tinydet_tf.analysis.receptive_field import LevelField

#: Minutes for M on two cores; the aligned rows' standard errors are then 0.2 to 0.6 pixels.
DRAWS = 4
MAX_SIZE = 4096

Rows = list[tuple[str, list["LevelField"]]]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Of random weights, without alignment, as published, and with the stem aligned too.",
    )
    parser.add_argument("--variant", help=f"one of {', '.join(VARIANTS)} (default: S)")
    parser.add_argument("--config", type=Path, metavar="F", help="a YAML whose model section is measured")
    add_set(parser, "model.anchor_scale=4")
    parser.add_argument("--draws", type=int, default=DRAWS, metavar="N", help=f"pairs of weights (default {DRAWS})")
    parser.add_argument("--seed", type=seed, default=0, help="of the random weights and pictures (default: 0)")
    size = "measure on N x N pixels (default: 768, where next to nothing is cut off)"
    parser.add_argument("--input-size", type=int, metavar="N", help=size)
    parser.add_argument("--figure", type=Path, metavar="OUT.png", help="draw the fields, as in figure 3")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers")
    return parser.parse_args()


def check(args: argparse.Namespace) -> None:
    """Raises a UserError for what can be refused before TensorFlow is loaded."""
    check_variant(args.variant)
    check_least(args, draws=1)
    if args.input_size is not None and (args.input_size % 64 or not 64 <= args.input_size <= MAX_SIZE):
        # 64 is the coarsest stride of every backbone.
        raise UserError(f"--input-size is {args.input_size}; give a multiple of 64 up to {MAX_SIZE}")
    if args.figure is not None and args.figure.suffix != ".png":
        raise UserError(f"--figure {args.figure}: only PNG is written; end the name in .png")
    check_outputs(args.figure, args.json)
    if any(assignment.startswith(("model.align=", "model.align_stem=")) for assignment in args.assignments):
        raise UserError("--set model.align: the alignments are what is compared; leave it out")


def measure(args: argparse.Namespace, config: Config, size: int) -> Rows:
    """A row an alignment, printed as it comes."""
    from tinydet_tf.analysis import receptive_field as rf

    model = config.model
    rows: Rows = []
    for alignment in rf.alignments(model):
        fields = rf.measure_random(
            rf.random_pyramid(model, alignment),
            model.strides,
            alignment,
            draws=args.draws,
            seed=args.seed,
            size=size,
            progress=True,
        )
        print(f"\n{alignment.name}\n{rf.table(fields)}", flush=True)
        rows.append((alignment.name, fields))
    return rows


def main() -> None:
    args = parse()
    check(args)
    config = load_config(args.config, variant=args.variant, assignments=args.assignments)
    print(f"TinyDet-{config.variant}, random weights. Offsets: ERF centroid - anchor centre, in pixels")

    from tinydet_tf.analysis import receptive_field as rf

    size = args.input_size or rf.CANVAS
    rows = measure(args, config, size)
    if args.figure is not None:
        # The row with the stem too looks like the published one; the table tells them apart.
        rf.draw_figure(
            args.figure,
            rows[:2],
            window=config.model.input_size,
            anchor_scale=config.model.anchor_scale,
            title=f"TinyDet-{config.variant}, random weights: effective receptive field and offset of its centroid "
            f"(x, y), {config.model.input_size} x {config.model.input_size} pixels around the anchor centre",
        )
        print(f"Written: {args.figure}")
    content = {
        "variant": config.variant,
        "input_size": size,
        "draws": args.draws,
        "seed": args.seed,
        "settings": [{"name": name, "levels": rf.as_json(fields)} for name, fields in rows],
    }
    write_json(args.json, content)
