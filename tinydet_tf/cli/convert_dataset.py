"""Convert a Pascal VOC or YOLO data set to COCO's json, or divide one; the images stay where they are.

train --data reads such folders itself. This is for data without a val split, and for other tools."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from pathlib import Path

from tinydet_lite.errors import UserError
from tinydet_tf.cli.options import seed
from tinydet_tf.commands import command_words


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, metavar="DIR", help="the folder, or YOLO's data.yaml")
    parser.add_argument("--output", type=Path, required=True, metavar="OUT", help="for {train,val,test}/instances.json")
    parser.add_argument(
        "--format", choices=("coco", "voc", "yolo", "auto"), default="auto", help="of the input (default: %(default)s)"
    )
    parser.add_argument(
        "--val-fraction", type=float, metavar="F", help="of the images, for val, where the data has no val split"
    )
    parser.add_argument(
        "--voc-first-pixel", type=int, choices=(0, 1), default=1,
        help="what VOC's boxes count from; 0: xmin..xmax are corners (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=seed, default=0, help="what decides which images are for val (default: 0)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if not args.input.exists():
        raise UserError(f"--input {args.input} does not exist; give a COCO, Pascal VOC or YOLO folder, or a data.yaml")

    from tinydet_lite.files import atomic_path
    from tinydet_tf.data.convert import ANNOTATION_FILE, coco_split, is_set, open_folder, set_below, train_and_val
    from tinydet_tf.data.divide import divide_coco, is_coco

    source = args.input
    if source.is_dir() and not is_set(source):
        source = set_below(source) or source
    if args.format in ("coco", "auto") and is_coco(source):
        splits = divide_coco(source, args.val_fraction, args.seed)
    else:
        folder = None
        if args.format != "coco":
            chosen = None if args.format == "auto" else args.format
            folder = open_folder(source, chosen, voc_first_pixel=args.voc_first_pixel)
        if folder is None:
            formats = {"coco": "COCO", "voc": "Pascal VOC", "yolo": "YOLO", "auto": "COCO, Pascal VOC or YOLO"}
            raise UserError(
                f"--input {args.input} is no {formats[args.format]} data set; VOC has Annotations/ and JPEGImages/, "
                "YOLO a data.yaml or images/ and labels/; docs/data.md has all that is known"
            )
        parts = train_and_val(folder, args.val_fraction, args.seed)
        splits = {split: coco_split(folder, images) for split, images in parts.items()}
    targets = {split: args.output / split / ANNOTATION_FILE for split in splits}
    for target in targets.values():
        if target.exists():
            raise UserError(f"{target} is there already; give another --output or remove it")
        if target.parent.exists() and not target.parent.is_dir():
            raise UserError(f"{target.parent} is no folder; give another --output or remove it")
    with contextlib.ExitStack() as all_or_none:
        for split, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            all_or_none.enter_context(atomic_path(target)).write_bytes(splits[split].to_bytes())
    command = command_words("train")
    for split, converted in splits.items():
        boxes = converted.document["annotations"]
        print(
            f"{split}: {len(converted.document['images'])} images, {len(boxes)} boxes, "
            f"{sum(bool(box.get('iscrowd')) for box in boxes)} of them ignored: {targets[split]}"
        )
        if split != "test":
            command += [f"--{split}-json", str(targets[split]), f"--{split}-images", str(converted.image_dir)]
    classes = [category["name"] for category in splits["train"].document["categories"]]
    print(f"{len(classes)} classes: {', '.join(classes)}")
    print("To train on it:")
    print(f"  {shlex.join(command)}")
