#!/usr/bin/env python3
"""From a folder of labelled pictures to a trained detector and pictures with boxes.

    python examples/train_on_your_folder.py DIR --epochs 100 --output runs/mine

DIR is in COCO's, Pascal VOC's or YOLO's format (docs/data.md).
"""

import argparse
from pathlib import Path

from tinydet_lite import draw
from tinydet_lite.cli import run
from tinydet_tf import api
from tinydet_tf.config import DataConfig
from tinydet_tf.data.splits import load_split

PICTURES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DIR")
    parser.add_argument("--variant", default="S", help="S, M or L (default: S)")
    parser.add_argument("--epochs", type=int, default=100, metavar="N", help="(default: 100)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="(default: 16)")
    parser.add_argument("--input-size", type=int, default=320, metavar="N", help="a multiple of 64 (default: 320)")
    parser.add_argument("--output", type=Path, default=Path("runs/mine"), metavar="RUN", help="(default: runs/mine)")
    args = parser.parse_args()

    settings = {
        "train.epochs": args.epochs,
        "train.batch_size": args.batch_size,
        "model.input_size": args.input_size,
    }
    api.train(variant=args.variant, data=args.data, output=args.output, settings=settings)

    evaluation = api.evaluate(args.output, args.data, progress=True)
    print(evaluation.table())

    # A few pictures of the validation split, with what the detector finds in them at its own score threshold.
    detector = api.load_detector(args.output)
    for image in load_split(DataConfig(root=args.data), "val").images[:PICTURES]:
        target = args.output / f"{image.path.stem}_detected.png"
        draw(image.path, detector.predict(image.path)).save(target)
        print(f"Written: {target}")


if __name__ == "__main__":
    run(main)
