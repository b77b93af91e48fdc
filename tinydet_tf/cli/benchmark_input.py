"""Time the input pipeline of training, stage by stage, on one core."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_write, check_target
from tinydet_tf.config import assignment, load_config


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, metavar="F", help="the recipe (default: the defaults)")
    parser.add_argument("--data", metavar="DIR", help="as in train (default: the embedded digits set)")
    parser.add_argument("--images", type=int, default=200, metavar="N", help="read in each run (default: 200)")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument(
        "--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE",
        help="override a config key, for example data.augmentation=ssd (may be repeated)",
    )  # fmt: skip
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.images < 2:
        raise UserError(f"--images is {args.images}; give at least 2")
    if args.json is not None:
        check_target(args.json)
    given = [] if args.data is None else [assignment("data.root", args.data)]
    config = load_config(args.config, assignments=given + args.assignments)

    from tinydet_tf.analysis.throughput import measure_stages
    from tinydet_tf.data.pipeline import one_line
    from tinydet_tf.data.splits import load_split, preparation

    data = load_split(config.data, "train")
    with one_line():
        times = measure_stages(data, images=args.images, input_size=config.model.input_size, **preparation(config.data))
    total = sum(times.values())
    print(f"{len(data)} images, input {config.model.input_size}x{config.model.input_size}, one core")
    for name, seconds in times.items():
        print(f"  {name:16}{1e3 * seconds:8.2f} ms")
    print(f"  {'in all':16}{1e3 * total:8.2f} ms an image: {1 / total:.0f} images a second")
    if args.json is not None:
        content = {"seconds": times, "images_per_second": 1 / total}
        atomic_write(args.json, (json.dumps(content, indent=2) + "\n").encode())
