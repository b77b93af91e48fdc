"""Make the embedded digits set, an ordinary COCO-format folder, and say where it is."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from tinydet_lite.errors import UserError
from tinydet_lite.files import atomic_path
from tinydet_tf.cli.options import seed
from tinydet_tf.config import DataConfig
from tinydet_tf.data.digits import digits_folder


def parse() -> argparse.Namespace:
    defaults = DataConfig()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=seed, default=defaults.digits_seed, help="which set (default: %(default)s)")
    parser.add_argument(
        "--train-images",
        type=int,
        default=defaults.digits_train_images,
        metavar="N",
        help="scenes to train on (default: %(default)s)",
    )
    parser.add_argument(
        "--val-images",
        type=int,
        default=defaults.digits_val_images,
        metavar="N",
        help="scenes to validate on (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        default="320",
        metavar="N|WxH",
        help="of the images in pixels (default: 320); digits stay 8 to 64 pixels high",
    )
    parser.add_argument(
        "--density",
        type=float,
        default=1.0,
        metavar="F",
        help="how many digits an area holds, as a multiple of the usual 10 to 36 on 320x320",
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="default: TINYDET_CACHE or the user's cache")
    parser.add_argument("--sample", type=Path, metavar="F.jpg", help="copy the first validation image to F.jpg")
    return parser.parse_args()


def parse_size(text: str) -> int | tuple[int, int]:
    """'320' -> 320, '1920x1080' -> (1920, 1080)."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise UserError(f"--size {text} came; expected a side such as 320, or width and height such as 1920x1080")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def main() -> None:
    args = parse()
    folder = digits_folder(
        args.cache,
        seed=args.seed,
        num_train=args.train_images,
        num_val=args.val_images,
        image_size=parse_size(args.size),
        density=args.density,
    )
    if args.sample is not None:
        first = min((folder / "val" / "images").iterdir())
        with atomic_path(args.sample) as temporary:
            shutil.copyfile(first, temporary)
    print(folder)
