"""Draw a training batch with its boxes, as the network sees it: look at it before a long run."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_path
from tinydet_tf.cli.options import add_recipe, check_least, check_outputs, load_recipe
from tinydet_tf.commands import command_text
from tinydet_tf.data.labelled import SPLIT_CHOICES


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe(parser, "data.augmentation=none")
    parser.add_argument("--split", choices=SPLIT_CHOICES, default="train", help="of --data (default: %(default)s)")
    parser.add_argument("--images", type=int, default=8, metavar="N", help="how many (default: 8)")
    parser.add_argument("--columns", type=int, default=4, metavar="N", help="how many side by side (default: 4)")
    parser.add_argument("--output", type=Path, required=True, metavar="OUT.jpg", help="the picture to write")
    return parser.parse_args()


def main() -> None:
    args = parse()
    check_least(args, images=1, columns=1)
    if args.output.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise UserError(f"--output {args.output} does not end in .jpg or .png; give it that ending")
    check_outputs(args.output)
    config = load_recipe(args)

    from tinydet_tf.data.pipeline import build_pipeline, one_line
    from tinydet_tf.data.show import draw_batch
    from tinydet_tf.data.splits import load_split, preparation

    dataset = load_split(config.data, args.split)
    batches = build_pipeline(
        dataset,
        input_size=config.model.input_size,
        batch_size=1,
        training=True,
        seed=config.train.seed,
        **preparation(config.data),
    )
    # More images than the data has: the next epoch's, drawn anew.
    with one_line():
        batch = {name: value.numpy() for name, value in next(iter(batches.repeat().rebatch(args.images))).items()}
    picture = draw_batch(batch, dataset.class_names, columns=min(args.columns, args.images))
    with atomic_path(args.output) as temporary:
        picture.save(temporary, quality=85)
    print(f"Written: {args.output}, {args.images} images, {int(batch['gt_mask'].sum())} boxes")
    if args.data is not None and args.config is None and not args.assignments:
        print(f"Next, if this is what shall be learnt:\n  {command_text('train')} --data {shlex.quote(args.data)}")
