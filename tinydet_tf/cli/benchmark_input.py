"""Time the input pipeline of training, stage by stage, on one core."""

from __future__ import annotations

import argparse
from pathlib import Path

from tinydet_tf.cli.options import add_recipe, check_least, check_outputs, load_recipe, write_json


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe(parser, "data.augmentation=none")
    parser.add_argument("--images", type=int, default=200, metavar="N", help="read in each run (default: 200)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers")
    return parser.parse_args()


def main() -> None:
    args = parse()
    check_least(args, images=2)
    check_outputs(args.json)
    config = load_recipe(args)

    from tinydet_tf.analysis.throughput import measure_stages
    from tinydet_tf.data.pipeline import one_line
    from tinydet_tf.data.splits import load_split, preparation

    data = load_split(config.data, "train")
    with one_line():
        times = measure_stages(
            data,
            images=args.images,
            input_size=config.model.input_size,
            progress=True,
            **preparation(config.data),
        )
    total = sum(times.values())
    print(f"{len(data)} images, input {config.model.input_size}x{config.model.input_size}, one core")
    for name, seconds in times.items():
        print(f"  {name:16}{1e3 * seconds:8.2f} ms")
    print(f"  {'in all':16}{1e3 * total:8.2f} ms an image: {1 / total:.0f} images a second")
    write_json(args.json, {"seconds": times, "images_per_second": 1 / total})
