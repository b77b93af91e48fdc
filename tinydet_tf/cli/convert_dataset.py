"""Convert a Pascal VOC or YOLO data set to COCO's json; the images stay where they are.

train --data reads such folders itself. This is for data without a val split, and for other tools."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from tinydet_lite.errors import UserError
from tinydet_tf.commands import command_words


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, metavar="DIR", help="the folder, or YOLO's data.yaml")
    parser.add_argument("--output", type=Path, required=True, metavar="OUT", help="for {train,val,test}/instances.json")
    parser.add_argument("--format", choices=("voc", "yolo", "auto"), default="auto")
    parser.add_argument(
        "--val-fraction", type=float, metavar="F", help="of the images, for val, where the data has no val split"
    )
    parser.add_argument(
        "--voc-first-pixel", type=int, choices=(0, 1), default=1,
        help="what VOC's boxes count from; 0: xmin..xmax are corners (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="what decides which images are for val (default: 0)")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if not args.input.exists():
        raise UserError(f"--input {args.input} does not exist; give a Pascal VOC or YOLO folder, or a data.yaml")
    if args.seed < 0:
        raise UserError(f"--seed is {args.seed}; give 0 or more")

    from tinydet_lite.files import atomic_write
    from tinydet_tf.data.convert import ANNOTATION_FILE, coco_split, open_folder, train_and_val

    folder = open_folder(
        args.input, None if args.format == "auto" else args.format, voc_first_pixel=args.voc_first_pixel
    )
    if folder is None:
        wanted = {"voc": "Pascal VOC", "yolo": "YOLO", "auto": "Pascal VOC or YOLO"}[args.format]
        raise UserError(
            f"--input {args.input} is no {wanted} data set; VOC has Annotations/ and JPEGImages/, YOLO a data.yaml or "
            "images/ and labels/"
        )
    splits = {
        split: coco_split(folder, images)
        for split, images in train_and_val(folder, args.val_fraction, args.seed).items()
    }
    targets = {split: args.output / split / ANNOTATION_FILE for split in splits}
    for target in targets.values():
        if target.exists():
            raise UserError(f"{target} is there already; give another --output or remove it")
    command = command_words("train")
    for split, converted in splits.items():
        targets[split].parent.mkdir(parents=True, exist_ok=True)
        atomic_write(targets[split], converted.to_bytes())
        boxes = converted.document["annotations"]
        print(
            f"{split}: {len(converted.document['images'])} images, {len(boxes)} boxes, "
            f"{sum(box['iscrowd'] for box in boxes)} of them ignored: {targets[split]}"
        )
        if split != "test":
            command += [f"--{split}-json", str(targets[split]), f"--{split}-images", str(converted.image_dir)]
    print(f"{len(folder.class_names)} classes: {', '.join(folder.class_names)}")
    print("To train on it:")
    print(f"  {shlex.join(command)}")
